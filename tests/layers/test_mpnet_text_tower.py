import keras
import numpy as np
import pytest
from support import draw, gradients

from keras_itr.layers import MPNetTextTower
from keras_itr.layers.mpnet_text_tower import distance_buckets

IDS = np.array([[2, 4, 5, 3, 0, 0], [2, 6, 7, 8, 9, 3]], "int32")
INPUTS = {"token_ids": IDS, "padding_mask": IDS > 0}


def tower(**kwargs):
    sizes = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
    return MPNetTextTower(12, **{"sequence_length": 6, **sizes, **kwargs})


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def test_contract():
    ours = tower()
    features = ours(INPUTS)
    assert ours.built and numpy(features["pooled"]).shape == (2, ours.output_dim) == (2, 8)
    assert numpy(features["tokens"]).shape == (2, 6, ours.token_dim)
    np.testing.assert_array_equal(numpy(features["mask"]), IDS > 0)
    copy = MPNetTextTower.from_config(ours.get_config())
    assert copy.get_config() == ours.get_config()
    copy.set_weights(ours.get_weights())
    np.testing.assert_allclose(numpy(copy(INPUTS)["pooled"]), numpy(features["pooled"]), atol=1e-6)
    with pytest.raises(ValueError, match="num_heads 3 must divide hidden_dim 8"):
        tower(num_heads=3)


def test_padding_and_a_shorter_input_do_not_change_a_caption():
    ours = tower()
    whole = numpy(ours(INPUTS)["pooled"])
    other = ours({**INPUTS, "token_ids": np.where(IDS > 0, IDS, 7)})
    np.testing.assert_allclose(numpy(other["pooled"]), whole, atol=1e-6)
    short = ours({"token_ids": IDS[:1, :4]})
    np.testing.assert_allclose(numpy(short["pooled"])[0], whole[0], atol=1e-5)


def test_every_weight_has_a_gradient():
    ours = tower(dropout=0.0, num_buckets=8)
    variables = ours.trainable_variables
    # The last normalisation makes a plain sum of the output constant.
    cotangent = keras.ops.convert_to_tensor(draw(2, 8, seed=9))
    _, grads = gradients(lambda: keras.ops.sum(ours(INPUTS, training=True)["pooled"] * cotangent), variables=variables)
    idle = [v.path for v, g in zip(variables, grads, strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike.
    assert not [path for path in idle if "key/bias" not in path], idle


def test_mixed_precision():
    exact, ours = tower(), tower(dtype="mixed_bfloat16")
    ours.set_weights(exact.get_weights())
    tokens = ours(INPUTS)["tokens"]
    assert keras.backend.standardize_dtype(tokens.dtype) == "bfloat16"
    pooled = numpy(keras.ops.cast(ours(INPUTS)["pooled"], "float32"))
    np.testing.assert_allclose(pooled, numpy(exact(INPUTS)["pooled"]), atol=0.1)


def test_distances_count_exactly_when_near_and_by_the_logarithm_when_far():
    buckets = distance_buckets(200)
    assert buckets.shape == (200, 200) and (np.diag(buckets) == 0).all()
    np.testing.assert_array_equal(buckets[0, [1, 7, 8, 15, 16, 199]], [17, 23, 24, 25, 26, 31])
    np.testing.assert_array_equal(buckets[[1, 7, 8, 15, 16, 199], 0], [1, 7, 8, 9, 10, 15])
