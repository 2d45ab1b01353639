import functools

import keras
import numpy as np
import pytest
from ascl_support import WEIGHTS, holes, similarity_of, unit_regions, variables_of
from keras import ops
from loss_support import assert_relative, compiled
from support import draw, gradients, load_fixture

from keras_itr.layers import HierarchicalSimilarity, TextNegatives
from keras_itr.losses import asymmetry_sensitive_contrastive

FIXTURES = ("sim_mix_pairwise_u08", "sim_mix_paired_u08_with_negatives")
REGIONS, WORDS, GLOBAL = unit_regions(3, 5, 8, seed=1), 2 * draw(6, 4, 8, seed=2), 3 * draw(3, 7, seed=3)
REGION_MASK, WORD_MASK = holes(3, 5, seed=4), holes(6, 4, seed=5)
MASKS = REGION_MASK, WORD_MASK
COTANGENT = draw(3, 6, seed=6)


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def similarity(**kwargs):
    """A built layer of width 8 with random weights, biases included; the same for the same settings."""
    layer = HierarchicalSimilarity(8, num_heads=2, **kwargs)
    layer.build((None, None, 8), (None, None, 8), (None, 7))
    for seed, variable in enumerate(layer.trainable_variables, 10):
        variable.assign(0.5 * draw(*variable.shape, seed=seed))
    return layer


LAYER = similarity()
CALL = compiled(lambda *inputs: LAYER(*inputs))
PAIRS = compiled(lambda *inputs: LAYER.pairs(*inputs))


@functools.cache
def scores():
    """`(3, 6)`, of all images and texts."""
    return numpy(CALL(REGIONS, WORDS, GLOBAL, *MASKS))


def weighted(layer, *masks, **options):
    """The sum of similarity times `COTANGENT`, a function of the three features."""

    def total(regions, words, image_global):
        return ops.sum(layer(regions, words, image_global, *masks, **options) * ops.convert_to_tensor(COTANGENT))

    return total


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name):
    case, description = load_fixture("ascl", name)
    layer = similarity_of(case, description["config"])
    inputs = [case[key] for key in ("regions", "words", "image_global")]
    options = {"region_mask": case["region_mask"], "word_mask": case["word_mask"], "training": True}
    parts = compiled(lambda *inputs: layer(*inputs, **options, return_parts=True))(*inputs)
    for part in ("similarity", "local", "global"):
        assert_relative(numpy(parts[part]), case[part], 1e-5, part)

    def total(*inputs):
        return ops.sum(layer(*inputs, **options) * ops.convert_to_tensor(case["cotangent"]))

    _, grads = gradients(compiled(total), inputs, variables_of(layer))
    for grad, key in zip(grads, ("regions", "words", "image_global", *WEIGHTS), strict=True):
        assert_relative(grad, case[f"grad_{key}"], 1e-4, key)


