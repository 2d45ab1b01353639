import json
import pathlib
import unicodedata

import keras
import numpy as np
import pytest
import tensorflow as tf
from tokenizer_support import clip_reference

from keras_itr.models import DualEncoderBackbone
from keras_itr.preprocessing import CLIPTokenizer, RetrievalPreprocessor, clean_caption
from keras_itr.preprocessing.byte_pairs import openai_merges

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "cusa"
MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "a a", "aa a</w>", "! !", "1 2", "12 3"]
TEXTS = [
    "Two dogs, one BLACK and one white, run over 12 logs!",
    "A man's hat isn't RED; they're sure I'd've said we'll see what he's got.",
    "'tis the season, y'all: rock 'n' roll ''quoted'' ...'s",
    "ROOM 101, 3.5km @ $20 (50% off) #1 -- 2nd of 1234567890",
    "Café déjà-vu: naïve Übermensch, smörgåsbord, garçon, ŁÓDŹ, ŽIŽEK",
    "“Curly” \u2018quotes\u2019 and don\u2019t",
    "👍🏽 two 👩‍👩‍👧 emoji ☀️ in a row 👍👍",
    "猫が座っている。 고양이가 앉아 있다 一只猫坐着",
    "Кошка СИДИТ на окне; γάτα; قطة على النافذة; बिल्ली",
    "tabs\tand\nlines\r\nand\u00a0no-break\u3000wide\u2003spaces  ",
    "half ½ Ⅷ ² x² ①",
    "İstanbul STRASSE straße",
    "!!! !! ! wow!!! !a! ?!?!",
    "soooooooooooo aaaaaaa zzzzzzzz hahahahahaha",
    "antidisestablishmentarianism supercalifragilisticexpialidocious",
    "<|endoftext|> <person> <b>html</b> &amp; www.example.org/a_b?c=d",
    "null\x00and\x07bell\ufeff",
    "x" * 300,
    "a photo of a cat, " * 30,
    "one two three four five six seven " * 10 + "123!",
    "",
    "   \t\n",
]


@pytest.fixture(scope="module")
def clip():
    return CLIPTokenizer()


@pytest.fixture(scope="module")
def reference():
    return clip_reference(openai_merges())


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_the_vocabulary_is_that_of_openai(clip):
    vocabulary = clip.get_vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) == clip.vocabulary_size() == 49408
    assert vocabulary[:2] == ["!", '"'] and vocabulary[256] == "!</w>" and vocabulary[320] == "a</w>"
    assert vocabulary[512] == "in" and vocabulary[-3:] == ["jekyll</w>", "<|startoftext|>", "<|endoftext|>"]
    assert (clip.start_token_id, clip.end_token_id, clip.pad_token_id) == (49406, 49407, 0)


def test_equals_the_reference(clip, reference):
    ids = numpy(clip(TEXTS))
    assert ids.dtype == "int32" and ids.shape == (len(TEXTS), 77)
    np.testing.assert_array_equal(ids, reference(TEXTS))


