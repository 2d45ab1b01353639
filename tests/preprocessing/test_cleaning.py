import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import clean_caption

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "cusa" / "caption_cleaning.json"


def test_cusa_equals_the_official_cleaning():
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert clean_caption(fixture["inputs"], "cusa") == fixture["cleaned"]


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("a" + " b" * 70, "a" + " b" * 63),
        ("a" + " b" * 63, "a" + " b" * 63),
        ("first\nsecond\n", "first\nsecond"),
        ("wide\u00a0\u3000space", "wide space"),
        ("ÉCOLE ... ", "école"),
        ("<person><person>", "personperson"),
        ("", ""),
        (" \t\n ", ""),
    ],
)
def test_cusa(caption, cleaned):
    assert clean_caption(caption, "cusa") == cleaned


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A man's hat isn't RED.", "a man 's hat is n't red"),
        ("they're we've I'll he'd I'm don\u2019t can't", "they 're we 've i 'll he 'd i 'm do n't ca n't"),
        ("'quoted' dogs' 'more' o'clock rock 'n' roll", "quoted dogs more o'clock rock n roll"),
        ("T-shirt #12, 3.5km @ $20 — “déjà vu”", "t shirt 12 3 5km 20 déjà vu"),
        ("猫が座っている。हिन्दी", "猫が座っている हिन्दी"),
        (" \t\n'", ""),
        ("", ""),
    ],
)
def test_words(caption, cleaned):
    assert clean_caption(caption, "words") == cleaned
    assert clean_caption(cleaned, "words") == cleaned


def test_the_type_of_the_result_follows_the_input():
    assert clean_caption(b"A b", "words") == "a b"
    assert clean_caption(["A", "B"], "words") == ["a", "b"]
    assert clean_caption([], "words") == []
    assert clean_caption(np.array([["A"], ["B"]]), "words") == [["a"], ["b"]]
    assert clean_caption(np.array(["É", b"B"], dtype=object), "words") == ["é", "b"]
    tensor = clean_caption(tf.constant([["A", "B"]]), "words")
    assert tensor.shape == (1, 2) and tensor.numpy().tolist() == [[b"a", b"b"]]


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A man's T-shirt, red/blue: 3.5 (new)!", "a mans t shirt red blue 35 new"),
        ("a <person> and\ta #1  dog", "a person and a 1 dog"),
        ("a" + " b" * 70, "a" + " b" * 59),
        (" ÉCOLE... ", "école"),
        ("", ""),
    ],
)
def test_ascl(caption, cleaned):
    assert clean_caption(caption, "ascl") == cleaned
    assert clean_caption([caption, caption], "ascl") == [cleaned, cleaned]


@pytest.mark.parametrize("style", ["cusa", "ascl", "words", "none"])
def test_the_graph_equals_the_eager_result(captions, style):
    dataset = tf.data.Dataset.from_tensor_slices(captions).batch(3).map(lambda texts: clean_caption(texts, style))
    in_graph = [text.decode() for batch in dataset for text in batch.numpy()]
    assert in_graph == clean_caption(captions, style)


def test_none_changes_nothing(captions):
    assert clean_caption(captions, "none") == captions


def test_unknown_style_names_the_nearest():
    with pytest.raises(ValueError, match=r"'word'.*Did you mean 'words'"):
        clean_caption("a", "word")


@pytest.mark.parametrize("texts", [3, [1, 2], ["a", None], np.ones(2)])
def test_what_is_not_text_is_refused(texts):
    with pytest.raises(TypeError, match="Text must be str"):
        clean_caption(texts, "words")
