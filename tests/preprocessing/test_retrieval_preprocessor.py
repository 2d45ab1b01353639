import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer


@pytest.fixture
def preprocessor(captions):
    tokenizer = WordTokenizer.from_captions(captions, sequence_length=8)
    return RetrievalPreprocessor(tokenizer, RetrievalImageConverter((6, 8)))


@pytest.fixture
def raw(captions):
    count = len(captions)
    random = np.random.default_rng(0)
    return {
        "text": captions,
        "images": random.integers(0, 256, (count, 9, 9, 3), dtype="uint8"),
        "image_id": np.arange(count, dtype="int32"),
        "teacher_text": random.normal(size=(count, 4)).astype("float32"),
    }


def assert_equal(x, expected):
    assert set(x) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(np.asarray(x[key]), np.asarray(expected[key]), err_msg=key)


def test_eager(preprocessor, raw):
    x = preprocessor(raw)
    assert set(raw) == {"text", "images", "image_id", "teacher_text"}
    assert set(x) == {"token_ids", "padding_mask", "images", "image_id", "teacher_text"}
    assert all(keras.ops.is_tensor(x[key]) for key in ("token_ids", "padding_mask", "images"))
    assert x["image_id"] is raw["image_id"] and x["teacher_text"] is raw["teacher_text"]
    ids, mask = np.asarray(x["token_ids"]), np.asarray(x["padding_mask"])
    np.testing.assert_array_equal(ids, np.asarray(preprocessor.tokenizer(raw["text"])))
    assert mask.dtype == bool and (mask == (ids != 0)).all() and mask[2].tolist() == [True, True] + 6 * [False]
    np.testing.assert_array_equal(np.asarray(x["images"]), np.asarray(preprocessor.image_converter(raw["images"])))


def test_a_second_call_changes_nothing(preprocessor, raw):
    once = preprocessor(raw)
    twice = preprocessor(once)
    assert twice.keys() == once.keys() and all(twice[key] is once[key] for key in once)


def test_data_pipeline_and_function_equal_the_eager_call(preprocessor, raw):
    expected = preprocessor(raw)
    dataset = tf.data.Dataset.from_tensor_slices(raw)
    batches = list(dataset.batch(3).map(preprocessor).map(preprocessor))
    assert_equal({key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}, expected)
    examples = list(dataset.map(preprocessor))
    assert_equal({key: np.stack([example[key] for example in examples]) for key in examples[0]}, expected)
    tensors = {key: tf.constant(value) for key, value in raw.items()}
    assert_equal(tf.function(lambda x: preprocessor(x))(tensors), expected)


def test_tensors_arrays_and_strings_may_be_mixed(preprocessor, raw):
    x = preprocessor({**raw, "teacher_text": keras.ops.convert_to_tensor(raw["teacher_text"])})
    assert_equal(x, preprocessor(raw))


def test_labels_pass(preprocessor, raw):
    x, y = preprocessor(raw, np.ones(7))
    assert y.tolist() == [1] * 7 and "token_ids" in x
    x, y, sample_weight = preprocessor(raw, np.ones(7), np.zeros(7))
    assert sample_weight.tolist() == [0] * 7
    dataset = tf.data.Dataset.from_tensor_slices((raw, np.ones(7))).batch(7).map(preprocessor)
    x, y = next(iter(dataset))
    assert y.shape == (7,) and x["token_ids"].shape == (7, 8)


def test_one_side_alone(preprocessor, raw):
    assert set(preprocessor({"text": raw["text"]})) == {"token_ids", "padding_mask"}
    assert set(preprocessor({"images": raw["images"]})) == {"images"}
    regions = {"regions": np.ones((2, 3, 4), "float32")}
    assert preprocessor(regions)["regions"] is regions["regions"]


def test_without_a_converter_images_pass(raw):
    images = RetrievalPreprocessor()({"images": raw["images"]})["images"]
    assert images is raw["images"]


def test_encoded_images(preprocessor, encoded_images):
    contents = [contents for contents, _ in encoded_images.values()]
    batches = tf.data.Dataset.from_tensor_slices({"images": contents}).batch(4).map(preprocessor)
    in_graph = np.concatenate([batch["images"] for batch in batches])
    np.testing.assert_array_equal(np.asarray(preprocessor({"images": contents})["images"]), in_graph)


def test_errors(preprocessor):
    with pytest.raises(ValueError, match="has no tokenizer"):
        RetrievalPreprocessor()({"text": ["a"]})
    with pytest.raises(ValueError, match="both"):
        preprocessor({"text": ["a"], "token_ids": np.ones((1, 8), "int32")})
    with pytest.raises(TypeError, match="must be a dict"):
        preprocessor(["a"])


def test_config_round_trip(preprocessor):
    copy = RetrievalPreprocessor.from_config(preprocessor.get_config())
    assert copy.image_size == (6, 8) and copy.tokenizer.sequence_length == 8
    empty = RetrievalPreprocessor.from_config(RetrievalPreprocessor().get_config())
    assert empty.tokenizer is None and empty.image_converter is None