def test_equals_the_official_ids_of_cleaned_captions(clip):
    captions = json.loads((FIXTURES / "caption_cleaning.json").read_text(encoding="utf-8"))["inputs"]
    with np.load(FIXTURES / "caption_cleaning.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(numpy(clip(clean_caption(captions, "cusa"))), stored["out_tokens"])


def test_equals_the_reference_on_every_character_of_many_blocks(clip, reference):
    """Latin, Greek, Cyrillic, punctuation, symbols, kana, parts of the Chinese blocks, Hangul, emoji."""
    blocks = [(1, 0x300), (0x370, 0x530), (0x1E00, 0x2C00), (0x3000, 0x3200), (0x4DA0, 0x4E20), (0xAC00, 0xAC80)]
    blocks += [(0xFF00, 0xFFF0), (0x1F300, 0x1F600), (0x20000, 0x20020)]
    characters = [chr(code) for block in blocks for code in range(*block)]
    # See the known differences below.
    characters = [c for c in characters if unicodedata.is_normalized("NFC", c)]
    texts = [f"a{character}a'{character}s" for character in characters]
    wrong = (numpy(clip(texts)) != reference(texts)).any(axis=1)
    assert not [hex(ord(characters[row])) for row in np.flatnonzero(wrong)]


@pytest.mark.parametrize(
    ("text", "same_for_the_reference"),
    [
        ("cafe\u0301", "café"),  # no normalization to NFC
        ("ΣΟΦΟΣ", "σοφοσ"),  # no final sigma
    ],
)
def test_known_differences(clip, reference, text, same_for_the_reference):
    theirs = reference([text])
    np.testing.assert_array_equal(theirs, reference([same_for_the_reference]))
    assert (numpy(clip([text])) != theirs).any()
    np.testing.assert_array_equal(numpy(clip(["ΣΟΦΟΣ"])), numpy(clip(["σοφος"])))


def test_captions_cannot_spell_special_tokens(clip):
    ids = numpy(clip("<|startoftext|> <|endoftext|>"))
    assert (ids == 49406).sum() == (ids == 49407).sum() == 1


def test_random_merges_equal_the_reference():
    random = np.random.default_rng(0)
    symbols = [*"abc", "a</w>", "b</w>", "c</w>"]
    merges = []
    while len(merges) < 40:
        left, right = random.choice(symbols, size=2)
        if not left.endswith("</w>") and left + right not in symbols and len(left + right) < 12:
            merges.append(f"{left} {right}")
            symbols.append(left + right)
    texts = ["".join(random.choice(list("aabbc "), size=60)) for _ in range(300)]
    ours = numpy(CLIPTokenizer(merges, sequence_length=70)(texts))
    np.testing.assert_array_equal(ours, clip_reference(merges, 70)(texts))


def test_a_graph_gives_the_same_ids(clip):
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(clip)
    assert dataset.element_spec.shape.as_list() == [None, 77]
    np.testing.assert_array_equal(np.concatenate([ids.numpy() for ids in dataset]), numpy(clip(TEXTS)))
    assert tuple(clip([]).shape) == (0, 77)
    np.testing.assert_array_equal(numpy(clip(TEXTS[0])), numpy(clip(TEXTS))[0])
    assert tuple(clip([["a", "b"]]).shape) == (1, 2, 77)


def test_the_mask_knows_the_token_with_the_id_of_padding():
    tokenizer = CLIPTokenizer(MERGES, sequence_length=7)
    end = tokenizer.end_token_id
    preprocessor = RetrievalPreprocessor(tokenizer)
    # Inside a word "!" has id 0, as padding has.
    texts = ["?!? dog", "", "?!?!?!?!?"]
    expected_mask = [[True] * 6 + [False], [True] * 2 + [False] * 5, [True] * 7]
    question, last_question = tokenizer.token_to_id("?"), tokenizer.token_to_id("?</w>")
    dog, start = tokenizer.token_to_id("dog</w>"), tokenizer.start_token_id
    expected = [[start, question, 0, last_question, dog, end, 0], [start, end] + 5 * [0]]
    expected.append([start, question, 0, question, 0, question, end])
    x = preprocessor({"text": texts})
    assert keras.ops.is_tensor(x["padding_mask"])
    assert numpy(x["token_ids"]).tolist() == expected and numpy(x["padding_mask"]).tolist() == expected_mask
    (x,) = tf.data.Dataset.from_tensor_slices({"text": texts}).batch(3).map(preprocessor)
    assert x["token_ids"].numpy().tolist() == expected and x["padding_mask"].numpy().tolist() == expected_mask
    assert numpy(tokenizer.padding_mask(numpy(tokenizer("dog")))).tolist() == [True] * 3 + [False] * 4


def test_small_merges():
    tokenizer = CLIPTokenizer(MERGES, sequence_length=6)
    assert tokenizer.vocabulary_size() == 512 + len(MERGES) + 2
    tokens = [tokenizer.id_to_token(index) for index in numpy(tokenizer("Dog cat"))]
    assert tokens == ["<|startoftext|>", "dog</w>", "cat</w>", "<|endoftext|>", "!", "!"]
    tokens = [tokenizer.id_to_token(index) for index in numpy(tokenizer("aaaaaaa"))]
    assert tokens[1:-1] == ["aa", "aa", "aaa</w>", "<|endoftext|>"]
    assert CLIPTokenizer([], sequence_length=4).vocabulary_size() == 514


def test_detokenize(clip):
    texts = ["Two dogs!", "", "naïve 猫👍 it's 12"]
    # One space between words as the pattern finds them.
    assert clip.detokenize(clip(texts)) == ["two dogs !", "", "naïve 猫 👍 it 's 1 2"]
    assert clip.detokenize(clip(texts[0])) == "two dogs !"
    tokenizer = CLIPTokenizer(MERGES, sequence_length=5)
    assert tokenizer.detokenize(tokenizer("xyzxyz")) == "xyz"


@pytest.mark.parametrize("merges", ["openai", MERGES])
def test_a_preset_holds_the_merges(tmp_path, monkeypatch, merges):
    tokenizer = CLIPTokenizer(merges, sequence_length=9)
    RetrievalPreprocessor(tokenizer).save_to_preset(str(tmp_path))
    file = tmp_path / "assets" / "tokenizer" / "merges.txt"
    # Those of OpenAI come with the package.
    assert file.exists() == (merges != "openai")
    assert merges == "openai" or tuple(file.read_text(encoding="utf-8").splitlines()) == tokenizer.merges
    backbone = keras.saving.serialize_keras_object(ToyBackbone())
    (tmp_path / "config.json").write_text(json.dumps(backbone))
    monkeypatch.setattr(RetrievalPreprocessor, "backbone_cls", ToyBackbone)
    monkeypatch.setattr(CLIPTokenizer, "backbone_cls", ToyBackbone)
    loaded = RetrievalPreprocessor.from_preset(str(tmp_path)).tokenizer
    assert type(loaded) is CLIPTokenizer and loaded.get_config() == tokenizer.get_config()
    np.testing.assert_array_equal(numpy(loaded(TEXTS)), numpy(tokenizer(TEXTS)))
    assert CLIPTokenizer.from_preset(str(tmp_path), sequence_length=5)("a").shape[-1] == 5


@keras.saving.register_keras_serializable(package="clip_tokenizer_test")
class ToyBackbone(keras.Model):
    pass


def test_config():
    config = CLIPTokenizer(sequence_length=9).get_config()
    assert (config["merges"], config["sequence_length"]) == ("openai", 9) and "vocabulary" not in config
    assert CLIPTokenizer.from_config(config).vocabulary_size() == 49408
    config = CLIPTokenizer(MERGES).get_config()
    assert config["merges"] is None
    with pytest.raises(ValueError, match="has no merges yet"):
        CLIPTokenizer.from_config(config)("a")


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("merges.txt", "must be \"openai\" or a list of merges; got 'merges.txt'"),
        (["d o", "dog"], "got 'dog', number 1"),
        (["do g"], "got 'do g', number 0"),
        (["o</w> g"], r"got 'o</w> g', number 0"),
        ([("d", "o")], "number 0"),
        (["d o", "d o"], "'d o', number 1, makes a symbol that is there already"),
    ],
)
def test_faulty_merges(merges, message):
    with pytest.raises(ValueError, match=message):
        CLIPTokenizer(merges)


def test_other_faults(clip):
    with pytest.raises(ValueError, match="follows from its merges"):
        CLIPTokenizer(MERGES).set_vocabulary(["a"])
    with pytest.raises(ValueError, match="at least 3"):
        CLIPTokenizer(MERGES, sequence_length=2)
    with pytest.raises(TypeError, match="Text must be str"):
        clip([1])
    assert CLIPTokenizer.backbone_cls is DualEncoderBackbone
