import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from support import draw

from keras_itr.layers import GridFeatures, GridTower, RegionTower, build_image_network
from keras_itr.layers.image_networks import applications, pixel_scaling

SMALL = {"alpha": 0.35}


@pytest.fixture(scope="module")
def images():
    return draw(2, 64, 64, 3)


def test_cells_are_means_of_the_map_row_by_row(images):
    features = GridFeatures("MobileNetV2", (64, 128), arguments=SMALL, grid=(1, 2))
    wide = draw(2, 64, 128, 3)
    whole = ops.convert_to_numpy(features.network(wide, training=False))  # (2, 2, 4, 1280)
    expected = whole.reshape(2, 2, 2, 2, 1280).mean(axis=(1, 3))
    np.testing.assert_allclose(ops.convert_to_numpy(features(wide)), expected, rtol=1e-4, atol=1e-5)
    every = GridFeatures("MobileNetV2", (64, 64), arguments=SMALL)
    every.network.set_weights(features.network.get_weights())
    whole = ops.convert_to_numpy(every.network(images, training=False))
    np.testing.assert_allclose(ops.convert_to_numpy(every(images)), whole.reshape(2, 4, 1280), rtol=1e-5, atol=1e-6)


def test_a_pca_projects_the_centred_cells(images, tmp_path):
    plain = GridFeatures("MobileNetV2", (64, 64), arguments=SMALL)
    mean, components = draw(1280), draw(1280, 5, seed=1)
    np.savez(tmp_path / "pca.npz", mean=mean, components=components.astype("float16"), explained=0.9)
    projected = GridFeatures("MobileNetV2", (64, 64), arguments=SMALL, pca=str(tmp_path / "pca.npz"))
    projected.network.set_weights(plain.network.get_weights())
    expected = (ops.convert_to_numpy(plain(images)) - mean) @ components.astype("float16").astype("float32")
    np.testing.assert_allclose(ops.convert_to_numpy(projected(images)), expected, rtol=1e-3, atol=1e-2)
    again = GridFeatures.from_config(projected.get_config())
    again.set_weights(projected.get_weights())
    np.testing.assert_allclose(ops.convert_to_numpy(again(images)), expected, rtol=1e-3, atol=1e-2)


def test_frozen_partly_frozen_and_trained():
    frozen, part, whole = (
        GridFeatures("MobileNetV2", (64, 64), arguments=SMALL, unfreeze=unfreeze)
        for unfreeze in (None, "block_16|Conv_1", "all")
    )
    assert not frozen.trainable_weights
    assert len(part.trainable_weights) == 12 and len(whole.trainable_weights) == 156
    assert all("block_16" in weight.path or "Conv_1" in weight.path for weight in part.trainable_weights)
    revived = GridFeatures.from_config(part.get_config())
    assert len(revived.trainable_weights) == 12
    with pytest.raises(ValueError, match=r"'block_99' matches no weight of the 104 layers; near: \['block_9"):
        GridFeatures("MobileNetV2", (64, 64), arguments=SMALL, unfreeze="block_99")


def test_a_step_moves_what_is_unfrozen_and_no_statistics(images):
    tower = GridTower.from_network("MobileNetV2", (64, 64), arguments=SMALL, unfreeze="Conv_1", embedding_dim=4)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def call(self, inputs):
            return self.tower({"images": inputs}, training=True)["pooled"]

    model = Model()
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    before = {weight.path: ops.convert_to_numpy(weight).copy() for weight in tower.grid_features.weights}
    model.fit(images, np.ones((2, 4), "float32"), verbose=0)
    moved = {
        weight.path
        for weight in tower.grid_features.weights
        if not np.array_equal(before[weight.path], ops.convert_to_numpy(weight))
    }
    assert moved and all("Conv_1" in path and "moving" not in path for path in moved)


