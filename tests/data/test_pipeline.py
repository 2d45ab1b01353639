import numpy as np
import pytest
from support import draw

from keras_itr.data import RandomShift, RetrievalTable, TrainingPipeline


def table(images=6, captions=3):
    count = images * captions
    return RetrievalTable(
        {
            "images": np.arange(images * 8 * 8 * 3, dtype="uint8").reshape(images, 8, 8, 3),
            "teacher_image": draw(images, 2),
        },
        {"text": [f"caption {row}" for row in range(count)], "teacher_text": draw(count, 3).astype("float16")},
        np.repeat(np.arange(images), captions),
    )


def batches(pipeline, *arguments, **keywords):
    return [{key: value.numpy() for key, value in b.items()} for b in pipeline.dataset(*arguments, **keywords)]


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_an_epoch_shows_every_caption_once_with_its_own_rows():
    rows = table()
    seen = batches(TrainingPipeline(rows, 6, seed=1), epochs=1)
    texts = [text.decode() for batch in seen for text in batch["text"]]
    assert sorted(texts) == sorted(rows.captions)
    for batch in seen:
        assert batch["teacher_text"].dtype == np.float32 and batch["image_id"].dtype == np.int32
        caption = np.array([int(text.split()[-1]) for text in batch["text"]])
        np.testing.assert_array_equal(batch["image_id"], caption // 3)
        np.testing.assert_array_equal(batch["images"], rows.image_columns["images"][caption // 3])
        np.testing.assert_array_equal(batch["teacher_image"], rows.image_columns["teacher_image"][caption // 3])
        np.testing.assert_array_equal(batch["teacher_text"], rows.caption_columns["teacher_text"][caption])


def test_order_is_a_function_of_seed_and_epoch_and_any_step_can_be_entered():
    pipeline = TrainingPipeline(table(), 4, seed=3, augmentations=[RandomShift(2)])
    whole = batches(pipeline, epochs=3)
    assert_equal(whole, batches(TrainingPipeline(table(), 4, seed=3, augmentations=[RandomShift(2)]), epochs=3))
    assert_equal(whole[7:], batches(pipeline, 7, epochs=3))
    assert_equal(whole[2:5], batches(pipeline, 2, 5))
    per_epoch = pipeline.steps_per_epoch
    assert per_epoch == 18 // 4
    first, second = whole[:per_epoch], whole[per_epoch : 2 * per_epoch]
    assert [list(b["text"]) for b in first] != [list(b["text"]) for b in second]
    other = batches(TrainingPipeline(table(), 4, seed=4), epochs=1)
    assert [list(b["text"]) for b in first] != [list(b["text"]) for b in other]


def test_captions_per_image_draws_anew_each_epoch():
    pipeline = TrainingPipeline(table(images=8, captions=5), 4, captions_per_image=2)
    assert pipeline.steps_per_epoch == 4
    drawn = []
    for epoch in range(2):
        epoch_batches = batches(pipeline, epoch * 4, epoch * 4 + 4)
        ids = np.concatenate([batch["image_id"] for batch in epoch_batches])
        np.testing.assert_array_equal(np.bincount(ids), np.full(8, 2))
        drawn.append({text for batch in epoch_batches for text in batch["text"]})
    assert len(drawn[0]) == 16 and drawn[0] != drawn[1]


def test_augmentation_is_keyed_by_the_example_not_by_its_place():
    def shifts(batch_size):
        pipeline = TrainingPipeline(table(), batch_size, augmentations=[RandomShift(2)])
        return {
            text: image for b in batches(pipeline, epochs=1) for text, image in zip(b["text"], b["images"], strict=True)
        }

    small, large = shifts(2), shifts(9)
    assert small.keys() == large.keys()
    for text in small:
        np.testing.assert_array_equal(small[text], large[text])
    plain = {int(text.split()[-1]): image for text, image in small.items()}
    moved = [not np.array_equal(image, table().image_columns["images"][row // 3]) for row, image in plain.items()]
    assert sum(moved) > len(moved) // 2


def test_shifted_pixels_are_those_of_the_image():
    import tensorflow as tf

    image = np.arange(6 * 6, dtype="uint8").reshape(1, 6, 6, 1)
    keys = np.array([[5, 7]], "int64")
    shifted = RandomShift(2)({"images": tf.constant(image)}, tf.constant(keys))["images"].numpy()[0, :, :, 0]
    padded = np.pad(image[0, :, :, 0], 2, mode="edge")
    windows = [padded[r : r + 6, c : c + 6] for r in range(5) for c in range(5)]
    assert any(np.array_equal(shifted, window) for window in windows)


def test_paths_are_read_and_the_preprocessor_sees_the_bytes(tmp_path):
    for row in range(2):
        (tmp_path / f"{row}.bin").write_bytes(b"file %d" % row)
    rows = RetrievalTable(
        {"images": np.array([str(tmp_path / f"{row}.bin") for row in range(2)], object)}, {"text": ["a", "b"]}, [0, 1]
    )
    batch = batches(TrainingPipeline(rows, 2, preprocessor=lambda b: b), epochs=1)[0]
    for image, row in zip(batch["images"], batch["image_id"], strict=True):
        assert image == b"file %d" % row


def test_a_table_that_does_not_fill_a_batch_is_an_error():
    with pytest.raises(ValueError, match="18 captions do not fill one batch of 20"):
        TrainingPipeline(table(), 20)
