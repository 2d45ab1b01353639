import keras
import numpy as np
import pytest
from loss_support import assert_finite, assert_relative, compiled, unit, value
from support import gradients, load_fixture

from keras_itr.layers import RegionWordSimilarity
from keras_itr.losses import hard_negative_triplet

CASES = ("case07_local_sim_3x5", "case08_local_sim_ragged_regions")
OFFICIAL = {"masked_value": 0.0, "trim_last_word": True}


def inputs(images=4, texts=5, regions=6, length=7, width=8, seed=0):
    """Unit rows and masks with holes."""
    rng = np.random.default_rng(seed)
    region_mask, word_mask = rng.random((images, regions)) < 0.6, rng.random((texts, length)) < 0.6
    region_mask[:, 0] = word_mask[:, 0] = True
    rows = unit(images, regions, width, seed=seed), unit(texts, length, width, seed=seed + 1)
    return *rows, region_mask, word_mask


def loops(regions, words, region_mask, word_mask, scale=10.0):
    """The definition, pair by pair."""
    result = np.zeros((len(regions), len(words)))
    for image, text in np.ndindex(result.shape):
        for word in words[text][word_mask[text]]:
            products = regions[image][region_mask[image]] @ word
            result[image, text] += scale * products.max(initial=-np.inf) if len(products) else 0.0
    return result


@pytest.mark.parametrize("settings", ("default", "official"))
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, settings):
    case, description = load_fixture("tgdt", name)
    layer = RegionWordSimilarity(**description["config"][settings])
    masks = case["region_mask"], case["word_mask"]
    cotangent = keras.ops.convert_to_tensor(case["cotangent"])
    expected = case[f"similarity_{settings}"]
    similarity = layer(case["regions"], case["words"], *masks)
    assert_relative(value(similarity), expected, 1e-5)
    _, grads = gradients(
        compiled(lambda r, w: keras.ops.sum(layer(r, w, *masks) * cotangent)), [case["regions"], case["words"]]
    )
    assert_relative(grads[0], case[f"grad_regions_{settings}"], 1e-4, "regions")
    assert_relative(grads[1], case[f"grad_words_{settings}"], 1e-4, "words")


def test_the_hinge_over_it():
    case, _ = load_fixture("tgdt", "case10_local_loss_b6")
    for scale, suffix in ((10.0, ""), (1.0, "_x1")):
        layer = RegionWordSimilarity(scale=scale, **OFFICIAL)
        loss, grads = gradients(
            compiled(lambda r, w, f=layer: hard_negative_triplet(f(r, w, case["region_mask"], case["word_mask"]))),
            [case["regions"], case["words"]],
        )
        assert_relative(loss, case[f"loss{suffix}"], 1e-5)
        assert_relative(grads[0], case[f"grad_regions{suffix}"], 1e-4, "regions")
        assert_relative(grads[1], case[f"grad_words{suffix}"], 1e-4, "words")


