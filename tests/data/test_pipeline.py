import numpy as np
import pytest
from support import draw

from keras_itr.data import (
    AsymmetryPositives,
    RandomFlip,
    RandomShift,
    RegionDropout,
    RetrievalTable,
    ShuffleWords,
    TrainingPipeline,
    WordDropout,
)
from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer


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


def region_table(images=6, captions=3, mask=None):
    rows = np.arange(images * captions)
    columns = {"regions": draw(images, 10, 4)}
    if mask is not None:
        columns["region_mask"] = mask
    texts = [f"caption {row} about seven different words" for row in rows]
    return RetrievalTable(
        columns,
        {"text": texts, "text_features": rows[:, None].astype("float32")},
        np.repeat(np.arange(images), captions),
    )


def region_pipeline(batch_size=4, rate=0.4, second_view=False, seed=0, mask=None):
    rows = region_table(mask=mask)
    tokenizer = WordTokenizer.from_captions(list(rows.captions), sequence_length=12)
    return TrainingPipeline(
        rows,
        batch_size,
        RetrievalPreprocessor(tokenizer),
        seed=seed,
        augmentations=[RegionDropout(rate), WordDropout(tokenizer, rate)],
        second_view=second_view,
    )


def by_example(seen, key):
    """The rows of a key by their caption."""
    pairs = ((batch["text_features"][:, 0].tolist(), batch[key].tolist()) for batch in seen)
    return {row: values for rows, column in pairs for row, values in zip(rows, column, strict=True)}


VIEWED = ("region_mask", "token_ids", "padding_mask")


def test_size_augmentation_is_a_function_of_seed_epoch_and_example():
    small, large = (batches(region_pipeline(size, second_view=True), epochs=1) for size in (2, 9))
    other = batches(region_pipeline(9, second_view=True, seed=1), epochs=1)
    later = batches(region_pipeline(9, second_view=True), 2, 4)
    for key in (*VIEWED, *(f"{key}_view2" for key in VIEWED)):
        rows = by_example(small, key)
        assert len(rows) == 18 and rows == by_example(large, key)
        assert rows != by_example(other, key) and rows != by_example(later, key)


def test_a_second_view_leaves_the_first_as_it_was():
    plain, both = (batches(region_pipeline(second_view=second), epochs=2) for second in (False, True))
    for one, two in zip(plain, both, strict=True):
        assert one.keys() == {"regions", "text_features", "image_id", *VIEWED}
        assert two.keys() - one.keys() == {f"{key}_view2" for key in VIEWED}
    assert_equal(plain, [{key: batch[key] for key in one} for batch in both])


def test_the_two_views_are_independent():
    seen = batches(region_pipeline(9, second_view=True), epochs=40)
    first, second = (np.concatenate([batch[key] for batch in seen]) for key in ("region_mask", "region_mask_view2"))
    assert first.shape == (720, 10) and (first != second).any()
    for mask in (first, second):
        assert abs(mask.mean() - 0.6) < 4.5 * np.sqrt(0.24 / mask.size)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4.5 / np.sqrt(first.size)
    lengths = [
        np.concatenate([batch[key].sum(axis=1) for batch in seen]) for key in ("padding_mask", "padding_mask_view2")
    ]
    assert abs(np.corrcoef(*lengths)[0, 1]) < 4.5 / np.sqrt(720)
    # Nor do regions and words follow each other.
    assert abs(np.corrcoef(first.sum(axis=1), lengths[0])[0, 1]) < 4.5 / np.sqrt(720)


def test_both_views_respect_the_mask_of_the_data():
    mask = np.ones((6, 10), bool)
    mask[:, 7:] = False
    mask[2] = False
    for batch in batches(region_pipeline(9, rate=0.9, second_view=True, mask=mask), epochs=3):
        for key in ("region_mask", "region_mask_view2"):
            assert not (batch[key] & ~mask[batch["image_id"]]).any()
            np.testing.assert_array_equal(batch[key].any(axis=1), batch["image_id"] != 2)


def photo_pipeline(second_view, augmentations=(), random_crop=(0.4, 0.8), images=6):
    rows = table(images)
    rows = RetrievalTable({"images": rows.image_columns["images"]}, {"text": rows.captions}, rows.caption_to_image)
    tokenizer = WordTokenizer.from_captions(list(rows.captions), sequence_length=6)
    preprocessor = RetrievalPreprocessor(tokenizer, RetrievalImageConverter((8, 8)))
    return TrainingPipeline(
        rows, 6, preprocessor, augmentations=augmentations, random_crop=random_crop, second_view=second_view
    )


