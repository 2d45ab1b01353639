import functools

import keras
import numpy as np
import pytest
from ascl_support import holes, unit_regions
from keras import ops
from loss_support import assert_relative, compiled
from support import draw, gradients, load_fixture

from keras_itr.layers import CrossModalAttention

PARTS = ("scores", "image_to_text", "text_to_image", "context_text", "context_image")
# One shape for all: JAX compiles every operation once per shape.
REGIONS, WORDS = unit_regions(3, 5, 8, seed=1), 2 * draw(4, 6, 8, seed=2)
REGION_MASK, WORD_MASK = holes(3, 5, seed=3), holes(4, 6, seed=4)
LAYER = CrossModalAttention(num_heads=2)
COTANGENTS = {name: draw(3, 4, *([8] if "context" in name else []), seed=seed) for seed, name in enumerate(PARTS, 5)}


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


@functools.cache
def compiled_call(function):
    """`function`, a layer or a method of one, as one step where that is faster; the same again for the same layer."""
    return compiled(lambda *inputs: function(*inputs))


@functools.cache
def compiled_total(layer):
    """The sum of all parts with `COTANGENTS`."""

    def total(*inputs):
        parts = layer(*inputs)
        return sum(ops.sum(parts[name] * ops.convert_to_tensor(COTANGENTS[name])) for name in PARTS)

    return compiled(total)


def run(function, *inputs):
    return compiled_call(function)(*inputs)


def value_and_gradients(layer, regions, words, *masks):
    """All parts, and the gradients of their total."""
    parts = run(layer, regions, words, *masks)
    _, grads = gradients(lambda regions, words: compiled_total(layer)(regions, words, *masks), [regions, words])
    return {name: numpy(x) for name, x in parts.items()}, grads


def assert_same(actual, expected, tolerance=2e-6):
    for name in PARTS:
        np.testing.assert_allclose(actual[0][name], expected[0][name], atol=tolerance, err_msg=name)
    for one, other in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(other).max()))


def cosine(x, y):
    return x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-8)


def attend(queries, keys, scale, heads):
    """The keys as each of the queries attends to them, head by head."""
    result = np.zeros_like(queries)
    for part in np.split(np.arange(queries.shape[1]), heads):
        logits = scale * queries[:, part] @ keys[:, part].T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-1e30))
        result[:, part] = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300) @ keys[:, part]
    return result


def plain(regions, words, region_mask, word_mask, heads=2):
    """The sheet's formulas, pair by pair, in NumPy."""
    shape = (len(regions), len(words))
    parts = {name: np.zeros((*shape, regions.shape[-1]) if "context" in name else shape) for name in PARTS}
    for i, j in np.ndindex(shape):
        v, w = regions[i][region_mask[i]].astype("float64"), words[j][word_mask[j]].astype("float64")
        if not (len(v) and len(w)):
            continue
        for queries, keys, scale, score, context in (
            (v, w, 4.0, "image_to_text", "context_text"),
            (w, v, 9.0, "text_to_image", "context_image"),
        ):
            attended = attend(queries, keys, scale, heads)
            parts[score][i, j] = np.mean([cosine(x, y) for x, y in zip(queries, attended, strict=True)])
            parts[context][i, j] = attended.mean(axis=0)
    parts["scores"] = (parts["image_to_text"] + parts["text_to_image"]) / 2
    return parts


@pytest.mark.parametrize("name", ["sim_local_one_head", "sim_local_both_masks"])
def test_fixture(name):
    case, description = load_fixture("ascl", name)
    layer = CrossModalAttention(**description["config"])
    masks = case["region_mask"], case["word_mask"]
    parts = run(layer, case["regions"], case["words"], *masks)
    for part in PARTS:
        assert_relative(numpy(parts[part]), case[part], 1e-5, part)

    def total(regions, words):
        return ops.sum(layer(regions, words, *masks)["scores"] * ops.convert_to_tensor(case["cotangent"]))

    _, grads = gradients(compiled(total), [case["regions"], case["words"]])
    assert_relative(grads[0], case["grad_regions"], 1e-4, "regions")
    assert_relative(grads[1], case["grad_words"], 1e-4, "words")


