"""The captions of the `shapes` set: first a formula that is true of the scene, then words for it."""

import dataclasses

import numpy as np

from keras_itr.data.hashing import hash64, integers, uniform
from keras_itr.data.shapes_scenes import COLOUR, FILL, SHAPE, SIZE

CAPTIONS_PER_SCENE = 5

# How many objects a caption mentions, by the number of objects there are: sixteen equally likely outcomes.
_MENTIONED = np.array([[1] * 16, [1] + [2] * 15, [1] + [2] * 7 + [3] * 8], np.int8)

_WORDS = {  # first index: the attribute's value; second: synonyms
    SHAPE: (
        ("circle", "round shape"),
        ("square", "box"),
        ("triangle",),
        ("diamond", "rhombus"),
        ("cross", "plus sign"),
        ("heart",),
    ),
    COLOUR: (("red",), ("orange",), ("yellow",), ("green",), ("cyan", "turquoise"), ("blue",), ("pink",), ("black",)),
    SIZE: (("small", "little", "tiny"), ("large", "big", "huge")),
    FILL: (("solid", "filled"), ("hollow", "outlined")),
}
_NAMELESS = ("thing", "object")
_ADJECTIVE_ORDERS = ((SIZE, COLOUR, FILL), (SIZE, FILL, COLOUR), (FILL, SIZE, COLOUR))
_RELATION_WORDS = (
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("above", "over", "higher than"),
    ("below", "under", "lower than"),
)
_ONE = ("{0}", "there is {0}", "a picture of {0}", "an image with {0}")
_TWO = ("{0} and {1}", "there is {0} and {1}", "{0} together with {1}", "a picture of {0} and {1}")
_RELATED = ("{0} {r} {1}", "{0} is {r} {1}", "there is {0} {r} {1}", "{r} {1} there is {0}")
_THREE = (
    "{0}, {1} and {2}",
    "there is {0}, {1} and {2}",
    "{0} and {1} together with {2}",
    "a picture of {0}, {1} and {2}",
)
_RELATED_AND_ONE = (
    "{0} {r} {1}, and {2}",
    "{0} is {r} {1}, and there is {2}",
    "{2}, and {0} {r} {1}",
    "there is {0} {r} {1}, along with {2}",
)
_CHAIN = ("{0} {r} {1} which is {s} {2}", "{0} is {r} {1}, which is {s} {2}")
_FORK = ("{1} is {q} {0} and {s} {2}", "there is {1} {q} {0} and {s} {2}")


@dataclasses.dataclass(frozen=True)
class Formulas:
    """T formulas as arrays: "there are `mentioned` distinct objects such that all these facts hold".

    Attributes:
        attributes: int8 (T, 3, 4), what is said of each variable, columns as in `Scenes.attributes`; -1 if not said.
        mentioned: int8 (T,), number of variables, 1 to 3.
        relations: int8 (T, 2), what variable 0 is to variable 1, and 1 to 2; -1 if not said.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.shapes import Formulas, write_captions

    red_circle, thing = [0, 0, -1, -1], [-1, -1, -1, -1]
    formula = Formulas(np.array([[red_circle, thing, thing]]), np.array([2]), np.array([[0, -1]]))
    write_captions(formula, "test")  # some words for: a red circle is left of a thing
    ```

    Source: our choice.
    """

    attributes: np.ndarray
    mentioned: np.ndarray
    relations: np.ndarray

    def __len__(self):
        return len(self.mentioned)

    @property
    def num_facts(self):
        """int64 (T,): every variable's existence, every attribute and every relation is one atomic fact."""
        return self.mentioned + (self.attributes >= 0).sum(axis=(1, 2)) + (self.relations >= 0).sum(axis=1)


