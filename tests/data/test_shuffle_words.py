import itertools

import numpy as np
import pytest
import tensorflow as tf
from augmentation_support import MERGES, PIECES, assert_share, draws_of, in_graph, keys, pack, word_tokenizer

from keras_itr.data import ShuffleWords, WordDropout
from keras_itr.preprocessing import CLIPTokenizer, WordPieceTokenizer, WordTokenizer


def shuffled(tokenizer, captions, seed=0, example_keys=None):
    """The negative ids, one key for each caption."""
    batch = pack(tokenizer, captions)
    example_keys = keys(len(captions)) if example_keys is None else example_keys
    out = in_graph(ShuffleWords(tokenizer, seed))({**batch, "image_id": tf.range(len(captions))}, example_keys)
    assert out.keys() == {*batch, "image_id", "negative_token_ids", "negative_padding_mask"}
    # What was there stays; so does the mask, as there are as many tokens.
    for key, before in batch.items():
        np.testing.assert_array_equal(out[key], before)
    np.testing.assert_array_equal(out["negative_padding_mask"], batch["padding_mask"])
    ids = out["negative_token_ids"].numpy()
    assert ids.dtype == np.int32 and ids.shape == batch["token_ids"].shape
    np.testing.assert_array_equal(np.asarray(tokenizer.padding_mask(ids)), batch["padding_mask"])
    return ids


def by_rule(tokenizer, words, draws):
    """One caption in plain Python; `words` are lists of piece ids."""
    order = sorted(range(len(words)), key=lambda number: draws[number + 1])
    moved = [words[number] for number in order]
    moved = words[-1:] + words[:-1] if moved == words else moved
    row = [tokenizer.start_token_id, *itertools.chain(*moved), tokenizer.end_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.sequence_length - len(row))


def assert_as_the_rule(tokenizer, captions, seed=0):
    """`captions`: pairs of a text and its words as lists of tokens."""
    captions = captions * 200
    words = [[[tokenizer.token_to_id(token) for token in word] for word in split] for _, split in captions]
    texts = [text for text, _ in captions]
    draws = draws_of(keys(len(texts)), f"word order {seed}", (tokenizer.sequence_length,))
    expected = [by_rule(tokenizer, *pair) for pair in zip(words, draws, strict=True)]
    ids = shuffled(tokenizer, texts, seed)
    np.testing.assert_array_equal(ids, expected)
    # Where two words differ, so do the captions.
    several = np.array([len({tuple(word) for word in split}) > 1 for split in words])
    differ = (ids != np.asarray(tokenizer(texts))).any(axis=1)
    np.testing.assert_array_equal(differ, several)


def test_words_come_in_another_order_by_the_rule():
    tokenizer = word_tokenizer(10)
    captions = [f"w{first} w{second} w{third}" for first in range(2) for second in range(2) for third in range(3)]
    captions += ["", "w3", "w4 w5", "w4 w4", "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9", "w0 w1 " * 20]
    assert_as_the_rule(tokenizer, [(text, [[word] for word in text.split()[:10]]) for text in captions])
    assert_as_the_rule(tokenizer, [(text, [[word] for word in text.split()[:10]]) for text in captions], seed=4)


def test_pieces_of_a_word_stay_together():
    doggys, running = ["dog", "##gy", "##s"], ["run", "##ning"]
    captions = [
        ("doggys a running cat", [doggys, ["a"], running, ["cat"]]),
        ("doggys", [doggys]),
        ("running running", [running, running]),
        ("a strange, cat", [["a"], ["[UNK]"], ["[UNK]"], ["cat"]]),
        ("", []),
        # Cut within a word.
        ("running running running running doggys", [running] * 4 + [doggys[:2]]),
    ]
    assert_as_the_rule(WordPieceTokenizer(PIECES, sequence_length=12), captions)