def test_padding_changes_nothing():
    regions, words = REGIONS.copy(), WORDS.copy()
    regions[~REGION_MASK], words[~WORD_MASK] = np.nan, np.nan
    total = compiled(weighted(LAYER, *MASKS))
    expected = gradients(total, [REGIONS, WORDS, GLOBAL])
    actual = gradients(total, [regions, words, GLOBAL])
    assert np.isfinite(actual[0]) and actual[0] == expected[0]
    for one, other in zip(actual[1], expected[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not actual[1][0][~REGION_MASK].any() and not actual[1][1][~WORD_MASK].any()


def test_order_of_positions_does_not_matter():
    order, other = np.random.default_rng(1).permutation(5), np.random.default_rng(2).permutation(4)
    actual = CALL(REGIONS[:, order], WORDS[:, other], GLOBAL, REGION_MASK[:, order], WORD_MASK[:, other])
    np.testing.assert_allclose(numpy(actual), scores(), atol=1e-6)


@pytest.mark.parametrize("conditioning", ["pairwise", "paired"])
def test_chunks(conditioning):
    inputs = [REGIONS, WORDS, GLOBAL]
    plain, chunked = (similarity(conditioning=conditioning, text_chunk_size=size) for size in (None, 4))
    expected, actual = (gradients(compiled(weighted(x, *MASKS, training=True)), inputs) for x in (plain, chunked))
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for one, other in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_pairs_are_entries_of_a_call():
    whole = scores()
    rows, columns = np.array([0, 2, 1]), np.array([1, 5, 0])
    pairs = PAIRS(REGIONS[rows], WORDS[columns], GLOBAL[rows], REGION_MASK[rows], WORD_MASK[columns])
    np.testing.assert_allclose(numpy(pairs), whole[rows, columns], atol=1e-6)
    candidates = np.array([[0, 3], [1, 2], [5, 1]])
    grid = PAIRS(REGIONS[:, None], WORDS[candidates], GLOBAL[:, None], REGION_MASK[:, None], WORD_MASK[candidates])
    np.testing.assert_allclose(numpy(grid), whole[np.arange(3)[:, None], candidates], atol=1e-6)
    images = np.array([[0, 1]] * 6)
    reverse = PAIRS(REGIONS[images], WORDS[:, None], GLOBAL[images], REGION_MASK[images], WORD_MASK[:, None])
    np.testing.assert_allclose(numpy(reverse), whole[images, np.arange(6)[:, None]], atol=1e-6)
    parts = LAYER.pairs(REGIONS[rows], WORDS[columns], GLOBAL[rows], return_parts=True)
    assert set(parts) == {"similarity", "local", "global"}


def test_pairs_are_pairwise_whatever_the_conditioning():
    paired = similarity(conditioning="paired")
    inputs = REGIONS[:, None], WORDS[None], GLOBAL[:, None], REGION_MASK[:, None], WORD_MASK[None]
    np.testing.assert_allclose(numpy(compiled(lambda *inputs: paired.pairs(*inputs))(*inputs)), scores(), atol=1e-6)


def test_paired_equals_pairwise_at_the_true_pairs():
    paired = similarity(conditioning="paired")
    expected = numpy(CALL(REGIONS, WORDS[:3], GLOBAL, REGION_MASK, WORD_MASK[:3]))
    call = compiled(lambda *inputs: paired(*inputs, training=True))
    actual = numpy(call(REGIONS, WORDS[:3], GLOBAL, REGION_MASK, WORD_MASK[:3]))
    np.testing.assert_allclose(np.diagonal(actual), np.diagonal(expected), atol=1e-6)
    assert np.abs(actual - expected).max() > 1e-3


def test_only_pairwise_ignores_the_rest_of_the_batch():
    whole = scores()
    part = CALL(REGIONS[1:2], WORDS[2:4], GLOBAL[1:2], REGION_MASK[1:2], WORD_MASK[2:4])
    np.testing.assert_allclose(numpy(part), whole[1:2, 2:4], atol=1e-6)


def test_empty_short_and_zero_texts():
    words, word_mask, region_mask = WORDS.copy(), WORD_MASK.copy(), REGION_MASK.copy()
    word_mask[0], word_mask[1], word_mask[2] = False, np.arange(4) == 2, np.arange(4) < 2
    word_mask[3], words[3], region_mask[2] = np.arange(4) == 1, 0, False
    layer = HierarchicalSimilarity(8, num_heads=2)
    layer.build((None, None, 8), (None, None, 8), (None, 7))
    parts = layer(REGIONS, words, GLOBAL, region_mask, word_mask, return_parts=True)
    # The biases are zero: nothing points anywhere.
    assert not numpy(parts["local"])[:, [0, 3]].any() and not numpy(parts["global"])[:, [0, 3]].any()
    total = compiled(weighted(layer, region_mask, word_mask))
    value, grads = gradients(total, [REGIONS, words, GLOBAL], variables_of(layer))
    # The epsilon in place of a length would make them 1e8.
    assert np.isfinite(value) and all(np.abs(grad).max() < 1e3 for grad in grads)


def test_length_of_the_global_feature_does_not_matter():
    expected = scores()
    np.testing.assert_allclose(numpy(CALL(REGIONS, WORDS, 50 * GLOBAL, *MASKS)), expected, atol=1e-6)
    assert np.isfinite(numpy(CALL(REGIONS, WORDS, 0 * GLOBAL, *MASKS))).all()


@pytest.mark.parametrize("weight,part", [(1.0, "local"), (0.0, "global")])
def test_local_weight(weight, part):
    parts = similarity(local_weight=weight)(REGIONS, WORDS, GLOBAL, *MASKS, return_parts=True)
    np.testing.assert_array_equal(numpy(parts["similarity"]), numpy(parts[part]))


def test_mixed_precision():
    layer = similarity(dtype="mixed_bfloat16")
    halves = [ops.cast(x, "bfloat16") for x in (REGIONS, WORDS, GLOBAL)]
    expected = scores()
    for result in (layer(*halves, *MASKS), similarity(conditioning="paired", dtype="mixed_bfloat16").pairs(
        halves[0][:, None], halves[1][None], halves[2][:, None], REGION_MASK[:, None], WORD_MASK[None]
    )):  # fmt: skip
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
        np.testing.assert_allclose(numpy(result), expected, atol=3e-2)


def test_configuration_and_weights_round_trip(tmp_path):
    layer = similarity(local_weight=0.7, text_chunk_size=2, image_to_text_scale=3.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config() and copy.attention.image_to_text_scale == 3.0
    keras.saving.save_weights(layer, tmp_path / "similarity.weights.h5")
    keras.saving.load_weights(copy, tmp_path / "similarity.weights.h5")
    np.testing.assert_allclose(
        numpy(copy(REGIONS, WORDS, GLOBAL, *MASKS)), numpy(layer(REGIONS, WORDS, GLOBAL, *MASKS)), atol=1e-6
    )


class Learner(keras.Model):
    """The terms of AsCL over features with weights of their own."""

    def __init__(self, **options):
        super().__init__()
        self.dense = keras.layers.Dense(8)
        self.dense.build((None, None, 6))
        self.negatives = TextNegatives(seed=1)
        self.similarity = HierarchicalSimilarity(8, num_heads=2, **options)
        self.similarity.build((None, None, 8), (None, None, 8), (None, 7))
        self.built = True

    def call(self, inputs, training=False):
        return self.dense(inputs["words"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        words = ops.concatenate([y_pred, self.negatives(y_pred, x["word_mask"], training=training)])
        word_mask = ops.concatenate([x["word_mask"], x["word_mask"]])
        result = self.similarity(x["regions"], words, x["image_global"], x["region_mask"], word_mask, training=training)
        return asymmetry_sensitive_contrastive(result)


# The last batch of five is smaller.
@pytest.mark.parametrize("count,options", [(5, {}), (4, {"conditioning": "paired", "text_chunk_size": 3})])
def test_trains_inside_fit(count, options):
    data = {
        "regions": unit_regions(count, 5, 8),
        "words": draw(count, 4, 6),
        "image_global": draw(count, 7),
        "region_mask": holes(count, 5),
        "word_mask": holes(count, 4),
    }
    model = Learner(**options)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    before = [numpy(variable).copy() for variable in model.trainable_variables]
    losses = model.fit(data, batch_size=4, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert all((numpy(v) != old).any() for v, old in zip(model.trainable_variables, before, strict=True))


def test_errors():
    paired = similarity(conditioning="paired")
    for options in ({}, {"training": False}):
        with pytest.raises(ValueError, match="conditioning='paired' shows every image its own text, received training"):
            paired(REGIONS, WORDS, GLOBAL, **options)
    with pytest.raises(ValueError, match="must be a multiple of that of the images, received 5 and 3"):
        paired(REGIONS, WORDS[:5], GLOBAL, training=True)
    with pytest.raises(ValueError, match="conditioning must be 'pairwise' or 'paired', received 'none'"):
        HierarchicalSimilarity(8, conditioning="none")
    with pytest.raises(ValueError, match="num_heads must divide embedding_dim, received 3 and 8"):
        HierarchicalSimilarity(8, num_heads=3)
    with pytest.raises(ValueError, match=r"local_weight must be between 0 and 1, received 1\.5"):
        HierarchicalSimilarity(8, local_weight=1.5)
    with pytest.raises(ValueError, match="must have the width embedding_dim=16, received 8 and 8"):
        HierarchicalSimilarity(16)(REGIONS, WORDS, GLOBAL)
