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