@pytest.mark.parametrize("top", [True, False])
def test_weights_from_a_file_with_and_without_the_classifier(images, tmp_path, top):
    options = {"include_top": True, "classes": 7} if top else {"include_top": False}
    source = keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), alpha=0.35, **options)
    source.save_weights(tmp_path / "given.weights.h5")
    features = GridFeatures("MobileNetV2", (64, 64), arguments=SMALL, weights=str(tmp_path / "given.weights.h5"))
    for mine, given in zip(features.network.get_weights(), source.get_weights(), strict=False):
        np.testing.assert_array_equal(mine, given)
    config = features.get_config()
    assert "weights" not in config and GridFeatures.from_config(config).output_dim == 1280


def test_faults_are_one_line(tmp_path):
    (tmp_path / "no.weights.h5").write_bytes(b"no HDF5")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    np.savez(tmp_path / "narrow.npz", mean=np.zeros(3), components=np.zeros((3, 2)))
    faults = [
        ({"network": "MobilNetV2"}, "did you mean 'MobileNetV2'"),
        ({"network": "NopeBackbone"}, "no image network"),
        ({"weights": str(tmp_path / "none.weights.h5")}, "no such file"),
        ({"weights": str(tmp_path / "no.weights.h5")}, "could not be had"),
        ({"grid": (3, 3)}, "does not divide the network's map of \\(2, 2\\)"),
        ({"grid": 4}, "two positive integers"),
        ({"grid": (4,)}, "two positive integers"),
        ({"grid": (0, 0)}, "two positive integers"),
        ({"unfreeze": True}, "regular expression"),
        ({"pca": str(tmp_path / "no.weights.h5")}, "is no .npz file"),
        ({"pca": str(tmp_path / "none.npz")}, "is no .npz file, or is not there"),
        ({"pca": str(tmp_path / "other.npz")}, "needs the arrays 'mean' and 'components'"),
        ({"pca": str(tmp_path / "narrow.npz")}, "do not fit a network of width 1280"),
    ]
    for arguments, message in faults:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
            GridFeatures(**{"network": "MobileNetV2", "image_size": (64, 64), "arguments": SMALL, **arguments})
        assert "\n" not in str(raised.value)


def test_a_keras_hub_backbone_of_tokens(tmp_path):
    arguments = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    vit = keras_hub.models.ViTBackbone(image_shape=(64, 64, 3), **arguments)
    vit.save_to_preset(str(tmp_path / "vit"))
    features = GridFeatures("ViTBackbone", (64, 64), weights=str(tmp_path / "vit"))
    images = draw(2, 64, 64, 3)
    expected = ops.convert_to_numpy(vit(images))[:, 1:]  # without the class token
    np.testing.assert_allclose(ops.convert_to_numpy(features(images)), expected, rtol=1e-4, atol=1e-5)
    again = GridFeatures.from_config(features.get_config())
    assert again(images).shape == (2, 16, 8)
    with pytest.raises(ValueError, match="could not be had"):
        build_image_network("ViTBackbone", (64, 64), weights=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetB0", "MobileNetV3Small"])
def test_pixel_scaling_is_what_the_library_does(name):
    assert name in applications()
    scale, offset, is_bgr = pixel_scaling(name)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3)).astype("float32")
    module = {"ResNet50": "resnet50", "MobileNetV3Small": "mobilenet_v3", "DenseNet121": "densenet"}.get(name)
    module = module or {"MobileNetV2": "mobilenet_v2", "EfficientNetB0": "efficientnet"}[name]
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    ours = pixels * np.array(scale) + np.array(offset)
    np.testing.assert_allclose(ours[..., ::-1] if is_bgr else ours, expected, rtol=1e-5, atol=1e-4)
    assert is_bgr == (name == "ResNet50")
    assert pixel_scaling("ViTBackbone") is None


def test_a_tower_of_other_width_is_refused():
    with pytest.raises(ValueError, match="rows of width 12"):
        GridTower(GridFeatures("MobileNetV2", (64, 64), arguments=SMALL), RegionTower(12, 4))
