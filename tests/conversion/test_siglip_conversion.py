import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.models import from_preset

IDS = np.array([[5, 6, 7, 1, 1, 1], [5, 9, 10, 11, 2, 1]], "int32")


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def siglip(folder):
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = sources.transformers().SiglipConfig(
        text_config={**sizes, "vocab_size": 12, "max_position_embeddings": 6, "projection_size": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
    )
    model = sources.vary(sources.transformers().SiglipModel(config))
    model.save_pretrained(folder)
    return model


def test_embeddings_are_those_of_the_source_library(tmp_path):
    source = siglip(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    images = sources.pixels(2, 32)
    features = model.backbone({"images": images, "token_ids": IDS, "padding_mask": IDS != 1})
    image = source.get_image_features(sources.channels_first(images))
    text = source.get_text_features(sources.torch().from_numpy(IDS.astype("int64")))
    np.testing.assert_allclose(numpy(features["image_global"]), sources.vectors(image), atol=1e-4)
    np.testing.assert_allclose(numpy(features["text_global"]), sources.vectors(text), atol=1e-4)
    patches = source.vision_model(sources.channels_first(images)).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(numpy(features["image_tokens"]), patches, atol=1e-4)
    np.testing.assert_array_equal(numpy(features["text_mask"]), IDS != 1)
    np.testing.assert_allclose(float(numpy(model.tau())), np.exp(-source.logit_scale.item()), rtol=1e-5)


def test_photos_are_taken_and_captions_are_ids(tmp_path):
    siglip(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    assert model.embed_images([np.zeros((40, 60, 3), "uint8")]).shape == (1, 32)
    assert model.embed_texts({"token_ids": IDS}).shape == (2, 32)
    with pytest.raises(ValueError, match="SigLIP reads 6 ids a caption, padding included, received 5"):
        model.backbone({"token_ids": IDS[:, :5]})


def test_a_lone_file_does_not_say_its_heads(tmp_path):
    source = siglip(tmp_path / "source")
    (tmp_path / "source/config.json").unlink()
    path = tmp_path / "source/model.safetensors"
    with pytest.raises(ValueError, match=r"nothing says how many attention heads its width of 32 is cut into"):
        convert(path, tmp_path / "preset", verbose=False)
    model = convert(path, tmp_path / "preset", num_heads=4, verbose=False)
    text = source.get_text_features(sources.torch().from_numpy(IDS.astype("int64")))
    features = model.backbone({"token_ids": IDS, "padding_mask": IDS != 1})
    np.testing.assert_allclose(numpy(features["text_global"]), sources.vectors(text), atol=1e-4)
