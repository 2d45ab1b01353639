import json

import keras
import numpy as np
import pytest
from support import draw, load_fixture

from keras_itr.data import ConceptGraph, MissingData
from keras_itr.data.concept_words import count_concepts
from keras_itr.layers import ConceptGraphEncoder

CAPTIONS = ["A man riding a horse.", "the brown horse, running", "a man and a dog", "a dog is running; it's a dog"]
CLASS_OF = {"man": "object", "horse": "object", "dog": "object", "brown": "property", "running": "motion"}


def concepts_of(graph, case, mode, **settings):
    propagation = graph.propagation(mode, **settings)
    encoder = ConceptGraphEncoder(
        {"embeddings": graph.embeddings, "propagation": propagation},
        units=case["w2"].shape[1],
        hidden_units=case["w2"].shape[0],
    )
    encoder.kernel_1.assign(case["w1"])
    encoder.kernel_2.assign(case["w2"])
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(encoder()))


def test_fixture_from_captions_to_concepts():
    case, description = load_fixture("coder", "graph_00_toy")
    counted = ConceptGraph.from_captions(description["captions"], concepts=description["concepts"])
    np.testing.assert_array_equal(counted.counts, case["counts"])
    np.testing.assert_array_equal(counted.cooccurrence, case["cooccurrence"])
    graph = ConceptGraph(counted.concepts, counted.counts, counted.cooccurrence, case["embeddings"])
    settings = {key: description["settings"][key] for key in ("scale", "shift", "threshold", "neighbour_weight")}
    for mode in ("complex", "scale", "binary"):
        for actual, key in ((graph.adjacency, "adjacency"), (graph.propagation, "propagation")):
            np.testing.assert_allclose(actual(mode, **settings), case[f"{key}_{mode}"], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(graph.adjacency(mode), graph.adjacency(mode, **settings))
        concepts = concepts_of(graph, case, mode, **settings)
        np.testing.assert_allclose(concepts, case[f"concepts_{mode}"], rtol=1e-4, atol=1e-6)


def test_fixture_of_related_code():
    case, description = load_fixture("coder", "related_cvse_gcn_01_scale")
    names = [f"concept {index}" for index in range(9)]
    graph = ConceptGraph(names, case["counts"], case["cooccurrence"], case["embeddings"])
    settings = description["settings"]
    np.testing.assert_allclose(graph.adjacency(**settings), case["adjacency"], rtol=1e-4, atol=1e-6)
    concepts = concepts_of(graph, case, settings["mode"], threshold=settings["threshold"])
    np.testing.assert_allclose(concepts, case["concepts"], rtol=1e-4, atol=1e-6)


def test_content_words_by_frequency_then_alphabet():
    graph = ConceptGraph.from_captions(CAPTIONS, num_concepts=6)
    assert graph.concepts == ["dog", "horse", "man", "running", "brown", "riding"]
    assert graph.counts.tolist() == [2, 2, 2, 2, 1, 1]
    assert set(graph.classes) == {""}
    assert len(ConceptGraph.from_captions(CAPTIONS, num_concepts=3).concepts) == 3


def test_classes_and_quotas():
    graph = ConceptGraph.from_captions(CAPTIONS, 4, (2, 1, 1), CLASS_OF.get)
    assert graph.concepts == ["dog", "horse", "brown", "running"]
    assert graph.classes == ["object", "object", "property", "motion"]
    with pytest.raises(ValueError, match=r"quotas must be three numbers that make num_concepts 300"):
        ConceptGraph.from_captions(CAPTIONS, quotas=(2, 1, 1), pos_fn=CLASS_OF.get)
    with pytest.raises(ValueError, match=r"quotas must be three numbers"):
        ConceptGraph.from_captions(CAPTIONS, 4, (5, -2, 1), CLASS_OF.get)
    with pytest.raises(ValueError, match=r"pos_fn returned 'objekt'.*did you mean 'object'"):
        ConceptGraph.from_captions(CAPTIONS, 4, (2, 1, 1), lambda word: "objekt")


def test_only_the_given_captions_count():
    graph = ConceptGraph.from_captions(CAPTIONS, num_concepts=6)
    unseen = ConceptGraph.from_captions(iter(CAPTIONS), num_concepts=6)
    np.testing.assert_array_equal(graph.propagation(), unseen.propagation())
    more = ConceptGraph.from_captions([*CAPTIONS, "a brown dog"], concepts=graph.concepts)
    assert more.cooccurrence[0, 4] == 1 and graph.cooccurrence[0, 4] == 0


@pytest.mark.parametrize("mode", ["complex", "scale", "binary"])
def test_a_lonely_or_unseen_concept_keeps_only_itself(mode):
    graph = ConceptGraph.from_captions([*CAPTIONS, "zebra"], concepts=["man", "horse", "riding", "zebra", "unicorn"])
    assert graph.counts.tolist() == [2, 2, 1, 1, 0]
    for matrix in (graph.adjacency(mode), graph.propagation(mode)):
        np.testing.assert_array_equal(matrix[3:], np.eye(5)[3:])
        np.testing.assert_array_equal(matrix[:, 3:], np.eye(5)[:, 3:])
    assert np.isfinite(graph.embeddings).all() and np.abs(graph.embeddings[3]).max() > 0


def test_frequencies_stay_below_one():
    graph = ConceptGraph.from_captions(CAPTIONS)
    assert (graph.cooccurrence <= graph.counts[:, None]).all()
    np.testing.assert_array_equal(graph.cooccurrence, graph.cooccurrence.T)


def test_vectors_without_a_download():
    graph = ConceptGraph.from_captions(CAPTIONS, num_concepts=6, embedding_dim=6)
    # At full width the vectors hold the whole matrix of mutual information.
    together = graph.cooccurrence + np.diag(graph.counts)
    with np.errstate(divide="ignore"):
        information = np.maximum(np.log(together * 4 / np.outer(graph.counts, graph.counts)), 0)
    left, strength, _ = np.linalg.svd(information)
    np.testing.assert_allclose(np.abs(graph.embeddings), np.abs(left * np.sqrt(strength)), atol=1e-5)
    assert ConceptGraph.from_captions(CAPTIONS, embedding_dim=2).embeddings.shape == (6, 2)


def test_vectors_out_of_a_text_file(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 9 9\ndog 1 2\nman 3 4.5\ndog ate 1 2\nhorse -1 0\n")
    graph = ConceptGraph.from_captions(CAPTIONS, concepts=["man", "dog", "zebra"], embeddings=path)
    np.testing.assert_array_equal(graph.embeddings[:2], [[3, 4.5], [1, 2]])
    again = ConceptGraph.from_captions(CAPTIONS, concepts=["zebra", "dog"], embeddings=str(path), seed=0)
    assert np.abs(graph.embeddings[2]).max() > 0 and again.settings["embeddings"] == "vectors.txt"
    other = ConceptGraph.from_captions(CAPTIONS, concepts=["man", "dog", "zebra"], embeddings=path, seed=1)
    assert (other.embeddings[2] != graph.embeddings[2]).any()
    path.write_text("dog 1 2\nman 3\n")
    with pytest.raises(ValueError, match=r"vectors.txt:2: 1 numbers, 2 finite ones are needed"):
        ConceptGraph.from_captions(CAPTIONS, concepts=["man", "dog"], embeddings=path)
    path.write_text("dog one two\n")
    with pytest.raises(ValueError, match=r"vectors.txt:1: a word and numbers"):
        ConceptGraph.from_captions(CAPTIONS, concepts=["man", "dog"], embeddings=path)
    with pytest.raises(ValueError, match="holds none of the 1 words"):
        ConceptGraph.from_captions(CAPTIONS, concepts=["man"], embeddings=path)
    with pytest.raises(MissingData, match=r"did you mean vectors.txt"):
        ConceptGraph.from_captions(CAPTIONS, concepts=["man"], embeddings=tmp_path / "vector.txt")


def test_saved_and_loaded(tmp_path):
    graph = ConceptGraph.from_captions(CAPTIONS, 4, (2, 1, 1), CLASS_OF.get)
    graph.save(tmp_path / "graph.npz")
    ConceptGraph.from_captions(CAPTIONS, 4, (2, 1, 1), CLASS_OF.get).save(tmp_path / "again.npz")
    assert (tmp_path / "graph.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    loaded = ConceptGraph.load(tmp_path / "graph.npz")
    assert (loaded.concepts, loaded.classes, loaded.settings) == (graph.concepts, graph.classes, graph.settings)
    for name in ("counts", "cooccurrence", "embeddings"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(graph, name))
    np.testing.assert_array_equal(loaded.propagation(), graph.propagation())
    # The layer reads the file without this class.
    of_file, of_graph = (ConceptGraphEncoder(x, 4, 3) for x in (tmp_path / "graph.npz", loaded))
    for one, other in zip(of_file.get_weights()[:2], of_graph.get_weights()[:2], strict=True):
        assert one.shape == other.shape
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(e.propagation) for e in (of_file, of_graph)))
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(e.embeddings) for e in (of_file, of_graph)))


