"""Two-stage orders against plain loops and the fixture; ties, NaN outside the shortlist, short and long shortlists."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_itr.search import shortlist, two_stage, two_stage_order

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "tgdt"


def loop_order(coarse, fine, k):
    """The definition, one sort at a time."""
    result = []
    for query, row in enumerate(coarse):
        ids = sorted(range(len(row)), key=lambda item: (-row[item], item))
        if k:
            ids = sorted(ids[:k], key=lambda item: (-fine[query][item], item))
        result.append(ids)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
@pytest.mark.parametrize("k", [0, 1, 2, 7, 22, 23, 100])
@pytest.mark.parametrize("values", [3, 1000])
def test_equals_plain_loops(dtype, k, values, monkeypatch):
    generator = np.random.default_rng(k)
    coarse = generator.integers(0, values, (17, 23)).astype(dtype)
    fine = generator.integers(0, 4, (17, 23)).astype(dtype)
    monkeypatch.setattr(two_stage, "BLOCK_ELEMENTS", 5 * 23)  # Blocks of five queries, the last of two.
    order = two_stage_order(coarse, fine, k)
    assert order.dtype == np.int64
    assert order.tolist() == loop_order(coarse.tolist(), fine.tolist(), k)
    chosen = [sorted(ids) for ids in loop_order(coarse.tolist(), coarse.tolist(), k)]
    assert shortlist(coarse, k).tolist() == chosen
    # The same from a function, which sees each query once.
    calls = []

    def score(query, candidates):
        calls.append(query)
        assert candidates.tolist() == chosen[query]
        return fine[query, candidates]

    np.testing.assert_array_equal(two_stage_order(coarse, score, k), order)
    assert calls == (list(range(17)) if k else [])


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_fixture(direction):
    case = np.load(FIXTURES / "case15_two_stage_40x200_k10.npz", allow_pickle=False)
    coarse, fine = case["similarity_global"], case["similarity_global"] + case["similarity_local"]
    if direction == "t2i":
        coarse, fine = coarse.T, fine.T
    expected = case[f"order_{direction}"]
    np.testing.assert_array_equal(two_stage_order(coarse, fine, k=10), expected)
    np.testing.assert_array_equal(two_stage_order(coarse, lambda query, ids: fine[query, ids], k=10), expected)


def test_equal_scores_go_by_id():
    equal = np.zeros((2, 5))
    assert two_stage_order(equal, equal, 3).tolist() == [[0, 1, 2]] * 2
    assert two_stage_order(equal, equal, 0).tolist() == [[0, 1, 2, 3, 4]] * 2
    # At the border the lower ids stay; within, equal fine scores go by id, not by the coarse score.
    assert two_stage_order([[1, 2, 2, 3]], [[9, 1, 8, 1]], 2).tolist() == [[1, 3]]
    # Infinities are scores like others.
    assert two_stage_order([[-np.inf, 0.0, np.inf, -np.inf]], np.zeros((1, 4)), 3).tolist() == [[0, 1, 2]]
    assert two_stage_order([[-np.inf, 0.0, np.inf, -np.inf]], None, 0).tolist() == [[2, 1, 0, 3]]


def test_outside_the_shortlist_fine_is_never_looked_at():
    generator = np.random.default_rng(3)
    coarse, fine = generator.normal(size=(2, 9, 30))
    sparse = np.full_like(fine, np.nan)
    np.put_along_axis(sparse, shortlist(coarse, 6), np.take_along_axis(fine, shortlist(coarse, 6), 1), 1)
    np.testing.assert_array_equal(two_stage_order(coarse, sparse, 6), two_stage_order(coarse, fine, 6))
    with pytest.raises(ValueError, match=r"must not contain NaN, but those of query 0 do"):
        two_stage_order(coarse, sparse, 7)


def test_tensors_of_the_backend():
    coarse, fine = np.random.default_rng(4).normal(size=(2, 5, 8)).astype("float32")
    tensors = [keras.ops.convert_to_tensor(scores) for scores in (coarse, fine)]
    np.testing.assert_array_equal(two_stage_order(*tensors, 4), two_stage_order(coarse, fine, 4))
    result = two_stage_order(coarse, lambda query, ids: keras.ops.convert_to_tensor(fine[query, ids]), 4)
    np.testing.assert_array_equal(result, two_stage_order(coarse, fine, 4))


def test_errors():
    scores = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"coarse must be a matrix .* got shape \(3,\)"):
        two_stage_order(scores[0], scores, 1)
    with pytest.raises(ValueError, match=r"at least one row and column, got shape \(2, 0\)"):
        two_stage_order(scores[:, :0], scores, 1)
    with pytest.raises(ValueError, match=r"fine must have the shape of coarse, \(2, 3\), got \(3, 2\)"):
        two_stage_order(scores, scores.T, 1)
    for k in (-1, 1.0, True, None):
        with pytest.raises(ValueError, match="k must be an integer of at least 0"):
            two_stage_order(scores, scores, k)
    with pytest.raises(ValueError, match=r"each of the 2 candidates, got shape \(3,\) for query 0"):
        two_stage_order(scores, lambda query, ids: scores[query], 2)
    broken = np.where(np.arange(6).reshape(2, 3) == 4, np.nan, 0.0)
    with pytest.raises(ValueError, match="those of query 1 do"):
        two_stage_order(broken, scores, 2)
    with pytest.raises(ValueError, match="those of query 1 do"):
        two_stage_order(scores, lambda query, ids: broken[query, ids], 2)


def test_numpy_is_enough():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'jax', 'torch']))\n"
        "import keras_itr, numpy\n"
        "assert keras_itr.search.two_stage_order(numpy.eye(2), numpy.eye(2), 1).tolist() == [[0], [1]]\n"
        "index = keras_itr.search.GalleryIndex(); index.add([3, 5], numpy.eye(2))\n"
        "assert index.search(numpy.eye(2), 1)[0].tolist() == [[3], [5]]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=pathlib.Path(__file__).parents[2])
