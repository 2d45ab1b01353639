"""Blocked ranking equals the ranking of the full matrix, and rounding never flatters a model."""

import tracemalloc

import keras
import numpy as np
import pytest

from keras_itr.evaluation import embedding_ranks, embedding_recall
from keras_itr.metrics import recall_at_k, two_way_ranks


def random_embeddings(num_images, captions, dim, seed=0, dtype="float32"):
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(num_images), captions)
    images = generator.normal(size=(num_images, dim))
    texts = images[owner] + 2.0 * generator.normal(size=(len(owner), dim))
    return images.astype(dtype), texts.astype(dtype), owner


def integer_embeddings(num_images, num_captions, seed):
    """Products of small integers are exact in any order of summation, and many are equal."""
    generator = np.random.default_rng(seed)
    images = generator.integers(-2, 3, (num_images, 4)).astype("float32")
    texts = generator.integers(-2, 3, (num_captions, 4)).astype("float32")
    owner = np.concatenate([np.arange(num_images), generator.integers(0, num_images, num_captions - num_images)])
    return images, texts, generator.permutation(owner)


@pytest.mark.parametrize("block_size", [1, 7, 16, 64, 4096])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_the_full_matrix(block_size, dtype):
    images, texts, owner = random_embeddings(45, 5, 16, dtype=dtype)
    metrics = embedding_recall(images, texts, owner, block_size=block_size)
    assert metrics == recall_at_k(images @ texts.T, owner)
    assert 0 < metrics["t2i_r1"] < 100


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_ties_and_captions_in_any_order(seed, block_size):
    images, texts, owner = integer_embeddings(23, 61, seed)
    expected = two_way_ranks(images @ texts.T, owner)
    for result, wanted in zip(embedding_ranks(images, texts, owner, block_size), expected, strict=True):
        assert result.dtype == np.int64
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5])
def test_explicit_truth(density):
    images, texts, _ = integer_embeddings(23, 61, seed=9)
    truth = np.random.default_rng(2).random((23, 61)) < density  # Also rows and columns without any.
    for result, wanted in zip(
        embedding_ranks(images, texts, truth, 8), two_way_ranks(images @ texts.T, truth), strict=True
    ):
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("num_images", [2, 3, 33, 65, 130])
@pytest.mark.parametrize("dim", [16, 100, 256, 1000])
def test_a_collapsed_model_scores_zero_in_any_shape_of_blocks(num_images, dim):
    # A BLAS rounds this product differently in blocks of different shapes; the best of these
    # values would beat the others, and a constant model would look perfect.
    vector = np.random.default_rng(dim).normal(size=(1, dim)).astype("float32")
    vector /= np.linalg.norm(vector)
    owner = np.repeat(np.arange(num_images), 3)
    for block_size in (5, 32, 64):
        metrics = embedding_recall(
            np.repeat(vector, num_images, 0), np.repeat(vector, len(owner), 0), owner, (1,), block_size
        )
        assert metrics["rsum"] == 0.0, block_size
        assert metrics["t2i_median_rank"] == num_images, block_size


def test_the_score_matrix_is_never_built():
    images, texts, owner = random_embeddings(1000, 5, 8)
    tracemalloc.start()
    embedding_recall(images, texts, owner, block_size=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 5000 * 4 / 10  # A tenth of the float32 matrix.


def test_tensors_of_the_backend():
    images, texts, owner = random_embeddings(10, 2, 4)
    tensors = (keras.ops.convert_to_tensor(array) for array in (images, texts, owner))
    assert embedding_recall(*tensors) == embedding_recall(images, texts, owner)


def test_half_precision_is_ranked_in_float32():
    images, texts, owner = random_embeddings(20, 2, 8)
    images, texts = images.astype("float16"), texts.astype("float16")
    expected = recall_at_k(images.astype("float32") @ texts.astype("float32").T, owner)
    assert embedding_recall(images, texts, owner) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("side", [0, 1])
def test_values_without_an_order_are_errors(value, side):
    arrays = list(random_embeddings(4, 2, 3))
    arrays[1 - side][0, 0] = 1e30
    arrays[side][1, 2] = value
    with pytest.raises(ValueError, match=r"must be finite and their products within float32, got NaN, infinite"):
        embedding_recall(*arrays)


@pytest.mark.parametrize(
    ("images", "texts", "positives", "message"),
    [
        ((4, 3), (8, 2), np.repeat(np.arange(4), 2), r"of one width, got \(4, 3\) and \(8, 2\); .* score method"),
        ((4, 3, 2), (8, 2), np.repeat(np.arange(4), 2), r"must be matrices"),
        ((4, 3), (7, 3), np.repeat(np.arange(4), 2), r"one integer for each of the 7 captions"),
        ((4, 3), (8, 3), np.repeat(np.arange(2), 4), r"image 2 has none \(2 of 4\)"),
        ((4, 3), (8, 3), np.ones((8, 4), bool), r"bool \(4, 8\), got bool of shape \(8, 4\)"),
        ((4, 3), (8, 3), np.ones((4, 8)), r"got float64 of shape \(4, 8\)"),
    ],
)
def test_errors(images, texts, positives, message):
    with pytest.raises(ValueError, match=message):
        embedding_ranks(np.ones(images, "float32"), np.ones(texts, "float32"), positives)


def test_block_size_error():
    with pytest.raises(ValueError, match=r"block_size must be an integer of at least 1, got 0"):
        embedding_recall(*random_embeddings(4, 2, 3), block_size=0)