def test_counts_equal_plain_loops_across_chunks(monkeypatch):
    monkeypatch.setattr("keras_itr.data.concept_words._AT_ONCE", 7)
    generator = np.random.default_rng(0)
    word_sets = [set(generator.choice(list("abcdefgh"), generator.integers(0, 6))) for _ in range(30)]
    counts, together = count_concepts(word_sets, list("abcdz"))
    for i, one in enumerate("abcdz"):
        assert counts[i] == sum(one in words for words in word_sets)
        for j, other in enumerate("abcdz"):
            assert together[i, j] == (i != j) * sum({one, other} <= words for words in word_sets)
    assert counts.dtype == together.dtype == "int64"


def test_edges_are_those_of_the_propagation():
    graph = ConceptGraph.from_captions([*CAPTIONS, *["a dog"] * 20], num_concepts=6)
    strength = np.where(graph.counts[:, None] > 0, graph.cooccurrence / graph.counts[:, None], 0)
    np.testing.assert_array_equal(graph.conditional(), strength)
    linked = 5 ** (strength - 0.02) - 5**-0.02 >= 0.3
    assert graph.num_edges == linked.sum() == np.count_nonzero(graph.propagation()) - 6
    assert 0 < graph.num_edges < np.count_nonzero(graph.cooccurrence)
    assert graph.summary() == f"24 captions, 6 concepts, {graph.num_edges} edges"
    assert ConceptGraph(["a"], [1], [[0]], draw(1, 3)).summary() == "1 concepts, 0 edges"