def test_clip_words_stay_together():
    catty = ["ca", "t", "t", "y</w>"]
    captions = [
        ("dog catty dog", [["dog</w>"], catty, ["dog</w>"]]),
        ("catty", [catty]),
        # "!" has the id of padding.
        ("cat!!! dog", [["cat</w>"], ["!!", "!</w>"], ["dog</w>"]]),
        ("", []),
        ("dog dog catty catty", [["dog</w>"]] * 2 + [catty] + [catty[:1]]),
    ]
    assert_as_the_rule(CLIPTokenizer(MERGES, sequence_length=9), captions)


def test_orders_are_uniform_but_for_the_own_one():
    ids = shuffled(word_tokenizer(3), ["w0 w1 w2"] * 6000)
    orders = [tuple(row) for row in (ids[:, 1:4] - 4).tolist()]
    assert set(orders) == set(itertools.permutations(range(3))) - {(0, 1, 2)}
    for order in set(orders):
        # Turned by one place instead of the own order.
        assert_share(orders.count(order) / 6000, (2 if order == (2, 0, 1) else 1) / 6, 6000)
    # Every place of a longer caption is as likely for every word.
    ids = shuffled(word_tokenizer(10), ["w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"] * 4000)
    for word in range(10):
        for share in (ids[:, 1:11] == word + 4).mean(axis=0):
            assert_share(share, 0.1, 4000)


def test_an_order_is_a_function_of_its_key_and_seed():
    tokenizer, texts = word_tokenizer(10), ["w0 w1 w2 w3 w4 w5 w6 w7"] * 300
    ids = shuffled(tokenizer, texts)
    np.testing.assert_array_equal(ids, shuffled(tokenizer, texts))
    np.testing.assert_array_equal(ids[50:60], shuffled(tokenizer, texts[:10], example_keys=keys(300)[50:60]))
    for other in (shuffled(tokenizer, texts, seed=1), shuffled(tokenizer, texts, example_keys=keys(300, seed=1))):
        assert (ids != other).any(axis=1).mean() > 0.99
    # Nor does it follow which words are dropped.
    order, dropped = (draws_of(keys(300), stream, (12,)) for stream in ("word order 0", "word dropout"))
    assert abs(np.corrcoef(order.ravel(), dropped.ravel())[0, 1]) < 4.5 / np.sqrt(order.size)


def test_negatives_before_dropped_words_are_those_of_the_whole_caption():
    tokenizer = word_tokenizer(10)
    batch, example_keys = pack(tokenizer, ["w0 w1 w2 w3 w4 w5 w6 w7"] * 100), keys(100)

    def both(batch, example_keys):
        return WordDropout(tokenizer, 0.5)(ShuffleWords(tokenizer)(batch, example_keys), example_keys)

    out = in_graph(both)(batch, example_keys)
    negatives = out["negative_token_ids"].numpy()
    np.testing.assert_array_equal(negatives, shuffled(tokenizer, ["w0 w1 w2 w3 w4 w5 w6 w7"] * 100))
    np.testing.assert_array_equal(np.sort(negatives[:, 1:9], axis=1), np.tile(np.arange(4, 12), (100, 1)))
    assert (out["token_ids"] != batch["token_ids"]).numpy().any(axis=1).mean() > 0.9


def test_a_graph_keeps_the_shapes_and_eager_calls_give_the_same():
    tokenizer = WordPieceTokenizer(PIECES, sequence_length=12)
    batch, shuffle = pack(tokenizer, ["doggys a running cat"] * 8), ShuffleWords(tokenizer)
    data = tf.data.Dataset.from_tensor_slices((batch, keys(8)))
    unknown, known = data.batch(4).map(shuffle), data.batch(4, drop_remainder=True).map(shuffle)
    whole = shuffle(batch, keys(8))
    for key in ("negative_token_ids", "negative_padding_mask"):
        assert unknown.element_spec[key].shape.as_list() == [None, 12]
        assert known.element_spec[key].shape.as_list() == [4, 12]
        for parts in (unknown, known):
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), whole[key])


def test_a_tokenizer_without_a_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        ShuffleWords(WordTokenizer(sequence_length=12))