@pytest.mark.parametrize(
    ("augmentations", "crop"),
    [((), (0.4, 0.8)), ((RandomShift(2), RandomFlip()), (0.4, 0.8)), ((RandomShift(2), RandomFlip()), None)],
)
def test_second_photos_are_cropped_and_augmented_anew(augmentations, crop):
    plain, both = (batches(photo_pipeline(second, augmentations, crop), epochs=2) for second in (False, True))
    assert_equal(plain, [{key: batch[key] for key in plain[0]} for batch in both])
    assert both[0].keys() - plain[0].keys() == {"images_view2"}
    for batch in both:
        assert batch["images_view2"].dtype == np.float32 and batch["images_view2"].shape == batch["images"].shape
        same = [np.array_equal(*pair) for pair in zip(batch["images"], batch["images_view2"], strict=True)]
        assert np.mean(same) < 0.5


def test_a_second_photo_comes_of_the_same_photo():
    # A flip has two results: both views are one of them, in all four combinations.
    seen = batches(photo_pipeline(True, [RandomFlip()], None), epochs=10)
    plain = batches(photo_pipeline(False, (), None), epochs=10)
    kinds = set()
    for batch, original in zip(seen, plain, strict=True):
        for first, second, image in zip(batch["images"], batch["images_view2"], original["images"], strict=True):
            for view in (first, second):
                assert np.array_equal(view, image) or np.array_equal(view, image[:, ::-1])
            kinds.add((np.array_equal(first, image), np.array_equal(second, image)))
    assert len(kinds) == 4


@pytest.mark.parametrize("augmentations", [(), (lambda batch, keys: batch,)])
def test_a_second_view_that_nothing_changes_is_an_error(augmentations):
    with pytest.raises(ValueError, match="second_view: nothing makes it differ from the first; add random_crop"):
        TrainingPipeline(table(), 4, augmentations=augmentations, second_view=True)


OWNERS = [2, 0, 2, 1, 3, 3, 0, 3, 3, 2, 3, 4]  # one, two, three or five captions of an image, out of order
VERBS = ["sits", "stands", "runs", "jumps", "sleeps", "eats", "waits", "looks", "turns", "falls", "swims", "flies"]


def positive_pipeline(batch_size=4, positives=None, seed=5, **arguments):
    captions = [f"Dog {row} {verb}, by a tree!" for row, verb in enumerate(VERBS)]
    rows = RetrievalTable(
        {"regions": draw(5, 3, 2)},
        {"text": captions, "text_features": np.arange(12, dtype="float32")[:, None]},
        OWNERS,
    )
    tokenizer = WordTokenizer.from_captions(captions, sequence_length=16)
    return TrainingPipeline(
        rows, batch_size, RetrievalPreprocessor(tokenizer), seed=seed, positives=positives, **arguments
    )


def positive_texts(seen, pipeline):
    """The positives in words by the row of the caption."""
    detokenize = pipeline.preprocessor.tokenizer.detokenize
    return {int(row): detokenize(np.array(ids)) for row, ids in by_example(seen, "positive_token_ids").items()}


def test_positives_are_made_of_the_captions_of_the_image():
    positives = AsymmetryPositives(seed=9)
    pipeline = positive_pipeline(positives=positives)
    kinds = set()
    for epoch in range(12):
        seen = batches(pipeline, epoch * 3, epoch * 3 + 3)
        texts = positive_texts(seen, pipeline)
        assert sorted(texts) == list(range(12))
        for row, text in texts.items():
            own = [other for other in range(12) if OWNERS[other] == OWNERS[row]]
            captions = [pipeline.table.captions[other] for other in own]
            example = {"captions": captions, "anchor": own.index(row), "example_id": row, "epoch": epoch}
            assert text == positives(example)["positive_text"].numpy().decode()
            # And in words: the first half of the own caption, or two captions of the image.
            joints = [f"dog {a} {VERBS[a]} by a tree dog {b} {VERBS[b]} by a tree" for a in own for b in own]
            half = f"dog {row} {VERBS[row]}"
            assert text == half or text in joints
            kinds.add((text == half, len(own)))
        for batch in seen:
            lengths = np.array([[len(texts[int(row)].split()) + 2] for row in batch["text_features"][:, 0]])
            assert batch["positive_token_ids"].dtype == np.int32 and batch["positive_token_ids"].shape == (4, 16)
            np.testing.assert_array_equal(batch["positive_padding_mask"], np.arange(16) < lengths)
    assert kinds == {(half, count) for half in (True, False) for count in (1, 2, 3, 5)}


