import numpy as np
import pytest
from keras import ops
from momentum_support import array, make_aai, make_coder, queues, twins
from support import draw

from keras_itr.layers import GridFeatures, RegionTower, SentenceFeatureTower
from keras_itr.models import CLIP, CUSA, DualEncoderBackbone, SoftLabelAlignment, from_preset, with_grid_features
from keras_itr.preprocessing import RetrievalImageConverter

CONVERTER = RetrievalImageConverter((64, 64), scale=1 / 127.5, offset=-1.0, crop_to_aspect_ratio=False)


@pytest.fixture(scope="module")
def features():
    return GridFeatures("MobileNetV2", (64, 64), arguments={"alpha": 0.35}, grid=(1, 2))


MODELS = {
    "clip": lambda backbone: CLIP(backbone, embedding_dim=6),
    "cusa": CUSA,
    "plug-in": lambda backbone: CLIP(backbone, plugins=(SoftLabelAlignment(),)),
    "aai": make_aai,
    "coder": make_coder,
}


@pytest.mark.parametrize("name", MODELS)
def test_photos_score_as_their_rows(features, name, tmp_path):
    # Another width than the text tower's, so that the backbone has a projection of its own.
    model = MODELS[name](DualEncoderBackbone(RegionTower(1280, 8), SentenceFeatureTower(10, 12)))
    photo_model = with_grid_features(model, features, CONVERTER)
    photos = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), dtype="uint8")
    rows = ops.convert_to_numpy(features(CONVERTER(photos)))
    expected = model.embed_images({"regions": rows})
    np.testing.assert_allclose(photo_model.embed_images(list(photos)), expected, atol=1e-5)
    texts = {"text_features": draw(4, 10)}
    np.testing.assert_allclose(photo_model.embed_texts(texts), model.embed_texts(texts), atol=1e-6)
    photo_model.save_to_preset(tmp_path / "photos")
    loaded = from_preset(tmp_path / "photos")
    assert type(loaded) is type(model)
    np.testing.assert_allclose(loaded.embed_images(list(photos)), expected, atol=1e-5)
    for made in (photo_model, loaded):
        for twin in twins(made):
            for weight, followed in twin._pairs():
                np.testing.assert_array_equal(array(weight), array(followed))
        assert all((array(queue.ids()) == -1).all() for queue in queues(made))
    if name == "aai":
        pairs = [[2, 0], [0, 3]]
        found = loaded.rerank(list(photos), texts, pairs)
        np.testing.assert_allclose(found, model.rerank({"regions": rows}, texts, pairs), atol=1e-5)
    if name in ("cusa", "plug-in"):
        uni = loaded.embed_images(list(photos), cross_modal=False)
        np.testing.assert_allclose(uni, model.embed_images({"regions": rows}, cross_modal=False), atol=1e-5)


def test_what_takes_photos_or_other_rows_is_refused(features):
    model = CLIP(DualEncoderBackbone(RegionTower(7, 8), SentenceFeatureTower(10, 8)))
    with pytest.raises(ValueError, match="rows of width 7"):
        with_grid_features(model, features, CONVERTER)
    model = CLIP(DualEncoderBackbone(RegionTower(1280, 8), SentenceFeatureTower(10, 8)))
    with pytest.raises(ValueError, match="nothing to add"):
        with_grid_features(with_grid_features(model, features, CONVERTER), features, CONVERTER)


def test_a_missing_weight_stays_missing(features):
    model = CLIP(DualEncoderBackbone(RegionTower(1280, 8), SentenceFeatureTower(10, 8)))
    model.missing_weights = "train it first"
    with pytest.raises(ValueError, match="train it first"):
        with_grid_features(model, features, CONVERTER).embed_images([np.zeros((4, 4, 3), "uint8")])
