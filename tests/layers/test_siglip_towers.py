import keras
import numpy as np
import pytest
from support import draw, gradients

from keras_itr.layers import SigLIPTextTower, SigLIPVisionTower

SIZES = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 12}
IDS = np.array([[4, 5, 1, 1], [6, 7, 8, 2]], "int32")
INPUTS = {"images": draw(2, 16, 16, 3), "token_ids": IDS, "padding_mask": IDS != 1}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def towers():
    return SigLIPVisionTower(16, patch_size=8, **SIZES), SigLIPTextTower(12, 4, embedding_dim=6, **SIZES)


@pytest.mark.parametrize("side", [0, 1])
def test_contract(side):
    tower = towers()[side]
    assert tower.built and tower.input_key in INPUTS
    features = tower(INPUTS)
    assert numpy(features["pooled"]).shape == (2, tower.output_dim)
    assert numpy(features["tokens"]).shape == (2, 4, tower.token_dim)
    np.testing.assert_array_equal(numpy(features["mask"]), [np.ones((2, 4), bool), IDS != 1][side])
    copy = type(tower).from_config(tower.get_config())
    assert copy.get_config() == tower.get_config() and len(copy.weights) == len(tower.weights)
    copy.set_weights(tower.get_weights())
    np.testing.assert_allclose(numpy(copy(INPUTS)["pooled"]), numpy(features["pooled"]), atol=1e-6)


@pytest.mark.parametrize("side", [0, 1])
def test_every_weight_has_a_gradient_once(side):
    tower = towers()[side]
    variables = tower.trainable_variables
    assert len({id(variable) for variable in variables}) == len(variables)
    cotangent = keras.ops.convert_to_tensor(draw(2, tower.output_dim, seed=9))
    _, grads = gradients(lambda: keras.ops.sum(tower(INPUTS, training=True)["pooled"] * cotangent), variables=variables)
    idle = [v.path for v, g in zip(variables, grads, strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike.
    assert not [path for path in idle if "key/bias" not in path], idle


def test_the_image_is_a_square_of_patches_and_captions_are_of_one_length():
    with pytest.raises(
        ValueError, match=r"image_size must be square and a multiple of patch_size 8, received \(20, 20\)"
    ):
        SigLIPVisionTower(20, patch_size=8, **SIZES)
    with pytest.raises(ValueError, match="SigLIP reads 4 ids a caption, padding included, received 3"):
        towers()[1]({"token_ids": IDS[:, :3]})