def test_positives_leave_the_rest_of_a_batch_as_it_was():
    tokenizer = positive_pipeline().preprocessor.tokenizer
    augmentations = [ShuffleWords(tokenizer), RegionDropout(0.4), WordDropout(tokenizer, 0.9)]
    both = {"augmentations": augmentations, "second_view": True}
    plain, more = (batches(positive_pipeline(positives=p, **both), epochs=2) for p in (None, AsymmetryPositives()))
    added = {"positive_token_ids", "positive_padding_mask"}
    assert more[0].keys() - plain[0].keys() == added
    assert_equal(plain, [{key: batch[key] for key in batch if key not in added} for batch in more])
    # Neither dropped words nor a second view: the positives are the same without augmentations.
    bare = batches(positive_pipeline(positives=AsymmetryPositives()), epochs=2)
    for one, other in zip(more, bare, strict=True):
        for key in added:
            np.testing.assert_array_equal(one[key], other[key])


def test_positives_are_a_function_of_seed_epoch_and_example(monkeypatch):
    def seen(first, last, calls=2, **arguments):
        monkeypatch.setattr("keras_itr.data.pipeline.os.cpu_count", lambda: calls)
        return batches(positive_pipeline(positives=AsymmetryPositives(), **arguments), first, last)

    whole = seen(0, 9)
    for calls in (1, 8):
        assert_equal(whole, seen(0, 9, calls))
    for step in (1, 4, 7):
        assert_equal(whole[step:], seen(step, 9))

    def texts(batches):
        return by_example(batches, "positive_token_ids")

    # Another order, another batch size and fewer captions of an epoch: the same captions for those that are there.
    assert texts(whole[:3]) == texts(seen(0, 2, batch_size=6)) == texts(seen(0, 3, seed=6))
    few = texts(seen(0, 2, captions_per_image=2))
    assert len(few) == 8 and few.items() <= texts(whole[:3]).items()
    epochs = [texts(whole[at : at + 3]) for at in (0, 3, 6)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_positives_without_captions_or_a_tokenizer_are_an_error():
    features = RetrievalTable({"regions": draw(2, 3, 2)}, {"text_features": draw(4, 2)}, [0, 0, 1, 1], name="mine")
    with pytest.raises(ValueError) as caught:
        TrainingPipeline(features, 2, positives=AsymmetryPositives())
    assert str(caught.value) == (
        'positives: mine has no captions to make them of, only text_features; add the column "text", or leave '
        "positives out."
    )
    for preprocessor in (None, RetrievalPreprocessor(None, RetrievalImageConverter((8, 8))), lambda batch: batch):
        with pytest.raises(ValueError) as caught:
            TrainingPipeline(table(), 2, preprocessor, positives=AsymmetryPositives())
        assert str(caught.value) == (
            "positives: they need a preprocessor with a tokenizer, such as RetrievalPreprocessor(tokenizer); give one, "
            "or leave positives out."
        )


def test_shuffled_words_are_those_of_the_whole_caption():
    rows = region_table()
    tokenizer = WordTokenizer.from_captions(list(rows.captions), sequence_length=12)

    def seen(*augmentations, **arguments):
        preprocessor = RetrievalPreprocessor(tokenizer)
        return batches(TrainingPipeline(rows, 6, preprocessor, augmentations=augmentations, **arguments), epochs=2)

    plain, dropped = seen(), seen(ShuffleWords(tokenizer), WordDropout(tokenizer, 0.9), second_view=True)
    assert dropped[0].keys() - plain[0].keys() == {
        "negative_token_ids",
        "negative_padding_mask",
        "token_ids_view2",
        "padding_mask_view2",
    }
    for batch, whole in zip(dropped, plain, strict=True):
        negatives = batch["negative_token_ids"]
        np.testing.assert_array_equal(np.sort(negatives, axis=1), np.sort(whole["token_ids"], axis=1))
        assert (negatives != whole["token_ids"]).any(axis=1).all()
        np.testing.assert_array_equal(negatives[:, [0, 8]], whole["token_ids"][:, [0, 8]])
        np.testing.assert_array_equal(batch["negative_padding_mask"], whole["padding_mask"])
    first, second = (by_example(dropped[at : at + 3], "negative_token_ids") for at in (0, 3))
    assert first != second
