import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import convert_image, decode_image
from keras_itr.preprocessing.images import INTERPOLATIONS


def test_decode_image_gives_three_channels(encoded_images):
    in_graph = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    for name, (contents, pixels) in encoded_images.items():
        decoded = decode_image(contents)
        assert decoded.dtype == tf.uint8 and decoded.shape[-1] == 3, name
        np.testing.assert_array_equal(in_graph(contents), decoded, err_msg=name)
        if pixels is not None:
            np.testing.assert_array_equal(decoded, pixels, err_msg=name)


def test_a_grey_jpeg_has_three_equal_channels(encoded_images):
    decoded = decode_image(encoded_images["grey jpeg"][0]).numpy()
    np.testing.assert_array_equal(decoded, np.repeat(decoded[..., :1], 3, axis=-1))


@pytest.mark.parametrize("contents", [b"", b"BM", b"no image"])
def test_damaged_bytes_raise(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(contents)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("shape", [(23, 37, 3), (40, 17, 3), (1, 1, 3), (2, 5, 9, 3)])
def test_convert_image_equals_the_resizing_of_keras(shape, crop, interpolation):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    resizing = keras.layers.Resizing(12, 16, interpolation=interpolation, antialias=True, crop_to_aspect_ratio=crop)
    # In a data pipeline the layer uses TensorFlow, whatever the backend.
    expected = next(iter(tf.data.Dataset.from_tensors(pixels.astype("float32")).map(resizing))).numpy()
    options = {"interpolation": interpolation, "antialias": True, "crop_to_aspect_ratio": crop, "scale": 1.0}
    np.testing.assert_array_equal(convert_image(pixels.astype("float32"), (12, 16), **options), expected)
    rounded = convert_image(pixels, (12, 16), **options)
    assert rounded.dtype == tf.float32
    np.testing.assert_array_equal(rounded, np.clip(np.round(expected), 0, 255))


def test_the_crop_is_the_largest_centred_window():
    pixels = np.zeros((4, 8, 3), "uint8")
    pixels[:, 2:6] = 200
    np.testing.assert_array_equal(convert_image(pixels, (4, 4), scale=1.0), np.full((4, 4, 3), 200.0))
    assert convert_image(pixels, (4, 4), scale=1.0, crop_to_aspect_ratio=False).numpy().min() < 50


def test_scale_and_offset_are_per_channel():
    pixels = np.full((2, 2, 3), 100, "uint8")
    converted = convert_image(pixels, (2, 2), scale=[1.0, 0.5, 0.01], offset=[0.0, 1.0, -1.0]).numpy()
    np.testing.assert_allclose(converted[0, 0], [100.0, 51.0, 0.0], atol=1e-6)


def test_stored_uint8_pixels_give_the_same_as_raw_ones():
    pixels = np.random.default_rng(1).integers(0, 256, (31, 45, 3), dtype="uint8")
    stored = convert_image(pixels, (8, 8), scale=1.0).numpy()
    np.testing.assert_array_equal(stored, stored.astype("uint8"))
    np.testing.assert_array_equal(convert_image(stored.astype("uint8"), (8, 8)), convert_image(pixels, (8, 8)))


def test_float_pixels_are_not_rounded():
    pixels = np.linspace(0, 1, 48, dtype="float32").reshape(4, 4, 3)
    np.testing.assert_allclose(convert_image(pixels, (4, 4), scale=1.0), pixels, atol=1e-6)


@pytest.mark.parametrize(("interpolation", "largest", "share"), [("bilinear", 1, 0.0), ("bicubic", 13, 1e-3)])
def test_the_resize_is_close_to_that_of_pillow(interpolation, largest, share):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    generator = np.random.default_rng(0)
    # Smooth with edges and some noise, as photos are.
    smooth = np.add.outer(np.arange(240.0), np.arange(320.0)) / 3 + 60 * (np.indices((240, 320)).sum(0) // 40 % 2)
    pixels = np.clip(smooth[..., None] + generator.normal(scale=3, size=(240, 320, 3)), 0, 255).astype("uint8")
    window = image.fromarray(pixels).crop((40, 0, 280, 240))
    expected = np.asarray(window.resize((112, 112), getattr(image.Resampling, interpolation.upper())), "float32")
    difference = np.abs(convert_image(pixels, (112, 112), interpolation, scale=1.0) - expected)
    assert difference.max() <= largest and (difference > 1).mean() <= share and difference.mean() < 0.25
