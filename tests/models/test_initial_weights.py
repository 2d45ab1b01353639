import keras
import keras_hub
import numpy as np
import pytest
from support import draw

from keras_itr.layers import BertTextTower, CLIPTextTower, CLIPVisionTower, RegionTower, SentenceFeatureTower
from keras_itr.models import CLIP, DualEncoderBackbone, load_initial_weights

SIZES = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
IDS = np.array([[10, 4, 0, 11, 0, 0], [10, 6, 0, 0, 9, 11]], "int32")
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
INPUTS = {"images": draw(2, 16, 16, 3), "token_ids": IDS, "padding_mask": MASK}


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def clip_backbone(image_size=16, **kwargs):
    sizes = {**SIZES, **kwargs}
    image_tower = CLIPVisionTower(image_size, patch_size=8, **{"embedding_dim": 6, **sizes})
    return DualEncoderBackbone(image_tower, CLIPTextTower(12, 6, **{"embedding_dim": 6, **SIZES}))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A random CLIP of keras-hub, and the directory it was saved to."""
    clip = keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(8, **SIZES, image_shape=(16, 16, 3), name="vision"),
        keras_hub.models.CLIPTextEncoder(12, 8, **SIZES, max_sequence_length=6, name="text"),
        projection_dim=6,
    )
    # OpenAI's, as in the tower; keras-hub has another one here.
    clip.text_encoder.layer_norm.epsilon = 1e-5
    directory = tmp_path_factory.mktemp("clip")
    clip.save_to_preset(str(directory))
    return clip, directory


def test_the_embeddings_are_those_of_the_preset(hub):
    clip, directory = hub
    backbone = clip_backbone()
    load_initial_weights(backbone, directory)
    features = backbone(INPUTS)
    for key, expected in (
        ("image_global", clip.get_vision_embeddings(INPUTS["images"])),
        ("text_global", clip.get_text_embeddings(IDS)),
    ):
        np.testing.assert_allclose(numpy(features[key]), numpy(expected), atol=1e-5)


def test_a_preset_of_ours_will_do(tmp_path):
    source = CLIP(clip_backbone())
    source.save_to_preset(tmp_path)
    backbone = clip_backbone()
    load_initial_weights(backbone, tmp_path)
    for ours, theirs in zip(backbone.get_weights(), source.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="num_layers: preset has 2, tower has 3"):
        load_initial_weights(clip_backbone(num_layers=3), tmp_path)
    backbone = DualEncoderBackbone(RegionTower(6, 8), SentenceFeatureTower(6, 8))
    with pytest.raises(ValueError, match="need a CLIPVisionTower as image_tower, received RegionTower"):
        load_initial_weights(backbone, tmp_path)


def test_the_weights_go_into_a_retriever_that_trains_and_is_saved(hub, tmp_path):
    backbone = clip_backbone()
    load_initial_weights(backbone, str(hub[1]))
    model = CLIP(backbone)
    model.compile(optimizer="adam")
    before = numpy(model.encode_images(INPUTS)["embedding"])
    model.fit(INPUTS, batch_size=2, verbose=0)
    after = numpy(model.encode_images(INPUTS)["embedding"])
    assert np.abs(after - before).max() > 1e-5
    model.save_to_preset(tmp_path)
    loaded = CLIP.from_preset(str(tmp_path))
    np.testing.assert_allclose(numpy(loaded.encode_images(INPUTS)["embedding"]), after, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 24}, r"image_size: preset has \(16, 16\), tower has \(24, 24\)"),
        ({"num_layers": 3}, "num_layers: preset has 2, tower has 3"),
        ({"embedding_dim": 4}, "embedding_dim: preset has 6, tower has 4"),
        ({"activation": "gelu"}, "activation: preset has 'quick_gelu', tower has 'gelu'"),
    ],
)
def test_another_architecture_is_refused_and_nothing_changes(hub, sizes, message):
    backbone = clip_backbone(**sizes)
    before = backbone.get_weights()
    with pytest.raises(ValueError, match=rf"do not fit image_tower; {message}\.") as raised:
        load_initial_weights(backbone, hub[1])
    assert "\n" not in str(raised.value)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_another_vocabulary_is_refused(hub):
    backbone = DualEncoderBackbone(clip_backbone().image_tower, CLIPTextTower(13, 6, embedding_dim=6, **SIZES))
    with pytest.raises(ValueError, match="do not fit text_tower; vocabulary_size: preset has 12, tower has 13"):
        load_initial_weights(backbone, hub[1])


def test_other_towers_are_refused(hub):
    backbone = DualEncoderBackbone(RegionTower(6, 8), SentenceFeatureTower(6, 8))
    with pytest.raises(ValueError, match="need a CLIPVisionTower as image_tower, received RegionTower"):
        load_initial_weights(backbone, hub[1])


def test_unknown_names_and_directories_without_weights(tmp_path):
    with pytest.raises(ValueError, match=r"no CLIP of keras-hub is called 'clip_vit_base_patch_32'.*base_patch32"):
        load_initial_weights(clip_backbone(), "clip_vit_base_patch_32")
    with pytest.raises(ValueError, match=r"could not be read \(.*no config.json.*save_to_preset wrote"):
        load_initial_weights(clip_backbone(), tmp_path)


@pytest.mark.parametrize("preset", ["clip_vit_base_patch32", "kaggle://a/clip/keras/b", "hf://a/clip"])
def test_without_network_one_line_names_the_handle(preset, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr("kagglehub.model_download", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("keras_itr.hub_handles.hub_answers", lambda handle: True)
    reason = r"\(ConnectionError: Name or service not known and much more\)"
    message = rf"'{preset}' could not be fetched {reason}; a directory that .* will"
    with pytest.raises(ValueError, match=message) as raised:
        load_initial_weights(clip_backbone(), preset)
    assert "\n" not in str(raised.value)


def test_one_tower_starts_from_a_sentence_encoder_of_ours(tmp_path):
    sizes = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
    source = CLIP(DualEncoderBackbone(RegionTower(6, 8), BertTextTower(12, 9, None, **sizes)))
    source.save_to_preset(tmp_path)
    backbone = DualEncoderBackbone(RegionTower(5, 8), BertTextTower(12, 6, 10, pooling="mean", **sizes), 8)
    before = backbone.image_tower.get_weights()
    load_initial_weights(backbone, tmp_path, sides=("text",))
    inputs = {"token_ids": IDS % 12, "padding_mask": MASK}
    expected = numpy(source.backbone.text_tower.encoder({**inputs, "segment_ids": np.zeros_like(IDS)}))
    kernel, bias = backbone.text_tower.projection.get_weights()
    np.testing.assert_allclose(numpy(backbone.text_tower(inputs)["tokens"]), expected @ kernel + bias, atol=1e-5)
    for ours, old in zip(backbone.image_tower.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)
    with pytest.raises(ValueError, match="num_layers: preset has 2, tower has 1"):
        other = BertTextTower(12, 6, 10, **{**sizes, "num_layers": 1})
        load_initial_weights(DualEncoderBackbone(RegionTower(5, 8), other, 8), tmp_path, sides=("text",))
    with pytest.raises(ValueError, match=r"of the text tower: is not there; convert .* tools/convert.py FOLDER minilm"):
        load_initial_weights(backbone, "minilm", sides=("text",))
    with pytest.raises(ValueError, match=r"need a TransformerTextTower as text_tower, received BertTextTower"):
        load_initial_weights(backbone, "clip_shapes", sides=("text",))
    for sides in ("text", ("txt",), ()):
        with pytest.raises(ValueError, match="sides must be some of"):
            load_initial_weights(backbone, tmp_path, sides=sides)
