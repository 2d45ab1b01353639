import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import WordTokenizer, clean_caption

SPECIALS = ["[PAD]", "[UNK]", "[START]", "[END]"]


@pytest.fixture
def tokenizer():
    return WordTokenizer([*SPECIALS, "a", "hat", "red", "'s", "man"], sequence_length=6)


def test_ids(tokenizer):
    ids = tokenizer(["A red hat!", "The man's hat", "", "a a a a a a a a"])
    assert keras.ops.is_tensor(ids)
    expected = [[2, 4, 6, 5, 3, 0], [2, 1, 8, 7, 5, 3], [2, 3, 0, 0, 0, 0], [2, 4, 4, 4, 4, 3]]
    assert np.asarray(ids).dtype == "int32" and np.asarray(ids).tolist() == expected


def test_the_oracle_is_a_dictionary(captions):
    tokenizer = WordTokenizer.from_captions(captions[:4], sequence_length=20)
    ids = {token: index for index, token in enumerate(tokenizer.get_vocabulary())}
    for caption, row in zip(captions, np.asarray(tokenizer(captions)), strict=True):
        words = [ids.get(word, 1) for word in clean_caption(caption, "words").split()]
        packed = [2, *words[:18], 3]
        assert row.tolist() == packed + [0] * (20 - len(packed))


@pytest.mark.parametrize(
    ("texts", "shape"),
    [
        ("a hat", (6,)),
        (b"a hat", (6,)),
        (["a", "b"], (2, 6)),
        ([], (0, 6)),
        (np.array(["a", "é"]), (2, 6)),
        (np.array(["a", "é"], dtype=object), (2, 6)),
        ([["a", "b", "c"], ["d", "e", "f"]], (2, 3, 6)),
    ],
)
def test_shapes(tokenizer, texts, shape):
    assert tuple(tokenizer(texts).shape) == shape


def test_a_graph_gives_the_same_ids_and_a_static_length(tokenizer, captions):
    dataset = tf.data.Dataset.from_tensor_slices(captions).batch(2).map(tokenizer)
    assert dataset.element_spec.shape.as_list() == [None, 6]
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in dataset]), np.asarray(tokenizer(captions)))
    single = tf.function(tokenizer.tokenize)(tf.constant(captions[0]))
    np.testing.assert_array_equal(single, np.asarray(tokenizer(captions[0])))


def test_a_caption_cannot_spell_a_special_token():
    tokenizer = WordTokenizer([*SPECIALS, "hat"], sequence_length=6, cleaning="none")
    assert np.asarray(tokenizer("[PAD] [END] [START] hat")).tolist() == [2, 1, 1, 1, 4, 3]


def test_from_captions_orders_by_count_then_word():
    captions = ["b a", "a c", "A b", "d [PAD]"]
    assert WordTokenizer.from_captions(captions).get_vocabulary() == [*SPECIALS, "a", "b", "c", "d", "pad"]
    assert WordTokenizer.from_captions(captions, min_count=2).get_vocabulary() == [*SPECIALS, "a", "b"]
    assert WordTokenizer.from_captions(captions, max_size=5).get_vocabulary() == [*SPECIALS, "a"]
    raw = WordTokenizer.from_captions(captions, cleaning="none")
    assert raw.get_vocabulary() == [*SPECIALS, "a", "b", "A", "c", "d"] and raw.cleaning == "none"


def test_from_captions_does_not_depend_on_the_order_of_captions(captions):
    forward, backward = WordTokenizer.from_captions(captions), WordTokenizer.from_captions(captions[::-1])
    assert forward.get_vocabulary() == backward.get_vocabulary()


def test_look_ups(tokenizer):
    assert tokenizer.vocabulary_size() == 9
    assert tokenizer.token_to_id("hat") == 5 and tokenizer.id_to_token(5) == "hat"
    assert set(tokenizer.special_tokens) == set(SPECIALS) and sorted(tokenizer.special_token_ids) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="'cat' is not in the vocabulary"):
        tokenizer.token_to_id("cat")
    with pytest.raises(ValueError, match=r"0\.\.8; got 9"):
        tokenizer.id_to_token(9)


def test_detokenize(tokenizer):
    assert tokenizer.detokenize(tokenizer("A red hat")) == "a red hat"
    assert tokenizer.detokenize(tokenizer(["a", "", "zebra hat"])) == ["a", "", "hat"]


def test_assets_round_trip(tmp_path):
    words = [*SPECIALS, "猫", "o'clock", "a\u2028b", "a\rb"]
    WordTokenizer(words).save_assets(tmp_path)
    text = (tmp_path / "vocabulary.txt").read_bytes().decode("utf-8")
    assert text.split("\n") == [*words, ""]
    tokenizer = WordTokenizer()
    tokenizer.load_assets(tmp_path)
    assert tokenizer.get_vocabulary() == words


def test_config_leaves_the_vocabulary_to_the_assets(tokenizer):
    config = WordTokenizer(tokenizer.get_vocabulary(), sequence_length=7, cleaning="cusa").get_config()
    assert config["vocabulary"] is None
    copy = WordTokenizer.from_config(config)
    assert (copy.sequence_length, copy.cleaning, copy.vocabulary) == (7, "cusa", None)


def test_a_new_vocabulary_replaces_the_old_one(tokenizer):
    tokenizer("a hat")
    tokenizer.set_vocabulary([*SPECIALS, "hat", "a"])
    assert np.asarray(tokenizer("a hat")).tolist() == [2, 5, 4, 3, 0, 0]


def test_faulty_arguments():
    with pytest.raises(ValueError, match="no vocabulary yet"):
        WordTokenizer()("a")
    with pytest.raises(ValueError, match="Did you mean 'cusa'"):
        WordTokenizer(cleaning="cuca")
    with pytest.raises(ValueError, match="at least 3"):
        WordTokenizer(sequence_length=2)
    with pytest.raises(ValueError, match="`max_size`"):
        WordTokenizer.from_captions(["a"], max_size=3)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("words.txt", "load_assets"),
        ([*SPECIALS, "a", "a"], "'a' is in the vocabulary more than once"),
        ([*SPECIALS, "a\nb"], "line break"),
        ([*SPECIALS, ""], "non-empty"),
        (["a", *SPECIALS], "first because 0 is padding"),
        (["[PAD]", "[UNK]", "a"], r"missing \['\[START\]', '\[END\]'\]"),
    ],
)
def test_faulty_vocabularies(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer(vocabulary)
