import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from tokenizer_support import wordpiece_reference

from keras_itr.preprocessing import WordPieceTokenizer

LENGTH = 24
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES += ["a", "two", "dog", "##s", "cafe", "un", "##aff", "##able", "##a", "don", "t", "'", ".", "!", "-", "2", "##0"]
PIECES += [
    "猫",
    "か",
    "β",
    "##ς",
    "##\u03c3",
    "e",
    "##e",
    "x",
    "##x",
    "ss",
    "naive",
    "ab",
    "abc",
    "##cd",
    "##d",
    "[",
    "]",
]
TEXTS = [
    "Two dogs, don't!",
    "CAFÉ cafe\u0301 naïve Naïve",
    "unaffable unaffabled aabc abcd abd",
    "200 20 02 2.0",
    "猫か猫dog猫",
    "x" * 100 + " a",
    "x" * 101 + " a",
    "é" * 101,
    "",
    " \t\r\n\u00a0\u3000",
    "a\u0000a a\u200da a\ufffda a\u00ada a\u0085a a\ue000a a\U000f0000a",
    "ΒΣ βς İ ẞ ß",
    "dog.dog-dog `dog` <dog> “dog” ¿dog? dog…dog",
    "a " * 50,
    "zebra 👍 dog👍",
]


@pytest.mark.parametrize(
    "options", [{}, {"lowercase": False}, {"strip_accents": False}, {"lowercase": False, "strip_accents": True}]
)
def test_equals_the_reference(options):
    tokenizer = WordPieceTokenizer(PIECES, sequence_length=LENGTH, **options)
    ids = np.asarray(tokenizer(TEXTS))
    assert ids.dtype == "int32"
    np.testing.assert_array_equal(ids, wordpiece_reference(PIECES, LENGTH, **options)(TEXTS))


def test_equals_the_reference_on_every_character_of_many_blocks():
    """Latin, Greek, Cyrillic, punctuation, symbols, kana and parts of the Chinese blocks, each inside a word."""
    blocks = [(0, 0x530), (0x1E00, 0x2C00), (0x3000, 0x3200), (0x4DA0, 0x4E20), (0x9F00, 0x9FFD)]
    blocks += [(0xF900, 0xFA6E), (0xFE30, 0xFFF0), (0x1F300, 0x1F600), (0x20000, 0x20020)]
    characters = [chr(code) for block in blocks for code in range(*block)]
    assert all(unicodedata.category(character) != "Cs" for character in characters)
    # In the vocabulary, a changed character shows its new id; a character that is missing would hide in [UNK].
    folded = {c for raw in characters for c in unicodedata.normalize("NFD", raw).lower() if not c.isspace()}
    pieces = [*PIECES[:4], "a", "##a", *sorted((folded | {f"##{c}" for c in folded}) - {"a", "##a", "\x00"})]
    pieces = [piece for piece in pieces if "\n" not in piece]
    texts = [f"a{character}a" for character in characters]
    ours = np.asarray(WordPieceTokenizer(pieces, sequence_length=6)(texts))
    theirs = wordpiece_reference(pieces, length=6)(texts)
    wrong = [hex(ord(characters[row])) for row in np.flatnonzero((ours != theirs).any(axis=1))]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        ("한", ["한"], ["[UNK]"]),  # decomposed into letters
        ("க\u0bca", ["க\u0bca"], ["[UNK]"]),  # a vowel sign in two parts
        ("a\u1734a", ["[UNK]"], ["a", "##a"]),  # an accent in older tables
        ("a\u166da", ["[UNK]"], ["a", "[UNK]", "a"]),  # punctuation in older tables
        ("a\U0002b820a", ["a", "[UNK]", "a"], ["[UNK]"]),  # a Chinese character by BERT's own code
        ("a [SEP]", ["a", "[", "[UNK]", "]"], ["a", "[SEP]"]),
    ],
)
def test_known_differences(text, ours, theirs):
    pieces = [*PIECES, "한", "க\u0bca"]
    ids = np.asarray(WordPieceTokenizer(pieces, sequence_length=8)(text)).tolist()
    expected = [pieces.index(piece) for piece in ["[CLS]", *ours, "[SEP]"]]
    assert ids == expected + [0] * (8 - len(expected))
    expected = [pieces.index(piece) for piece in ["[CLS]", *theirs, "[SEP]"]]
    assert wordpiece_reference(pieces, length=8)([text])[0].tolist() == expected + [0] * (8 - len(expected))


def test_random_text_equals_the_reference():
    random = np.random.default_rng(0)
    pieces = [*PIECES[:4], *"abc", "ab", "##a", "##b", "##c", "##bc", "##abc", "##cab", "."]
    words = ["".join(random.choice(list("abc.é d"), size=random.integers(1, 12))) for _ in range(600)]
    texts = [" ".join(words[row : row + 6]) for row in range(0, 600, 6)]
    ours = np.asarray(WordPieceTokenizer(pieces, sequence_length=40)(texts))
    np.testing.assert_array_equal(ours, wordpiece_reference(pieces, length=40)(texts))


def test_a_graph_gives_the_same_ids():
    tokenizer = WordPieceTokenizer(PIECES, sequence_length=LENGTH)
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(tokenizer)
    assert dataset.element_spec.shape.as_list() == [None, LENGTH]
    np.testing.assert_array_equal(np.concatenate([ids.numpy() for ids in dataset]), np.asarray(tokenizer(TEXTS)))
    assert tuple(tokenizer([]).shape) == (0, LENGTH)
    np.testing.assert_array_equal(np.asarray(tokenizer(TEXTS[0])), np.asarray(tokenizer(TEXTS))[0])


def test_special_tokens_anywhere():
    pieces = ["[PAD]", "dog", "[SEP]", "##s", "[CLS]", "[UNK]"]
    assert np.asarray(WordPieceTokenizer(pieces, sequence_length=6)("dogs cat")).tolist() == [4, 1, 3, 5, 2, 0]


def test_detokenize():
    tokenizer = WordPieceTokenizer(PIECES)
    assert tokenizer.detokenize(tokenizer(["Two dogs!", ""])) == ["two dogs !", ""]


def test_from_captions_is_repeatable_and_covers_its_captions(captions):
    captions = captions * 3
    tokenizer = WordPieceTokenizer.from_captions(captions, max_size=200, sequence_length=80)
    vocabulary = tokenizer.get_vocabulary()
    assert vocabulary == WordPieceTokenizer.from_captions(captions, max_size=200).get_vocabulary()
    assert vocabulary[:4] == PIECES[:4] and len(vocabulary) <= 200
    ids = np.asarray(tokenizer(captions))
    assert (ids != tokenizer.token_to_id("[UNK]")).all()
    np.testing.assert_array_equal(ids, wordpiece_reference(vocabulary, length=80)(captions))


def test_from_captions_passes_its_options():
    tokenizer = WordPieceTokenizer.from_captions(["Été", "Été"], lowercase=False, sequence_length=9)
    assert "É" in tokenizer.get_vocabulary() and tokenizer.sequence_length == 9


def test_config():
    config = WordPieceTokenizer(PIECES, sequence_length=9, lowercase=False).get_config()
    assert (config["vocabulary"], config["lowercase"], config["strip_accents"]) == (None, False, False)
    assert WordPieceTokenizer.from_config(config).sequence_length == 9
    assert WordPieceTokenizer(PIECES).strip_accents