def draw_formulas(scenes, split, asymmetry=0.2, seed=0):
    """Draw five formulas per scene, each true of it.

    A formula mentions one to three of the objects in random order; each attribute of a mentioned object, and each
    relation between neighbours in that order, is dropped with probability `asymmetry`. If every attribute fell, the
    first object's colour is kept. A larger `asymmetry` drops a superset of what a smaller one drops.

    Args:
        scenes: `Scenes` of length N, the first N of `split`.
        split: name of the split, a key of the draws.
        asymmetry: probability in [0, 1), default 0.2.
        seed: integer, default 0.

    Returns:
        `Formulas` of length 5 N; formula t belongs to scene t // 5.

    Raises:
        ValueError: `asymmetry` is outside [0, 1).

    Example:

    ```python
    from keras_itr.data.shapes import draw_formulas, generate_scenes

    draw_formulas(generate_scenes("test", num_scenes=10), "test").num_facts  # of 50 captions
    ```

    Source: our choice; "asymmetry" is the difference of what image and caption tell.
    """
    if not 0 <= asymmetry < 1:
        raise ValueError(
            f"`asymmetry` is the probability of dropping an attribute, from 0 to below 1; got {asymmetry}."
        )
    key = (seed, split, "formula")
    index = np.arange(CAPTIONS_PER_SCENE * len(scenes))
    scene, slots = index // CAPTIONS_PER_SCENE, np.arange(3)
    present = scenes.attributes[scene, :, 0] >= 0

    rank = np.where(present, hash64(*key, "order", index[:, None], slots) >> np.uint64(1), ~np.uint64(0))
    order = np.argsort(rank, axis=1, kind="stable")  # empty slots last
    mentioned = _MENTIONED[present.sum(axis=1) - 1, integers(16, *key, "mentioned", index)]
    there = slots < mentioned[:, None]

    said = uniform(*key, "attribute", index[:, None, None], slots[:, None], np.arange(4)) >= asymmetry
    said &= there[:, :, None]
    said[:, 0, COLOUR] |= ~said.any(axis=(1, 2))
    attributes = np.where(said, scenes.attributes[scene[:, None], order], -1).astype(np.int8)
    said = (uniform(*key, "relation", index[:, None], slots[:2]) >= asymmetry) & there[:, 1:]
    relations = scenes.relations[scene[:, None], order[:, :2], order[:, 1:]]
    return Formulas(attributes, mentioned, np.where(said, relations, -1).astype(np.int8))


def write_captions(formulas, split, seed=0):
    """Words for formulas: templates, synonyms, adjective orders, and every relation from either side.

    Args:
        formulas: `Formulas` of length T.
        split: name of the split, a key of the draws.
        seed: integer, default 0.

    Returns:
        List of T lower-case ASCII strings, at most 29 words long.

    Example:

    ```python
    from keras_itr.data.shapes import draw_formulas, generate_scenes, write_captions

    write_captions(draw_formulas(generate_scenes("test", num_scenes=1), "test"), "test")  # five strings
    ```

    Source: our choice.
    """
    key = (seed, split, "words")
    index = np.arange(len(formulas))
    per_variable = index[:, None], np.arange(3)
    # 12 is a multiple of every number of alternatives, so `choice % count` is fair.
    words = integers(12, *key, "synonym", index[:, None, None], np.arange(3)[:, None], np.arange(4)).tolist()
    orders = integers(len(_ADJECTIVE_ORDERS), *key, "adjectives", *per_variable).tolist()
    relation_words = integers(12, *key, "relation", *per_variable).tolist()
    templates = integers(12, *key, "template", index).tolist()
    turned = integers(2, *key, "turned", index).tolist()
    captions = []
    for t, (attributes, mentioned, relations) in enumerate(
        zip(formulas.attributes.tolist(), formulas.mentioned.tolist(), formulas.relations.tolist(), strict=True)
    ):
        phrases = [_noun_phrase(attributes[v], words[t][v], orders[t][v]) for v in range(mentioned)]
        captions.append(_sentence(phrases, relations, templates[t], turned[t], relation_words[t]))
    return captions


def _noun_phrase(values, words, order):
    parts = [_pick(_WORDS[a][values[a]], words[a]) for a in _ADJECTIVE_ORDERS[order] if values[a] >= 0]
    names = _NAMELESS if values[SHAPE] < 0 else _WORDS[SHAPE][values[SHAPE]]
    parts.append(_pick(names, words[SHAPE]))
    return ("an " if parts[0][0] in "aeiou" else "a ") + " ".join(parts)


def _sentence(phrases, relations, template, turned, words):
    """Three objects with two relations are a path 0 - 1 - 2: told from either end (chain) or from the middle (fork)."""
    related = [relation >= 0 for relation in relations]
    if not any(related):
        return _pick((_ONE, _TWO, _THREE)[len(phrases) - 1], template).format(*phrases)
    if all(related):
        if turned:
            phrases, relations = phrases[::-1], [relation ^ 1 for relation in relations[::-1]]
        toward, away, onward = relations[0], relations[0] ^ 1, relations[1]
        r, q, s = (_pick(_RELATION_WORDS[r], word) for r, word in zip((toward, away, onward), words, strict=True))
        return _pick(_CHAIN + _FORK, template).format(*phrases, r=r, q=q, s=s)
    first = related.index(True)
    relation, pair = relations[first], [phrases[first], phrases[first + 1]]
    if turned:
        relation, pair = relation ^ 1, pair[::-1]
    rest = [phrases[2 - 2 * first]] if len(phrases) == 3 else []
    templates = _RELATED_AND_ONE if rest else _RELATED
    return _pick(templates, template).format(*pair, *rest, r=_pick(_RELATION_WORDS[relation], words[0]))


def _pick(alternatives, choice):
    return alternatives[choice % len(alternatives)]
