import json
import os

import numpy as np
import pytest
import tensorflow as tf

from keras_itr.data import RandomFlip, RetrievalTable, TrainingPipeline, photo_cache, prepare_photos
from keras_itr.data.photos import decode_photos
from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer, decode_image
from keras_itr.preprocessing.images import random_window, shrink_image

BROKEN = {
    "empty.jpg": (b"", "is empty"),
    "renamed.jpg": (b"a text file", "no readable JPEG"),
    "truncated.jpg": (None, "no readable JPEG"),
    "gone.jpg": (..., "cannot be read: NotFoundError"),
}


@pytest.fixture
def folder(tmp_path):
    """Six photos of different sizes."""
    random = np.random.default_rng(0)
    for index in range(6):
        pixels = random.integers(0, 256, (30 + index, 44 - 2 * index, 3), dtype="uint8")
        (tmp_path / f"{index}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return tmp_path


def table_of(folder, names):
    captions = [f"caption {index} of {name}" for name in names for index in range(2)]
    return RetrievalTable(
        {"images": [str(folder / name) for name in names]},
        {"text": captions},
        np.repeat(np.arange(len(names)), 2),
        image_names=list(names),
        name="photos/train",
    )


def good(count=6):
    return [f"{index}.jpg" for index in range(count)]


def break_(folder, name):
    contents, message = BROKEN[name]
    if contents is not ...:
        (folder / name).write_bytes((folder / "0.jpg").read_bytes()[:200] if contents is None else contents)
    return message


def pipeline(table, **options):
    tokenizer = WordTokenizer.from_captions(list(table.captions), sequence_length=6)
    preprocessor = RetrievalPreprocessor(tokenizer, RetrievalImageConverter((16, 16)))
    return TrainingPipeline(table, 4, preprocessor, **options)


def batches(made, epochs=1):
    return [batch["images"].numpy() for batch in made.dataset(epochs=epochs)]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photo_is_named_before_training(folder, name, cached):
    message = break_(folder, name)
    table = table_of(folder, [*good(3), name])
    cache = folder / "cache" if cached else None
    with pytest.raises(ValueError) as raised:
        prepare_photos(table, cache=cache)
    text = str(raised.value)
    assert str(folder / name) in text and message in text and "on_error: skip" in text and "\n" not in text


@pytest.mark.parametrize("cached", [False, True])
def test_skip_leaves_broken_photos_out_and_names_them(folder, cached):
    for name in BROKEN:
        break_(folder, name)
    table = table_of(folder, ["0.jpg", *BROKEN, "1.jpg", "2.jpg"])
    cache = folder / "cache" if cached else None
    kept, faults = prepare_photos(table, "skip", cache)
    assert list(faults) == [str(folder / name) for name in BROKEN]
    assert kept.image_names == ["0.jpg", "1.jpg", "2.jpg"]
    assert kept.captions[2] == "caption 0 of 1.jpg" and kept.num_captions == 6
    np.testing.assert_array_equal(kept.caption_to_image, [0, 0, 1, 1, 2, 2])
    # Images keep their ids, and the pipeline reads what is left.
    np.testing.assert_array_equal(kept.image_ids, [0, 5, 6])
    assert batches(pipeline(kept))[0].shape == (4, 16, 16, 3)


def test_nothing_left_is_an_error_and_other_tables_pass(folder):
    break_(folder, "empty.jpg")
    with pytest.raises(ValueError, match="none of the 1 photos"):
        prepare_photos(table_of(folder, ["empty.jpg"]), "skip")
    with pytest.raises(ValueError, match="on_error"):
        prepare_photos(table_of(folder, good()), "ignore")
    features = RetrievalTable({"regions": np.zeros((1, 2, 3), "float32")}, {"text": ["a"]}, [0])
    assert prepare_photos(features) == (features, {})


@pytest.mark.parametrize("options", [{}, {"random_crop": (0.5, 1.0)}, {"shorter_side": 20}])
def test_the_cache_gives_the_same_batches_as_the_files(folder, options):
    table = table_of(folder, good())
    cached, _ = prepare_photos(table, cache=folder / "cache", shorter_side=options.get("shorter_side"))
    plain, again = batches(pipeline(table, **options), 2), batches(pipeline(cached, **options), 2)
    assert len(plain) == 6
    np.testing.assert_array_equal(plain, again)


def test_the_cache_is_read_and_not_made_anew(folder, monkeypatch):
    monkeypatch.setattr(photo_cache, "PHOTOS_PER_SHARD", 2)
    table, calls = table_of(folder, good()), []

    def decode(paths, shorter_side):
        calls.append(len(paths))
        return decode_photos(paths, shorter_side)

    def build(shorter_side=None):
        calls.clear()
        paths = [str(path) for path in table.image_columns["images"]]
        return photo_cache.PhotoCache.build(paths, folder / "cache", "a", decode, shorter_side)

    first = build()
    assert calls == [2, 2, 2] and len(first) == 6
    for row in range(6):
        np.testing.assert_array_equal(decode_image(first[row]), decode_image((folder / f"{row}.jpg").read_bytes()))
    assert [decode_image(image).shape for image in first[[4, 1]]] == [(34, 36, 3), (31, 42, 3)]
    build()
    assert calls == []
    (folder / "3.jpg").write_bytes((folder / "0.jpg").read_bytes())
    build()
    assert calls == [2]
    # A build that was killed between pixels and index decodes that shard again.
    (folder / "cache/a-00002.json").unlink()
    build()
    assert calls == [2]
    build(shorter_side=20)
    assert calls == [2, 2, 2]
    assert not [path for path in (folder / "cache").iterdir() if "writing" in path.name]


def test_a_shard_with_other_bytes_than_its_index_says_is_made_anew(folder):
    paths = [str(folder / name) for name in good(2)]
    photo = photo_cache.PhotoCache.build(paths, folder / "cache", "a", decode_photos)[0]
    np.save(folder / "other.npy", np.zeros(5, "uint8"))
    os.replace(folder / "other.npy", folder / "cache/a-00000.npy")
    again = photo_cache.PhotoCache.build(paths, folder / "cache", "a", decode_photos)
    assert again[0] == photo and json.loads((folder / "cache/a-00000.json").read_text())["faults"] == []


@pytest.mark.parametrize("index", ["", "{", "{}", "[]", "null"])
def test_a_damaged_index_is_made_anew(folder, index):
    paths = [str(folder / name) for name in good(2)]
    photo = photo_cache.PhotoCache.build(paths, folder / "cache", "a", decode_photos)[0]
    (folder / "cache/a-00000.json").write_text(index)
    assert photo_cache.PhotoCache.build(paths, folder / "cache", "a", decode_photos)[0] == photo


def test_random_windows_are_a_function_of_the_key_and_stay_inside():
    image = np.arange(50 * 80 * 3, dtype="int64").reshape(50, 80, 3) % 251
    image = image.astype("uint8")
    seen = set()
    for key in range(40):
        window = random_window(image, (key, 7), (0.3, 0.9)).numpy()
        np.testing.assert_array_equal(window, random_window(image, (key, 7), (0.3, 0.9)))
        share, ratio = window.shape[0] * window.shape[1] / 4000, window.shape[1] / window.shape[0]
        assert 0.27 < share < 0.93 and 0.7 < ratio < 1.4
        seen.add(window.shape)
    assert len(seen) > 30
    for shape in ((1, 1, 3), (1, 90, 3), (200, 2, 3)):
        assert all(side >= 1 for side in random_window(np.zeros(shape, "uint8"), (1, 2)).shape)


def test_a_crop_differs_by_epoch_and_example_and_is_repeatable(folder):
    table = table_of(folder, good())
    first, second = batches(pipeline(table, random_crop=(0.4, 0.8))), batches(pipeline(table, random_crop=(0.4, 0.8)))
    np.testing.assert_array_equal(first, second)
    made = pipeline(table, random_crop=(0.4, 0.8))
    resumed = [batch["images"].numpy() for batch in made.dataset(first_step=4, epochs=2)]
    np.testing.assert_array_equal(resumed, batches(made, 2)[4:])
    assert not np.array_equal(batches(made, 2)[:3], batches(made, 2)[3:])
    with pytest.raises(ValueError, match="image converter"):
        TrainingPipeline(table, 4, random_crop=(0.4, 0.8))


def test_a_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(0).normal(size=(64, 3, 5, 3)).astype("float32")
    keys = tf.stack([tf.range(64, dtype=tf.int64), tf.ones(64, tf.int64)], axis=1)
    flipped = RandomFlip()({"images": tf.constant(images)}, keys)["images"].numpy()
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, images, strict=True)]
    same = [np.array_equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 20 < sum(mirrored) < 44


def test_shrinking_keeps_the_aspect_ratio_and_never_enlarges():
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype="uint8")
    assert shrink_image(image, 20).shape == (20, 30, 3) and shrink_image(image, 20).dtype == tf.uint8
    np.testing.assert_array_equal(shrink_image(image, 40), image)
    np.testing.assert_array_equal(shrink_image(image, 400), image)


def test_an_unwritable_cache_is_an_error(folder):
    (folder / "file").write_text("no folder")
    with pytest.raises(OSError):
        prepare_photos(table_of(folder, good()), cache=os.path.join(folder, "file"))
