"""Ranks and hit rates against plain loops, the fixtures, and scores that must not flatter a model."""

import json
import pathlib

import keras
import numpy as np
import pytest

from keras_itr.metrics import hit_rate, ranking, ranks

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "evaluation"


def loop_ranks(scores, positives):
    """The definition, one comparison at a time."""
    result = []
    for row, mask in zip(scores, positives, strict=True):
        right = [score for score, positive in zip(row, mask, strict=True) if positive]
        wrong = [score for score, positive in zip(row, mask, strict=True) if not positive]
        result.append(sum(score >= max(right) for score in wrong) if right else len(row))
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16"])
@pytest.mark.parametrize("seed", range(5))
def test_equals_plain_loops_with_many_ties(seed, dtype, monkeypatch):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, (37, 23)).astype(dtype)
    positives = generator.random((37, 23)) < 0.1  # Some rows stay without a positive.
    assert not positives.any(axis=1).all()
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 5 * 23)  # Blocks of five queries, the last of two.
    assert ranks(scores, positives).tolist() == loop_ranks(scores, positives)
    assert ranks(scores.T, positives.T).tolist() == loop_ranks(scores.T, positives.T)


def test_ranks_are_int64_and_zero_is_best():
    result = ranks(np.array([[0.9, 0.1], [0.2, 0.7]]), np.array([[True, False], [True, False]]))
    assert result.dtype == np.int64
    assert result.tolist() == [0, 1]


def test_float64_is_not_rounded_to_float32():
    scores = np.array([[1.0 + 1e-12, 1.0]])
    assert ranks(scores, np.array([[True, False]])).tolist() == [0]
    assert ranks(scores, np.array([[False, True]])).tolist() == [1]


def test_large_integers_are_not_rounded():
    assert ranks(np.array([[2**24 + 1, 2**24]]), np.array([[True, False]])).tolist() == [0]


def test_other_positives_do_not_push_each_other_down():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    assert ranks(scores, np.array([[True, True, False, True]])).tolist() == [0]


def test_a_collapsed_model_finds_nothing():
    positives = np.eye(20, dtype=bool)
    assert ranks(np.zeros((20, 20)), positives).tolist() == [19] * 20
    assert hit_rate(np.zeros((20, 20)), positives, k=10) == 0.0


def test_a_query_without_positive_is_a_miss_at_every_cutoff():
    scores, positives = np.array([[0.3, 0.2], [0.1, 0.9]]), np.array([[False, False], [False, True]])
    assert ranks(scores, positives).tolist() == [2, 0]
    assert hit_rate(scores, positives, k=100) == 50.0


def test_minus_infinity_excludes_an_item_and_infinity_ranks_first():
    scores = np.array([[-np.inf, 0.5, 0.4], [np.inf, 0.5, -np.inf]], "float32")
    positives = np.array([[False, True, False], [False, True, False]])
    assert ranks(scores, positives).tolist() == [0, 1]


def test_a_positive_at_minus_infinity_is_tied_with_the_excluded():
    scores = np.array([[-np.inf, -np.inf, 0.4]])
    assert ranks(scores, np.array([[True, False, False]])).tolist() == [2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_of_the_backend(dtype):
    scores = keras.ops.convert_to_tensor(np.array([[0.5, 0.25], [0.25, 0.5]]), dtype=dtype)
    positives = keras.ops.convert_to_tensor(np.eye(2, dtype=bool))
    assert ranks(scores, positives).tolist() == [0, 0]


def test_tensors_with_a_gradient():
    scores = keras.Variable(np.eye(2, dtype="float32"))
    assert hit_rate(keras.ops.add(scores, 0.0), np.eye(2, dtype=bool)) == 100.0


def test_inputs_are_left_as_they_were():
    scores, positives = np.eye(3), np.eye(3, dtype=bool)
    hit_rate(scores, positives)
    assert np.array_equal(scores, np.eye(3)) and np.array_equal(positives, np.eye(3, dtype=bool))


def test_rank_1_fixture():
    arrays = np.load(FIXTURES / "image_rank1_11.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / "image_rank1_11.json").read_text())["expected"]

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    gallery, labels = unit(arrays["features"]), arrays["labels"]
    scores, positives = gallery @ gallery.T, labels[:, None] == labels
    np.fill_diagonal(scores, -np.inf)
    np.fill_diagonal(positives, False)
    assert hit_rate(scores, positives) == pytest.approx(expected["self_retrieval_rank1"], abs=1e-6)
    scores, positives = unit(arrays["query"]) @ gallery.T, arrays["query_labels"][:, None] == labels
    assert hit_rate(scores, positives) == pytest.approx(expected["query_gallery_rank1"], abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "positives", "message"),
    [
        (np.zeros(3), np.ones(3, bool), r"scores must be a matrix .* got shape \(3,\)"),
        (np.zeros((0, 3)), np.ones((0, 3), bool), r"at least one row and column, got shape \(0, 3\)"),
        (np.zeros((2, 3)), np.ones((3, 2), bool), r"shape of scores, \(2, 3\), got \(3, 2\)"),
        (np.zeros((2, 3)), np.ones((2, 3), int), r"positives must be boolean, got int64"),
    ],
)
def test_errors(scores, positives, message):
    with pytest.raises(ValueError, match=message):
        ranks(scores, positives)


def test_nan_is_an_error_that_names_the_query(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 4)
    scores = np.zeros((6, 2))
    scores[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"must not contain NaN, but those of query 3 do"):
        ranks(scores, np.eye(6, 2, dtype=bool))


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "1"])
def test_cutoff_errors(k):
    with pytest.raises(ValueError, match=r"k must be an integer of at least 1, got"):
        hit_rate(np.eye(2), np.eye(2, dtype=bool), k)