def test_equals_plain_loops_with_holes_in_the_masks():
    case = inputs()
    np.testing.assert_allclose(value(RegionWordSimilarity()(*case)), loops(*case), rtol=1e-5, atol=1e-5)
    mean = value(RegionWordSimilarity(reduction="mean")(*case))
    np.testing.assert_allclose(mean, loops(*case) / case[3].sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", ({}, OFFICIAL, {"reduction": "mean"}))
def test_chunks_and_pairs_are_the_same_scores(settings):
    regions, words, region_mask, word_mask = case = inputs()
    whole = value(RegionWordSimilarity(**settings)(*case))
    for chunk_size in (1, 2, 5, 9):
        np.testing.assert_allclose(
            value(RegionWordSimilarity(chunk_size=chunk_size, **settings)(*case)), whole, rtol=1e-5, atol=1e-5
        )
    layer = RegionWordSimilarity(**settings)
    matched = value(layer.pairs(regions, words[:4], region_mask, word_mask[:4]))
    np.testing.assert_allclose(matched, np.diagonal(whole[:, :4]), rtol=1e-5, atol=1e-5)
    every = value(layer.pairs(regions[:, None], words[None], region_mask[:, None], word_mask[None]))
    np.testing.assert_allclose(every, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", ({}, OFFICIAL, {"chunk_size": 2}))
def test_padding_may_hold_anything(settings):
    regions, words, region_mask, word_mask = inputs()
    layer = RegionWordSimilarity(**settings)

    def total(r, w):
        return keras.ops.sum(layer(r, w, region_mask, word_mask))

    clean, clean_grads = gradients(compiled(total), [regions, words])
    regions, words = regions.copy(), words.copy()
    regions[~region_mask], words[~word_mask] = np.nan, np.inf
    dirty, grads = gradients(compiled(total), [regions, words])
    np.testing.assert_allclose(dirty, clean, rtol=1e-6)
    for grad, expected in zip(grads, clean_grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


def test_moving_valid_rows_changes_nothing():
    regions, words, region_mask, word_mask = inputs()
    order, places = np.random.default_rng(3).permutation(6), np.random.default_rng(4).permutation(7)
    moved = value(
        RegionWordSimilarity()(regions[:, order], words[:, places], region_mask[:, order], word_mask[:, places])
    )
    np.testing.assert_allclose(
        moved, value(RegionWordSimilarity()(regions, words, region_mask, word_mask)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("masked_value", ("-inf", 0.0))
@pytest.mark.parametrize("words_left, trimmed", ((0, 0), (1, 0), (2, 1)))
def test_captions_of_no_word_and_few(words_left, trimmed, masked_value):
    regions, words, region_mask, _ = inputs()
    word_mask = np.zeros((5, 7), bool)
    word_mask[:, :words_left] = True
    layers = {
        words_left: RegionWordSimilarity(masked_value=masked_value),
        trimmed: RegionWordSimilarity(masked_value=masked_value, trim_last_word=True),
    }
    for count, layer in layers.items():

        def total(r, w, layer=layer):
            return keras.ops.sum(layer(r, w, region_mask, word_mask))

        _, grads = assert_finite(compiled(total), [regions, words])
        similarity = value(layer(regions, words, region_mask, word_mask))
        if masked_value == "-inf":
            expected = loops(regions, words, region_mask, np.arange(7) < np.full((5, 1), count))
            np.testing.assert_allclose(similarity, expected, rtol=1e-5, atol=1e-5)
        if not count:
            assert not similarity.any() and not grads[0].any() and not grads[1].any()


def test_an_image_without_regions_is_similar_to_nothing():
    regions, words, region_mask, word_mask = inputs()
    region_mask[1] = False
    layer = RegionWordSimilarity()
    _, grads = assert_finite(
        compiled(lambda r, w: keras.ops.sum(layer(r, w, region_mask, word_mask))), [regions, words]
    )
    assert not value(layer(regions, words, region_mask, word_mask))[1].any()
    assert not grads[0][1].any()


def test_the_best_match_of_a_padded_image_is_not_below_zero_in_the_official_form():
    regions, words = np.array([[[1.0, 0], [0, 0]]], "float32"), np.array([[[-1.0, 0]]], "float32")
    mask = np.array([[True, False]])
    assert value(RegionWordSimilarity()(regions, words, mask)).item() == -10
    assert value(RegionWordSimilarity(masked_value=0.0)(regions, words, mask)).item() == 0


def test_half_precision_features_are_compared_in_float32():
    regions, words, region_mask, word_mask = case = inputs()
    half = [keras.ops.cast(rows, "bfloat16") for rows in (regions, words)]
    similarity = RegionWordSimilarity(dtype="mixed_bfloat16")(*half, region_mask, word_mask)
    assert keras.backend.standardize_dtype(similarity.dtype) == "float32"
    np.testing.assert_allclose(value(similarity), value(RegionWordSimilarity()(*case)), atol=3e-2 * 40)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"reduction": "max"}, "'sum' or 'mean', received 'max'"),
        ({"masked_value": 1.0}, "'-inf' or 0.0, received 1.0"),
        ({"chunk_size": 0}, "received 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RegionWordSimilarity(**arguments)


def test_configuration():
    layer = RegionWordSimilarity("mean", 3.0, 0.0, True, 4)
    again = RegionWordSimilarity.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
