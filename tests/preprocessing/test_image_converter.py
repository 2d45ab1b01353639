import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import RetrievalImageConverter, convert_image, decode_image

SCALE, OFFSET = [0.02, 0.01, 0.03], [-1.0, 0.5, 0.0]


@pytest.fixture
def converter():
    return RetrievalImageConverter((6, 8), scale=SCALE, offset=OFFSET)


@pytest.fixture
def contents(encoded_images):
    return [contents for contents, _ in encoded_images.values()]


def expected(contents):
    return np.stack([convert_image(decode_image(c), (6, 8), scale=SCALE, offset=OFFSET) for c in contents])


def test_encoded_images(converter, contents):
    converted = converter(contents)
    assert keras.ops.is_tensor(converted)
    np.testing.assert_array_equal(np.asarray(converted), expected(contents))
    np.testing.assert_array_equal(np.asarray(converter(contents[0])), expected(contents)[0])
    np.testing.assert_array_equal(np.asarray(converter(tf.constant(contents))), expected(contents))
    np.testing.assert_array_equal(np.asarray(converter(np.array(contents, dtype=object))), expected(contents))


def test_a_graph_gives_the_same_pixels_and_a_static_shape(converter, contents):
    dataset = tf.data.Dataset.from_tensor_slices(contents)
    batches = dataset.batch(4).map(converter)
    assert batches.element_spec == tf.TensorSpec((None, 6, 8, 3), tf.float32)
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in batches]), expected(contents))
    np.testing.assert_array_equal(np.stack([image.numpy() for image in dataset.map(converter)]), expected(contents))


def test_pixels(converter):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 9, 3), dtype="uint8")
    reference = convert_image(pixels, (6, 8), scale=SCALE, offset=OFFSET).numpy()
    np.testing.assert_array_equal(np.asarray(converter(pixels)), reference)
    np.testing.assert_array_equal(np.asarray(converter(pixels[0])), reference[0])
    np.testing.assert_array_equal(np.asarray(converter(keras.ops.convert_to_tensor(pixels))), reference)
    batches = tf.data.Dataset.from_tensor_slices(pixels).batch(2).map(converter)
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in batches]), reference)


def test_a_list_of_any_sizes_and_kinds(converter, contents):
    small, large = np.full((2, 3, 3), 50, "uint8"), np.full((30, 20, 3), 50, "uint8")
    ready = np.asarray(converter(small))
    converted = np.asarray(converter([small, large, contents[0], ready]))
    np.testing.assert_allclose(converted[1], converted[0], atol=1e-6)
    np.testing.assert_array_equal(converted[2], expected(contents)[0])
    np.testing.assert_array_equal(converted[3], ready)


def test_float32_passes_unchanged(converter):
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype("float32")
    assert converter(images) is images and converter(images[0]).shape == (6, 8, 3)
    once = converter(np.zeros((2, 4, 4, 3), "uint8"))
    assert converter(once) is once
    batches = tf.data.Dataset.from_tensor_slices(images).batch(2).map(converter)
    np.testing.assert_array_equal(next(iter(batches)), images)


def test_paths(converter, contents, tmp_path):
    paths = [tmp_path / f"{index}.image" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    for given in (paths, [str(path) for path in paths], np.array([str(path) for path in paths])):
        np.testing.assert_array_equal(np.asarray(converter(given)), expected(contents))
    pathlib.Path(paths[1]).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"1\.image is no readable JPEG"):
        converter(paths)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 5, 8, 3), "float32"), "already converted"),
        ([np.zeros((5, 8, 3), "float32")], "already converted"),
        (np.zeros((6, 8), "float32"), "already converted"),
        (np.zeros((2, 6, 8, 3), "float64"), "got float64"),
        (np.zeros((2, 6, 8, 1), "uint8"), "uint8"),
        (np.zeros((6, 8), "uint8"), "uint8"),
    ],
)
def test_what_cannot_be_converted_is_refused(converter, images, message):
    with pytest.raises(ValueError, match=message):
        converter(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 8)}, "two positive integers"),
        ({"image_size": (8, 8, 3)}, "two positive integers"),
        ({"interpolation": "cubic"}, "Did you mean 'bicubic'"),
        ({"scale": [1.0, 2.0]}, "`scale` must be a number or three"),
        ({"offset": float("nan")}, "`offset` must be a number or three"),
    ],
)
def test_faulty_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalImageConverter(**{"image_size": (8, 8), **arguments})


def test_a_low_precision_policy_changes_nothing(converter):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype="uint8")
    low = RetrievalImageConverter((6, 8), scale=SCALE, offset=OFFSET, dtype="mixed_bfloat16")
    np.testing.assert_array_equal(np.asarray(low(pixels)), np.asarray(converter(pixels)))
    np.testing.assert_array_equal(np.asarray(low(low(pixels))), np.asarray(converter(pixels)))


def test_config_round_trip():
    arguments = {
        "image_size": (6, 8),
        "scale": SCALE,
        "offset": 0.5,
        "interpolation": "bilinear",
        "antialias": False,
        "crop_to_aspect_ratio": False,
    }
    config = RetrievalImageConverter(**arguments).get_config()
    assert {key: config[key] for key in arguments} == arguments
    assert RetrievalImageConverter.from_config(config).get_config() == config


def test_every_option_matters():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    plain = np.asarray(RetrievalImageConverter((6, 6))(pixels))
    for option in ({"interpolation": "bilinear"}, {"antialias": False}, {"crop_to_aspect_ratio": False}):
        assert np.abs(np.asarray(RetrievalImageConverter((6, 6), **option)(pixels)) - plain).max() > 0.01, option


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nope\.png cannot be read: No such file"):
        RetrievalImageConverter((8, 8))([str(tmp_path / "nope.png")])