def test_equals_the_plain_form_also_for_empty_rows():
    region_mask, word_mask = REGION_MASK.copy(), WORD_MASK.copy()
    region_mask[1], word_mask[2], word_mask[3] = False, False, np.arange(6) == 4
    parts, grads = value_and_gradients(LAYER, REGIONS, WORDS, region_mask, word_mask)
    for name, expected in plain(REGIONS, WORDS, region_mask, word_mask).items():
        np.testing.assert_allclose(parts[name], expected, atol=2e-6, err_msg=name)
    assert not parts["scores"][1].any() and not parts["context_text"][:, 2].any()
    for position, grad in enumerate(grads):
        direction = np.asarray(draw(*grad.shape, seed=8), "float64")
        ends = []
        for step in (1e-6, -1e-6):
            moved = [REGIONS.astype("float64"), WORDS.astype("float64")]
            moved[position] = moved[position] + step * direction
            results = plain(*moved, region_mask, word_mask)
            ends.append(sum((results[name] * COTANGENTS[name]).sum() for name in PARTS))
        np.testing.assert_allclose((grad * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    zeros = value_and_gradients(LAYER, REGIONS, WORDS, REGION_MASK, WORD_MASK)
    regions, words = REGIONS.copy(), WORDS.copy()
    regions[~REGION_MASK], words[~WORD_MASK] = np.nan, np.nan
    filled = value_and_gradients(LAYER, regions, words, REGION_MASK, WORD_MASK)
    assert_same(filled, zeros, tolerance=0)
    assert not filled[1][0][~REGION_MASK].any() and not filled[1][1][~WORD_MASK].any()


def test_no_mask_is_a_mask_of_ones():
    full = np.ones((3, 5), bool), np.ones((4, 6), bool)
    assert_same(
        value_and_gradients(LAYER, REGIONS, WORDS, None, None),
        value_and_gradients(LAYER, REGIONS, WORDS, *full),
    )


def test_order_of_positions_does_not_matter():
    order, other = np.random.default_rng(1).permutation(5), np.random.default_rng(2).permutation(6)
    parts = run(LAYER, REGIONS, WORDS, REGION_MASK, WORD_MASK)
    moved = run(LAYER, REGIONS[:, order], WORDS[:, other], REGION_MASK[:, order], WORD_MASK[:, other])
    for name in PARTS:
        np.testing.assert_allclose(numpy(moved[name]), numpy(parts[name]), atol=1e-6)


def test_chunks():
    inputs = REGIONS, WORDS, REGION_MASK, WORD_MASK
    chunked = value_and_gradients(CrossModalAttention(2, text_chunk_size=3), *inputs)
    assert_same(chunked, value_and_gradients(LAYER, *inputs))


def test_pairs_are_entries_of_a_call():
    parts = run(LAYER, REGIONS, WORDS, REGION_MASK, WORD_MASK)
    rows, columns = np.array([0, 2, 2, 1]), np.array([1, 1, 3, 0])
    pairs = run(LAYER.pairs, REGIONS[rows], WORDS[columns], REGION_MASK[rows], WORD_MASK[columns])
    # Two candidates of each of three images.
    candidates = np.array([[0, 3], [1, 2], [3, 1]])
    grid = run(LAYER.pairs, REGIONS[:, None], WORDS[candidates], REGION_MASK[:, None], WORD_MASK[candidates])
    # Two images for each of four texts.
    images = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
    reverse = run(LAYER.pairs, REGIONS[images], WORDS[:, None], REGION_MASK[images], WORD_MASK[:, None])
    for name in PARTS:
        whole = numpy(parts[name])
        np.testing.assert_allclose(numpy(pairs[name]), whole[rows, columns], atol=1e-6)
        np.testing.assert_allclose(numpy(grid[name]), whole[np.arange(3)[:, None], candidates], atol=1e-6)
        np.testing.assert_allclose(numpy(reverse[name]), whole[images, np.arange(4)[:, None]], atol=1e-6)


def test_gradients_of_pairs_are_those_of_a_call():
    diagonal = np.eye(3, dtype="float32")

    def in_a_call(regions, words):
        return ops.sum(LAYER(regions, words, REGION_MASK, WORD_MASK[:3])["scores"] * ops.convert_to_tensor(diagonal))

    def in_pairs(regions, words):
        return ops.sum(LAYER.pairs(regions, words, REGION_MASK, WORD_MASK[:3])["scores"])

    expected = gradients(compiled(in_a_call), [REGIONS, WORDS[:3]])
    actual = gradients(compiled(in_pairs), [REGIONS, WORDS[:3]])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for one, other in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("images,texts", [(1, 1), (1, 4), (3, 1)])
def test_one_image_or_text(images, texts):
    parts = run(LAYER, REGIONS[:images], WORDS[:texts], REGION_MASK[:images], WORD_MASK[:texts])
    expected = run(LAYER, REGIONS, WORDS, REGION_MASK, WORD_MASK)
    for name in PARTS:
        np.testing.assert_allclose(numpy(parts[name]), numpy(expected[name])[:images, :texts], atol=1e-6)


def test_zero_vectors_have_no_direction():
    regions, words = REGIONS.copy(), WORDS.copy()
    regions[0, 2], words[1], words[2, 3] = 0, 0, 0
    parts, grads = value_and_gradients(LAYER, regions, words, None, None)
    for name, expected in plain(regions, words, np.ones((3, 5), bool), np.ones((4, 6), bool)).items():
        np.testing.assert_allclose(parts[name], expected, atol=2e-6, err_msg=name)
    # The epsilon in place of a length would make them 1e8.
    assert all(np.abs(grad).max() < 1e3 for grad in grads)


def test_cosines_of_words_that_cancel_stay_cosines():
    words = np.concatenate([1e3 * WORDS[:, :3], -1e3 * WORDS[:, :3]], axis=1)
    layer = CrossModalAttention(2, image_to_text_scale=1e-9)
    parts, grads = value_and_gradients(layer, REGIONS, words, None, None)
    assert np.abs(parts["image_to_text"]).max() <= 1 + 1e-6
    assert all(np.isfinite(grad).all() for grad in grads)


def test_parallel_vectors():
    same = np.repeat(REGIONS[:, :1], 5, axis=1)
    score, grads = gradients(compiled(lambda x: ops.sum(LAYER.pairs(x, 3 * x)["scores"])), [same])
    np.testing.assert_allclose(score, 3, rtol=1e-6)
    np.testing.assert_allclose(grads[0], 0, atol=1e-5)


def test_compiles_with_unknown_sizes():
    regions, words = (keras.Input((None, 8)) for _ in range(2))
    layer = CrossModalAttention(2, text_chunk_size=2)
    model = keras.Model([regions, words], layer(regions, words))
    assert model.output["context_text"].shape == (None, None, 8)
    parts = model([REGIONS, WORDS])
    np.testing.assert_allclose(numpy(parts["scores"]), numpy(layer(REGIONS, WORDS)["scores"]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    layer = CrossModalAttention(2, dtype=f"mixed_{dtype}")
    parts = run(layer, ops.cast(REGIONS, dtype), ops.cast(WORDS, dtype), REGION_MASK, WORD_MASK)
    expected = run(LAYER, REGIONS, WORDS, REGION_MASK, WORD_MASK)
    for name in PARTS:
        assert keras.backend.standardize_dtype(parts[name].dtype) == "float32"
        scale = np.abs(numpy(expected[name])).max()
        np.testing.assert_allclose(numpy(parts[name]), numpy(expected[name]), atol=3e-2 * scale)


def test_configuration_round_trip():
    layer = CrossModalAttention(4, 3.0, 5.0, text_chunk_size=2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config() and copy.text_to_image_scale == 5.0
    assert not layer.weights


def test_errors():
    with pytest.raises(ValueError, match="num_heads must divide the width of regions and words, received 3 and 8"):
        CrossModalAttention(3)(REGIONS, WORDS)
    with pytest.raises(ValueError, match=r"received shapes \(3, 5, 8\) and \(4, 6, 6\)"):
        run(LAYER, REGIONS, WORDS[..., :6])
    for regions, words in ((REGIONS, WORDS[None]), (REGIONS[0], WORDS[0]), (REGIONS[None, None], WORDS[None, None])):
        with pytest.raises(ValueError, match="or have two leading axes each"):
            LAYER.pairs(regions, words)
    with pytest.raises(ValueError, match="num_heads must be at least 1, received 0"):
        CrossModalAttention(0)
    with pytest.raises(ValueError, match=r"text_chunk_size must be a positive number of texts, .* received 0"):
        CrossModalAttention(text_chunk_size=0)
