import json
import re

import numpy as np
import pytest
import tensorflow as tf
from augmentation_support import assert_share
from support import FIXTURES

from keras_itr.data import AsymmetryPositives

CAPTIONS = ["A man rides a horse, slowly.", "Someone on horseback.", "A rider - in a field - at dusk!", "", "Dog/cat"]


def fixture(name):
    return json.loads((FIXTURES / "ascl" / f"{name}.json").read_text(encoding="utf-8"))


def decoded(texts):
    return np.char.decode(np.asarray(texts, bytes)).tolist()


def clean(text, max_words=60):
    """The sheet's rule in plain Python."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return " ".join(text.split()[:max_words])


def oracle(captions, anchor, draws):
    """One positive, with equal probabilities, in plain Python."""
    if draws[2] < 0.5:
        words = clean(anchor).split()
        return " ".join(words[: max(1, len(words) // 2)])
    picks = [min(int(draw * np.float32(len(captions))), len(captions) - 1) for draw in draws[:2]]
    return " ".join(text for text in (clean(captions[pick]) for pick in picks) if text)


def mapped(positives, batch):
    """In a graph, as in the pipeline; eagerly, thousands of draws would take minutes."""
    return tf.function(lambda batch: positives(batch)["positive_text"])(
        {key: tf.constant(value) for key, value in batch.items()}
    ).numpy()


def batch_of(count, epoch=0, captions=CAPTIONS):
    return {
        "captions": [captions] * count,
        "anchor": [captions[row % len(captions)] for row in range(count)],
        "example_id": np.arange(count),
        "epoch": np.int64(epoch),
    }


def test_captions_are_cleaned_joined_and_truncated_as_in_the_fixture():
    positives, cases = AsymmetryPositives(), fixture("text_positives")["cases"]
    assert len(cases) == 27
    for case in cases:
        cleaned = positives.clean(case["captions"])
        assert decoded(cleaned) == case["cleaned"]
        first, second = (cleaned[pick] for pick in case["picks"])
        assert positives.join(first, second).numpy().decode() == case["concatenated"]
        assert positives.truncate(cleaned[case["anchor"]]).numpy().decode() == case["truncated"]


def test_draws_are_those_of_the_fixture():
    stored = fixture("stateless_draws")
    captions = [f"caption {row} of five" for row in range(stored["num_captions"])]
    for case in stored["cases"]:
        positives = AsymmetryPositives(seed=case["seed"])
        draws = positives.draw([case["example"]], case["epoch"])[0]
        assert draws.dtype == tf.float32
        np.testing.assert_allclose(draws, case["uniforms"], rtol=0, atol=1e-7)
        example = {"captions": captions, "example_id": case["example"], "epoch": case["epoch"]}
        joined = " ".join(captions[pick] for pick in case["picks"])
        # The picks are the same where joining is the only mode: every draw is made whatever the mode is.
        for modes, text in ((["join"], joined), (["truncate"], "caption 4"), (["join", "truncate"], None)):
            text = text or ("caption 4" if case["use_truncated"] else joined)
            chosen = AsymmetryPositives(modes, seed=case["seed"])({**example, "anchor": captions[4]})
            assert chosen["positive_text"].numpy().decode() == text
            # The anchor by its place.
            assert AsymmetryPositives(modes, seed=case["seed"])({**example, "anchor": 4})["positive_text"] == text


def test_a_batch_is_as_its_rule_in_plain_python():
    positives, batch = AsymmetryPositives(seed=7), batch_of(2000, epoch=3)
    texts = decoded(mapped(positives, batch))
    draws = tf.function(positives.draw)(batch["example_id"], batch["epoch"]).numpy()
    rows = zip(batch["captions"], batch["anchor"], draws, strict=True)
    assert texts == [oracle(*row) for row in rows]
    # Empty, short, both, and twice the same: all of them occur.
    assert {"", "dog", "a man rides", "dog cat dog cat", "dog cat someone on horseback"} <= set(texts)
    places = {**batch, "anchor": np.arange(2000) % len(CAPTIONS)}
    assert decoded(mapped(positives, places)) == texts


def test_one_example_is_as_in_a_batch_and_keys_stay():
    positives, batch = AsymmetryPositives(seed=2), batch_of(12, epoch=1)
    texts = positives(batch)["positive_text"].numpy()
    assert texts.shape == (12,)
    for row, text in enumerate(texts):
        example = {key: value if key == "epoch" else value[row] for key, value in batch.items()}
        out = positives({**example, "image_id": 9})
        assert out.keys() == {*example, "image_id", "positive_text"} and out["image_id"] == 9
        assert out["positive_text"].shape == () and out["positive_text"].numpy() == text
    # A batch may span epochs.
    epochs = positives({**batch, "epoch": np.arange(12) % 2})["positive_text"].numpy()
    np.testing.assert_array_equal(epochs[1::2], texts[1::2])
    assert (epochs[::2] != texts[::2]).any()


def test_padding_is_no_caption():
    counts = np.arange(3000) % 5 + 1
    names = np.array(["a", "b", "c", "d", "e"])
    rows = np.where(np.arange(5) < counts[:, None], names, "padding").tolist()
    batch = {**batch_of(3000), "captions": rows, "num_captions": counts}
    texts = decoded(mapped(AsymmetryPositives(["join"]), batch))
    assert not any("padding" in text for text in texts)
    for count in (2, 3, 5):
        pairs = [text for text, number in zip(texts, counts, strict=True) if number == count]
        assert len(set(pairs)) == count**2
        for first in names[:count]:
            for second in names[:count]:
                assert_share(pairs.count(f"{first} {second}") / 600, 1 / count**2, 600)
    # The same captions without padding give the same.
    five = {key: value if key == "epoch" else np.asarray(value)[counts == 5] for key, value in batch.items()}
    del five["num_captions"]
    expected = [text for text, count in zip(texts, counts, strict=True) if count == 5]
    assert decoded(mapped(AsymmetryPositives(["join"]), five)) == expected


def test_seed_epoch_and_example_decide_and_nothing_else():
    def texts(seed=0, epoch=0, order=slice(None)):
        batch = batch_of(400, epoch)
        batch = {key: value if key == "epoch" else np.asarray(value)[order] for key, value in batch.items()}
        return mapped(AsymmetryPositives(seed=seed), batch)

    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_array_equal(texts()[order], texts(order=order))
    np.testing.assert_array_equal(texts()[100:107], texts(order=slice(100, 107)))
    for other in (texts(seed=1), texts(epoch=1), np.roll(texts(), len(CAPTIONS))):
        assert 0.5 < (texts() != other).mean() < 1


def test_parallel_calls_give_the_same():
    batch = batch_of(60, epoch=2)
    epochs = batch.pop("epoch")
    data = tf.data.Dataset.from_tensor_slices(batch).map(lambda example: {**example, "epoch": epochs})
    runs = [
        [example["positive_text"].numpy() for example in data.map(AsymmetryPositives(), num_parallel_calls=calls)]
        for calls in (1, 8)
    ]
    assert runs[0] == runs[1] == mapped(AsymmetryPositives(), {**batch, "epoch": epochs}).tolist()


def test_probabilities_are_those_of_the_modes():
    batch = batch_of(4000, captions=["one two three four", "five six"])
    for modes, probabilities, share in (
        (("join", "truncate"), (0.8, 0.2), 0.2),
        (("truncate", "join"), (0.8, 0.2), 0.8),
        (("join", "truncate"), (1, 0), 0.0),
        (("join", "truncate"), (0, 1), 1.0),
        (("truncate",), (0.5, 0.5), 1.0),
        (("join",), (0.5, 0.5), 0.0),
    ):
        texts = decoded(mapped(AsymmetryPositives(modes, probabilities), batch))
        truncated = np.isin(texts, ["one two", "five"])
        if 0 < share < 1:
            assert_share(truncated.mean(), share, 4000)
        else:
            assert truncated.mean() == share


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A man's hat", "a mans hat"),
        (".,'!?\"()*#:;~", ""),
        ("up-to-date/now", "up to date now"),
        ("<PERSON> and <person>'s dog", "person and persons dog"),
        (" \t a\u00a0\u3000b\n c ", "a b c"),
        ("ÉCOLE & 3 Löwen", "école & 3 löwen"),
        ("", ""),
        ("w " * 59 + "x-y z", "w " * 59 + "x"),
    ],
)
def test_cleaning(caption, cleaned):
    texts = AsymmetryPositives().clean([[caption, "other."]])
    assert texts.shape == (1, 2) and decoded(texts) == [[cleaned, "other"]]
    assert clean(caption) == cleaned


def test_lengths_are_set_by_the_arguments():
    words = " ".join("abcdefghij")

    def lengths(**arguments):
        positives = AsymmetryPositives(**arguments)
        return [len(positives.truncate(words[: 2 * n]).numpy().split()) for n in range(11)]

    assert lengths() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert lengths(min_words=3) == [0, 1, 2, 3, 3, 3, 3, 3, 4, 4, 5]
    assert lengths(keep_ratio=0.0) == [0] + [1] * 10
    assert lengths(keep_ratio=0.3) == [max(min(n, 1), int(0.3 * n)) for n in range(11)]
    assert lengths(keep_ratio=1.0) == list(range(11))
    assert AsymmetryPositives(max_words=3).clean("A b, c d.").numpy() == b"a b c"


def test_empty_captions_are_dropped_from_a_joint():
    positives = AsymmetryPositives()
    assert decoded(positives.join(["", "a b", "", "c"], ["", "", "a b", "a b"])) == ["", "a b", "a b", "c a b"]
    assert decoded(positives.truncate(["", "a"])) == ["", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modes": ("join", "cut")}, "`modes` must be one or both of ['join', 'truncate'], got ['join', 'cut']."),
        ({"modes": ()}, "`modes` must be one or both of ['join', 'truncate'], got []."),
        ({"modes": ["join", "join"]}, "`modes` must be one or both of ['join', 'truncate'], got ['join', 'join']."),
        (
            {"probabilities": (0.5, 0.6)},
            "`probabilities` must be 2 numbers from 0 to 1 that add up to 1, for join and truncate; got [0.5, 0.6].",
        ),
        (
            {"probabilities": (1.5, -0.5)},
            "`probabilities` must be 2 numbers from 0 to 1 that add up to 1, for join and truncate; got [1.5, -0.5].",
        ),
        (
            {"probabilities": (1.0,)},
            "`probabilities` must be 2 numbers from 0 to 1 that add up to 1, for join and truncate; got [1.0].",
        ),
        ({"keep_ratio": 1.5}, "`keep_ratio` must be from 0 to 1, got 1.5."),
        ({"min_words": 0}, "`min_words` and `max_words` must be at least 1, got 0 and 60."),
        ({"max_words": 0}, "`min_words` and `max_words` must be at least 1, got 1 and 0."),
    ],
)
def test_faulty_arguments_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:
        AsymmetryPositives(**arguments)
    assert str(caught.value) == message
