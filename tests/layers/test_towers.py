import keras
import numpy as np
import pytest
from support import draw

from keras_itr.layers import (
    ConvolutionalTower,
    MaskedPooling,
    RecurrentTextTower,
    RegionTower,
    SentenceFeatureTower,
    TransformerTextTower,
    VisionTransformerTower,
)
from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.models import DualEncoderBackbone

IDS = np.array([[2, 4, 5, 3, 0, 0], [2, 6, 7, 8, 9, 3]], "int32")
PIXELS = draw(2, 16, 16, 3)
TOWERS = {
    "region": (lambda **k: RegionTower(6, 8, **k), {"regions": draw(2, 4, 6)}, 4),
    "convolutional": (
        lambda **k: ConvolutionalTower((16, 16), (4, 6), embedding_dim=8, **k),
        {"images": PIXELS},
        16,
    ),
    "vision_transformer": (
        lambda **k: VisionTransformerTower((16, 16), 8, 8, num_layers=1, num_heads=2, **k),
        {"images": PIXELS},
        4,
    ),
    "recurrent": (
        lambda **k: RecurrentTextTower(12, 8, word_dim=5, **k),
        {"token_ids": IDS, "padding_mask": IDS > 0},
        6,
    ),
    "transformer": (
        lambda **k: TransformerTextTower(12, 6, 8, num_layers=1, num_heads=2, **k),
        {"token_ids": IDS, "padding_mask": IDS > 0},
        6,
    ),
    "sentence_feature": (lambda **k: SentenceFeatureTower(6, 8, **k), {"text_features": draw(2, 6)}, None),
}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


@pytest.mark.parametrize("name", TOWERS)
def test_contract(name):
    make, inputs, tokens = TOWERS[name]
    tower = make()
    assert tower.built and tower.input_key in inputs
    features = tower(inputs)
    assert numpy(features["pooled"]).shape == (2, tower.output_dim) == (2, 8)
    if tokens is None:
        assert "tokens" not in features
    else:
        assert numpy(features["tokens"]).shape == (2, tokens, tower.token_dim)
        assert numpy(features["mask"]).shape == (2, tokens)
    count = len(tower.weights)
    copy = type(tower).from_config(tower.get_config())
    assert copy.get_config() == tower.get_config() and len(copy.weights) == count
    copy.set_weights(tower.get_weights())
    np.testing.assert_allclose(numpy(copy(inputs)["pooled"]), numpy(features["pooled"]), atol=1e-6)


@pytest.mark.parametrize("name", TOWERS)
def test_every_weight_has_a_gradient(name):
    from support import gradients

    make, inputs, _ = TOWERS[name]
    tower = make()
    variables = tower.trainable_variables
    cotangent = keras.ops.convert_to_tensor(draw(2, 8, seed=9))
    _, grads = gradients(lambda: keras.ops.sum(tower(inputs, training=True)["pooled"] * cotangent), variables=variables)
    idle = [v.path for v, g in zip(variables, grads, strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike; a GPO of equal counts may saturate.
    assert not [path for path in idle if "key/bias" not in path and "pooling" not in path], idle


@pytest.mark.parametrize("pooling", ["gpo", "mean", "max", "first"])
@pytest.mark.parametrize("name", ["recurrent", "transformer"])
def test_padding_does_not_change_a_caption(name, pooling):
    make, inputs, _ = TOWERS[name]
    tower = make(pooling=pooling)
    short = {"token_ids": IDS[:1, :4], "padding_mask": IDS[:1, :4] > 0}
    whole = numpy(tower(inputs)["pooled"])[0]
    np.testing.assert_allclose(numpy(tower(short)["pooled"])[0], whole, atol=1e-5)


def test_the_flat_pooling_of_the_convnet_sees_where_things_are():
    image = np.zeros((1, 16, 16, 3), "float32")
    image[0, 6:9, 5:8] = 1
    moved = np.roll(image, 4, axis=2)
    for pooling, differs in (("flatten", True), ("mean", False)):
        tower = ConvolutionalTower((16, 16), (4,), 8, pooling=pooling)
        one, other = (numpy(tower({"images": x})["pooled"]) for x in (image, moved))
        assert (np.abs(one - other).max() > 1e-3) == differs


def test_errors_of_sizes_and_pooling():
    with pytest.raises(ValueError, match="multiple of 16"):
        ConvolutionalTower((24, 24), (4, 4, 4, 4))
    with pytest.raises(ValueError, match="multiple of patch_size 7"):
        VisionTransformerTower((64, 64), patch_size=7)
    with pytest.raises(ValueError, match="did you mean 'gpo'"):
        get_pooling("gop")
    with pytest.raises(ValueError, match="'mean', 'max' or 'first'"):
        MaskedPooling("median")


def test_masked_pooling_of_an_empty_row_is_zero():
    mask = np.array([[True, False, True], [False, False, False]])
    features = draw(2, 3, 4)
    for mode, expected in (("mean", features[0, [0, 2]].mean(0)), ("max", features[0, [0, 2]].max(0))):
        pooled = numpy(MaskedPooling(mode)(features, mask))
        np.testing.assert_allclose(pooled, [expected, np.zeros(4)], atol=1e-6)


def test_backbone_runs_what_is_there_and_projects_to_one_width():
    backbone = DualEncoderBackbone(RegionTower(6, 8), SentenceFeatureTower(6, 10), embedding_dim=8)
    assert backbone.image_projection is None and backbone.text_projection is not None
    both = backbone({"regions": draw(2, 4, 6), "text_features": draw(3, 6), "other": draw(1, 1)})
    assert numpy(both["text_global"]).shape == (3, 8) and numpy(both["image_tokens"]).shape == (2, 4, 8)
    assert set(backbone({"text_features": draw(3, 6)})) == {"text_global"}
    copy = DualEncoderBackbone.from_config(backbone.get_config())
    assert len(copy.weights) == len(backbone.weights)
    with pytest.raises(ValueError, match="needs 'regions' or 'text_features', received 'images'"):
        backbone({"images": draw(1, 2, 2, 3)})
    with pytest.raises(ValueError, match="text_tower must be a Tower of side 'text', received RegionTower"):
        DualEncoderBackbone(RegionTower(6, 8), RegionTower(6, 8))
