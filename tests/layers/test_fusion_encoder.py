import math

import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients

from keras_itr.layers import FusionEncoder

TEXT, IMAGE = draw(2, 5, 6), draw(2, 4, 10, seed=1)
TEXT_MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
IMAGE_MASK = np.array([[1, 0, 1, 0], [1, 1, 1, 1]], bool)
MASKS = {"text_mask": TEXT_MASK, "image_mask": IMAGE_MASK}


def fusion(dropout=0.0, **kwargs):
    layer = FusionEncoder(2, 2, 8, 12, dropout, **kwargs)
    layer.build(TEXT.shape, IMAGE.shape)
    # Kernels of a standard deviation of 0.02 would hide mistakes behind the residuals.
    for seed, weight in enumerate(layer.weights):
        weight.assign(draw(*weight.shape, seed=seed) * 0.4 + ("gamma" in weight.path))
    return layer


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def normalised(x, layer):
    gamma, beta = numpy(layer.gamma), numpy(layer.beta)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * gamma + beta


def attended(query, value, mask, layer):
    """Multi-head attention, one head after the other."""
    dense = {
        name: (numpy(part.kernel), numpy(part.bias))
        for name, part in (("q", layer._query_dense), ("k", layer._key_dense), ("v", layer._value_dense))
    }
    total = numpy(layer._output_dense.bias)
    for head in range(2):
        q, k, v = (
            x @ dense[name][0][:, head] + dense[name][1][head] for name, x in (("q", query), ("k", value), ("v", value))
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        scores = np.where(mask[:, None, :], scores, -np.inf)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        total = total + chances @ v @ numpy(layer._output_dense.kernel)[head]
    return total


def oracle(layer, text, image, text_mask, image_mask):
    text = text @ numpy(layer.text_projection.kernel) + numpy(layer.text_projection.bias)
    image = image @ numpy(layer.image_projection.kernel) + numpy(layer.image_projection.bias)
    for block in layer.blocks:
        text = normalised(
            text + attended(text, text, text_mask, block._self_attention_layer), block._self_attention_layer_norm
        )
        text = normalised(
            text + attended(text, image, image_mask, block._cross_attention_layer), block._cross_attention_layer_norm
        )
        wide, narrow = block._feedforward_intermediate_dense, block._feedforward_output_dense
        hidden = text @ numpy(wide.kernel) + numpy(wide.bias)
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        text = normalised(text + hidden @ numpy(narrow.kernel) + numpy(narrow.bias), block._feedforward_layer_norm)
    return text


def test_equals_a_plain_post_norm_stack():
    layer = fusion()
    everything = np.ones((2, 5), bool), np.ones((2, 4), bool)
    np.testing.assert_allclose(numpy(layer(TEXT, IMAGE)), oracle(layer, TEXT, IMAGE, *everything), rtol=1e-5, atol=1e-5)
    masked = numpy(layer(TEXT, IMAGE, **MASKS))
    expected = oracle(layer, TEXT, IMAGE, TEXT_MASK, IMAGE_MASK)
    np.testing.assert_allclose(masked[TEXT_MASK], expected[TEXT_MASK], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_not_even_nan():
    layer = fusion()
    plain = numpy(layer(TEXT, IMAGE, **MASKS))
    text, image = TEXT.copy(), IMAGE.copy()
    text[~TEXT_MASK], image[~IMAGE_MASK] = np.nan, np.nan
    np.testing.assert_allclose(numpy(layer(text, image, **MASKS))[TEXT_MASK], plain[TEXT_MASK], atol=1e-6)
    short = numpy(layer(TEXT[:1, :3], IMAGE[:1, [0, 2]]))
    np.testing.assert_allclose(short[0], plain[0, :3], rtol=1e-5, atol=1e-5)


def test_an_image_without_regions_is_finite():
    output = numpy(fusion()(TEXT, IMAGE, image_mask=np.zeros((2, 4), bool)))
    assert np.isfinite(output).all()


def test_every_weight_has_a_gradient():
    layer = fusion()
    variables = layer.trainable_variables
    cotangent = ops.convert_to_tensor(draw(2, 5, 8, seed=9))
    _, grads = gradients(
        lambda text, image: ops.sum(layer(text, image, **MASKS, training=True) * cotangent), [TEXT, IMAGE], variables
    )
    idle = [v.path for v, g in zip(variables, grads[2:], strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike.
    assert not [path for path in idle if "key/bias" not in path], idle
    assert not grads[1][~IMAGE_MASK].any() and np.abs(grads[1][IMAGE_MASK]).min() > 0


def test_dropout_is_for_training():
    layer = fusion(dropout=0.5)
    quiet, again = (numpy(layer(TEXT, IMAGE)) for _ in range(2))
    np.testing.assert_array_equal(quiet, again)
    assert np.abs(numpy(layer(TEXT, IMAGE, training=True)) - quiet).max() > 1e-3


def test_projections_only_where_widths_differ():
    layer = FusionEncoder(1, 2, 8, 12, 0.0)
    assert numpy(layer(draw(1, 3, 8), draw(1, 2, 10))).shape == (1, 3, 8)
    assert layer.text_projection is None and layer.image_projection is not None
    with pytest.raises(ValueError, match="num_heads must divide hidden_dim, received 3 and 8"):
        FusionEncoder(1, 3, 8, 12, 0.0)


def test_configuration_and_weights_round_trip(tmp_path):
    layer = fusion(dropout=0.1)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config() and len(copy.weights) == len(layer.weights)
    keras.saving.save_weights(layer, tmp_path / "fusion.weights.h5")
    keras.saving.load_weights(copy, tmp_path / "fusion.weights.h5")
    np.testing.assert_allclose(numpy(copy(TEXT, IMAGE, **MASKS)), numpy(layer(TEXT, IMAGE, **MASKS)), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer, plain = fusion(dtype=policy), fusion()
    masks = {"text_mask": TEXT_MASK, "image_mask": np.array([[0, 0, 0, 0], [1, 1, 1, 1]], bool)}
    output = numpy(ops.cast(layer(TEXT, IMAGE, **masks), "float32"))
    assert np.isfinite(output).all()
    expected = numpy(plain(TEXT, IMAGE, **masks))
    assert np.abs(output - expected)[TEXT_MASK].max() < 0.1 * np.abs(expected[TEXT_MASK]).max()