def test_summary_for_people(tmp_path):
    graph = ConceptGraph.from_captions([*CAPTIONS, "a café"], 5, (2, 2, 1), {**CLASS_OF, "café": "property"}.get)
    graph.save_summary(tmp_path / "graph.json", neighbours=2)
    text = (tmp_path / "graph.json").read_text(encoding="utf-8")
    summary = json.loads(text)
    assert summary["settings"] == graph.settings
    assert (summary["num_concepts"], summary["num_edges"]) == (5, graph.num_edges)
    dog, horse, *_, running = summary["concepts"]
    assert dog == {"concept": "dog", "class": "object", "count": 2, "neighbours": {"running": 0.5}}
    # Equal ones stand in the order of the concepts.
    assert list(horse["neighbours"].items()) == [("brown", 0.5), ("running", 0.5)]
    assert list(running["neighbours"]) == ["dog", "horse"]
    assert '\n  {"concept": "café", "class": "property", "count": 1, "neighbours": {}},\n' in text
    graph.save(tmp_path / "graph.npz")
    ConceptGraph.load(tmp_path / "graph.npz").save_summary(tmp_path / "again.json", neighbours=2)
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == text


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="0 captions with 0 concepts make no graph"):
        ConceptGraph.from_captions([])
    with pytest.raises(ValueError, match="'a' stands twice"):
        ConceptGraph(["a", "a"], [1, 1], np.zeros((2, 2)), draw(2, 3))
    with pytest.raises(ValueError, match=r"embeddings of 2 concepts cannot have shape \(3, 3\)"):
        ConceptGraph(["a", "b"], [1, 1], np.zeros((2, 2)), draw(3, 3))
    with pytest.raises(ValueError, match="at most the count of a concept"):
        ConceptGraph(["a", "b"], [1, 3], [[0, 2], [2, 0]], draw(2, 3))
    with pytest.raises(ValueError, match=r"unknown mode 'scaled'.*did you mean 'scale'"):
        ConceptGraph(["a"], [1], [[0]], draw(1, 3)).adjacency("scaled")
    with pytest.raises(ValueError, match=r"embeddings of 'b' hold a number that is not finite"):
        ConceptGraph(["a", "b"], [1, 1], np.zeros((2, 2)), [[0.0], [np.nan]])
    with pytest.raises(ValueError, match=r"list of strings, received one string; use \['a dog'\]"):
        ConceptGraph.from_captions("a dog")
    with pytest.raises(ValueError, match="num_concepts must be 1 or more, received 0"):
        ConceptGraph.from_captions(CAPTIONS, num_concepts=0)
    ConceptGraph.from_captions(CAPTIONS).save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    # Both readers of the file: the graph's own and the layer's.
    for content in (b"no archive", whole[:-200]):
        (tmp_path / "graph.npz").write_bytes(content)
        for read in (ConceptGraph.load, ConceptGraphEncoder):
            with pytest.raises(ValueError, match=r"graph.npz: not a whole .npz of arrays \(.*\); make the graph anew"):
                read(tmp_path / "graph.npz")
    np.savez(tmp_path / "graph.npz", concepts=["a"])
    with pytest.raises(ValueError, match=r"graph.npz: not a file that ConceptGraph.save wrote"):
        ConceptGraph.load(tmp_path / "graph.npz")
    with pytest.raises(MissingData, match=r"graph_2.npz"):
        ConceptGraph.load(tmp_path / "graph_2.npz")
