import keras
import numpy as np
import pytest

from keras_itr.data import load_shapes
from keras_itr.models import CLIP, TGDT, ImageTextRetriever, SoftLabelAlignment, from_preset


@pytest.fixture(scope="module")
def model():
    return from_preset("clip_shapes")


@pytest.fixture(scope="module")
def photos():
    return load_shapes("test", num_scenes=3).image_columns["images"]


def test_raw_pixels_are_whole_numbers(model, photos):
    for wrong in (photos.astype("float32"), [photos[0], photos[1] / 255]):
        with pytest.raises(ValueError, match="pixels of raw images must be uint8, 0 to 255, received float"):
            model.embed_images(wrong, verbose=False)
    with pytest.raises(ValueError, match=r"needs a list; put the single image, \(64, 64, 3\), into one"):
        model.embed_images(photos[0], verbose=False)
    # Scaled as the model reads them, by name.
    ready = {"images": np.asarray(model.preprocessor({"images": photos})["images"])}
    np.testing.assert_allclose(
        model.embed_images(ready, verbose=False), model.embed_images(photos, verbose=False), atol=1e-6
    )


def test_a_model_without_weights_neither_predicts_nor_is_saved(tmp_path):
    model = from_preset("clip_shapes")
    model.missing_weights = "train it first"
    for use in (
        lambda: model.predict({"text": ["a circle"]}),
        lambda: model.save(tmp_path / "model.keras"),
        lambda: model.save_weights(tmp_path / "model.weights.h5"),
    ):
        with pytest.raises(ValueError, match="train it first"):
            use()
    assert not list(tmp_path.iterdir())


def test_another_class_says_what_it_has_not_read(recwarn):
    with pytest.warns(UserWarning, match="is a CLIP: this TGDT takes its towers, and what is its own starts untrained"):
        TGDT.from_preset("clip_shapes")
    recwarn.clear()
    assert isinstance(ImageTextRetriever.from_preset("clip_shapes"), CLIP)
    assert not [warning for warning in recwarn if "starts untrained" in str(warning.message)]


def test_plugins_go_on_trained_weights_through_the_class_too(model, photos):
    with_plugin = CLIP.from_preset("clip_shapes", plugins=(SoftLabelAlignment(),))
    assert with_plugin.uni_modal
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(with_plugin.embed_images(photos, verbose=False)),
        keras.ops.convert_to_numpy(model.embed_images(photos, verbose=False)),
    )
    with pytest.raises(ValueError, match="plugins must be a tuple"):
        CLIP.from_preset("clip_shapes", plugins=(SoftLabelAlignment,))
