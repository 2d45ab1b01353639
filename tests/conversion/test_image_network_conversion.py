import json
import re

import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.layers import build_image_network

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def network(kind, folder):
    """A random network of the source library, saved to `folder`, and a function for its tokens."""
    library = sources.transformers()
    sizes = {"intermediate_size": 40} if kind.startswith("vit") else {"mlp_ratio": 2}
    config, cls = {
        "vit": (library.ViTConfig, library.ViTModel),
        "vit_with_classifier": (library.ViTConfig, library.ViTForImageClassification),
        "dinov2": (library.Dinov2Config, library.Dinov2Model),
        "dinov2_with_registers": (library.Dinov2WithRegistersConfig, library.Dinov2WithRegistersModel),
    }[kind]
    model = sources.vary(cls(config(**SIZES, **sizes)))
    model.save_pretrained(folder)
    inner = getattr(model, "vit", model)
    return lambda images: inner(sources.channels_first(images)).last_hidden_state.detach().numpy()


@pytest.mark.parametrize("kind", ["vit", "vit_with_classifier", "dinov2", "dinov2_with_registers"])
def test_tokens_are_those_of_the_source_library(kind, tmp_path):
    tokens = network(kind, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    name = "ViTBackbone" if kind.startswith("vit") else "DINOV2Backbone"
    loaded = build_image_network(name, (32, 32), weights=str(tmp_path / "preset"))
    images = sources.pixels(2, 32)
    inputs = images if name == "ViTBackbone" else {"images": images}
    np.testing.assert_allclose(numpy(loaded(inputs)), tokens(images), atol=1e-4)
    assert (tmp_path / "preset/image_converter.json").is_file()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_tensor_without_a_place_is_named(kind, tmp_path):
    network(kind, tmp_path / "source")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "source/model.safetensors"
    save_file({**load_file(path), "adapter.weight": sources.torch().zeros(2)}, path)
    with pytest.raises(ValueError, match=r"1 not used: adapter\.weight"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert not (tmp_path / "preset").exists()


PROCESSOR = {"do_center_crop": True, "size": {"shortest_edge": 26}, "crop_size": {"height": 24, "width": 24}}


@pytest.mark.parametrize(("kind", "side"), [("vit", 32), ("dinov2", 24), ("dinov2_with_registers", 24)])
def test_the_pixels_are_as_many_as_the_processor_cuts_if_the_network_takes_them(kind, side, tmp_path):
    tokens = network(kind, tmp_path / "source")
    (tmp_path / "source/preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "resample": 4}))
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    converter = json.loads((tmp_path / "preset/image_converter.json").read_text())["config"]
    assert converter["image_size"] == [side, side] and converter["crop_to_aspect_ratio"]
    notes = json.loads((tmp_path / "preset/conversion.json").read_text())["notes"]
    cut = (
        f"shrinks the shorter side to 26 and cuts 24 x 24 out of the middle; here .* to {side} x {side}, .* 1.08 times"
    )
    assert any(re.search(cut, note) for note in notes)
    assert any("PIL's filter 4, which is not here; it is bi" in note for note in notes)
    fixed = "processor makes 24 x 24 pixels, the network has positions for 32 x 32"
    assert any(fixed in note for note in notes) == (kind == "vit")
    if kind != "vit":
        images = sources.pixels(2, side)
        loaded = build_image_network("DINOV2Backbone", (side, side), weights=str(tmp_path / "preset"))
        # Without a filter, the source's bicubic kernel is another than TensorFlow's.
        tolerance = 0.05 if kind == "dinov2" else 1e-4
        np.testing.assert_allclose(numpy(model({"images": images})), tokens(images), atol=tolerance)
        np.testing.assert_allclose(numpy(loaded({"images": images})), tokens(images), atol=tolerance)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": None, "image_std": None}, None),
        ({"image_mean": [0.5]}, "image_mean of its processor must be three numbers, received"),
        ({"image_std": [0, 1, 1]}, "image_std of its processor must not be 0"),
    ],
)
def test_means_and_deviations_of_pixels(settings, message, tmp_path):
    network("vit", tmp_path / "source")
    (tmp_path / "source/preprocessor_config.json").write_text(json.dumps(settings))
    if message:
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "source", tmp_path / "preset", verbose=False)
        return
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    config = json.loads((tmp_path / "preset/image_converter.json").read_text())["config"]
    np.testing.assert_allclose(config["offset"], -1)


@pytest.mark.parametrize(
    ("settings", "crops"),
    [
        ({"size": 32}, False),
        ({"size": 32, "do_center_crop": True}, True),
        ({"size": {"shortest_edge": 32}}, True),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": True, "crop_size": 32}, False),
        ({}, False),
    ],
)
def test_a_photo_is_cut_or_stretched_as_the_processor_does_it(settings, crops, tmp_path):
    network("vit", tmp_path / "source")
    (tmp_path / "source/preprocessor_config.json").write_text(json.dumps(settings))
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    config = json.loads((tmp_path / "preset/image_converter.json").read_text())["config"]
    assert config["crop_to_aspect_ratio"] == crops
