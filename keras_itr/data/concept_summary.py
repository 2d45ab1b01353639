"""A concept graph for people: rows, strongest edges, and JSON that can be read."""

import json

import numpy as np


def describe(graph, neighbours):
    """What there is to know of a graph, as plain values.

    Args:
        graph: a `ConceptGraph`.
        neighbours: int, the most neighbours of a concept.

    Returns:
        dict of `settings`, `num_concepts`, `num_edges` and `concepts`: a list of
        dicts of `concept`, `class`, `count` and `neighbours`, dict of word to
        `P(j|i)`, strongest first, equal ones in the order of the concepts.
    """
    strength = graph.conditional()
    order = np.argsort(-strength, axis=1, kind="stable")[:, :neighbours]
    rows = [
        {
            "concept": concept,
            "class": graph.classes[i],
            "count": int(graph.counts[i]),
            "neighbours": {graph.concepts[j]: round(float(strength[i, j]), 4) for j in order[i] if strength[i, j]},
        }
        for i, concept in enumerate(graph.concepts)
    ]
    head = {"settings": dict(sorted(graph.settings.items())), "num_concepts": len(rows), "num_edges": graph.num_edges}
    return {**head, "concepts": rows}


def as_text(description):
    """JSON with one line per concept: three hundred of them stay readable."""
    head = {key: value for key, value in description.items() if key != "concepts"}
    lines = [f" {json.dumps(key)}: {_json(value)}," for key, value in head.items()]
    rows = ",\n".join(f"  {_json(row)}" for row in description["concepts"])
    return "\n".join(["{", *lines, f' "concepts": [\n{rows}\n ]', "}\n"])


def strongest_edges(graph, count):
    """list of `(concept, neighbour, P(neighbour|concept))`, strongest first, at most `count` of them."""
    strength = graph.conditional()
    best = np.argsort(-strength, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(strength)) for place in best]
    return [(graph.concepts[i], graph.concepts[j], float(strength[i, j])) for i, j in pairs if strength[i, j]]


def _json(value):
    return json.dumps(value, ensure_ascii=False)
