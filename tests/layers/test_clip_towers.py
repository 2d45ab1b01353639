import keras
import keras_hub
import numpy as np
import pytest
from support import draw, gradients

from keras_itr.layers import CLIPTextTower, CLIPVisionTower

SIZES = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 12, "embedding_dim": 6}
# 11 is the end token, the largest id; 0 is a token and the padding.
IDS = np.array([[10, 4, 0, 11, 0, 0], [10, 6, 0, 0, 9, 11]], "int32")
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
PIXELS = draw(2, 16, 16, 3)


def vision(**kwargs):
    return CLIPVisionTower(16, patch_size=8, **{**SIZES, **kwargs})


def text(**kwargs):
    return CLIPTextTower(12, sequence_length=6, **{**SIZES, **kwargs})


TOWERS = {"vision": (vision, {"images": PIXELS}, 4), "text": (text, {"token_ids": IDS, "padding_mask": MASK}, 6)}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


@pytest.mark.parametrize("name", TOWERS)
def test_contract(name):
    make, inputs, tokens = TOWERS[name]
    tower = make()
    assert tower.built and tower.input_key in inputs
    features = tower(inputs)
    assert numpy(features["pooled"]).shape == (2, tower.output_dim) == (2, 6)
    assert numpy(features["tokens"]).shape == (2, tokens, tower.token_dim) == (2, tokens, 8)
    assert numpy(features["mask"]).shape == (2, tokens) and numpy(features["mask"]).dtype == bool
    copy = type(tower).from_config(tower.get_config())
    assert copy.get_config() == tower.get_config() and len(copy.weights) == len(tower.weights)
    copy.set_weights(tower.get_weights())
    np.testing.assert_allclose(numpy(copy(inputs)["pooled"]), numpy(features["pooled"]), atol=1e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_every_weight_has_a_gradient(name):
    make, inputs, _ = TOWERS[name]
    tower = make()
    variables = tower.trainable_variables
    cotangent = keras.ops.convert_to_tensor(draw(2, 6, seed=9))
    _, grads = gradients(lambda: keras.ops.sum(tower(inputs, training=True)["pooled"] * cotangent), variables=variables)
    idle = [v.path for v, g in zip(variables, grads, strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike.
    assert not [path for path in idle if "key/bias" not in path], idle


def test_the_epsilon_of_the_last_normalisation_is_openais():
    assert text().encoder.layer_norm.epsilon == vision().encoder.layer_norm.epsilon == 1e-5


def test_equal_to_the_backbone_of_keras_hub():
    image_tower, text_tower = vision(num_layers=2, activation="gelu"), text(num_layers=2, activation="gelu")
    hub = keras_hub.models.CLIPBackbone(image_tower.encoder, text_tower.encoder, projection_dim=6)
    for tower, projection in ((image_tower, hub.vision_projection), (text_tower, hub.text_projection)):
        projection.set_weights(tower.projection.get_weights())
    expected = numpy(hub.get_vision_embeddings(PIXELS))
    np.testing.assert_allclose(numpy(image_tower({"images": PIXELS})["pooled"]), expected, atol=1e-5)
    expected = numpy(hub.get_text_embeddings(IDS))
    for inputs in ({"token_ids": IDS}, {"token_ids": IDS, "padding_mask": MASK}):
        np.testing.assert_allclose(numpy(text_tower(inputs)["pooled"]), expected, atol=1e-5)


def test_the_tokens_are_those_that_are_pooled():
    tower = text()
    features = tower({"token_ids": IDS, "padding_mask": MASK})
    ends = numpy(features["tokens"])[[0, 1], [3, 5]]
    np.testing.assert_allclose(numpy(tower.projection(ends)), numpy(features["pooled"]), atol=1e-6)
    tower = vision()
    whole = numpy(tower.encoder({"images": PIXELS}))
    features = tower({"images": PIXELS})
    np.testing.assert_allclose(numpy(features["tokens"]), whole[:, 1:], atol=1e-6)
    np.testing.assert_allclose(numpy(tower.projection(whole[:, 0])), numpy(features["pooled"]), atol=1e-6)


def test_padding_does_not_change_a_caption():
    tower = text()
    whole = numpy(tower({"token_ids": IDS, "padding_mask": MASK})["pooled"])
    short = numpy(tower({"token_ids": IDS[:1, :4], "padding_mask": MASK[:1, :4]})["pooled"])
    np.testing.assert_allclose(short[0], whole[0], atol=1e-5)
    other = np.where(MASK, IDS, 7)
    np.testing.assert_allclose(numpy(tower({"token_ids": other, "padding_mask": MASK})["pooled"]), whole, atol=1e-6)


def test_the_end_token_follows_the_mask_or_is_the_largest_id():
    tower = text()
    np.testing.assert_array_equal(numpy(tower({"token_ids": IDS})["mask"]), MASK)
    # With the mask the id does not matter: another tokenizer's end token need not be the largest.
    ids = np.array([[2, 9, 4, 3, 0, 0]], "int32")
    features = tower({"token_ids": ids, "padding_mask": MASK[:1]})
    end = numpy(tower.projection(features["tokens"][:, 3]))
    np.testing.assert_allclose(numpy(features["pooled"]), end, atol=1e-6)


def test_random_vision_weights_see_where_patches_are():
    tower = vision()
    moved = np.roll(PIXELS, 8, axis=2)
    assert np.abs(numpy(tower({"images": moved})["pooled"]) - numpy(tower({"images": PIXELS})["pooled"])).max() > 1e-4


def test_mixed_precision():
    for make, inputs, _ in TOWERS.values():
        pooled = make(dtype="mixed_bfloat16")(inputs)["pooled"]
        assert keras.backend.standardize_dtype(pooled.dtype) == "bfloat16"
        assert np.isfinite(numpy(keras.ops.cast(pooled, "float32"))).all()


@pytest.mark.parametrize("image_size", [(16, 24), 20])
def test_errors_of_sizes(image_size):
    with pytest.raises(ValueError, match="square and a multiple of patch_size 8"):
        CLIPVisionTower(image_size, patch_size=8, **SIZES)
