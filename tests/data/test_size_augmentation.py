import itertools

import numpy as np
import pytest
import tensorflow as tf
from augmentation_support import MERGES, PIECES, assert_share, draws_of, in_graph, keys, pack, word_tokenizer

from keras_itr.data import RandomFlip, RandomShift, RegionDropout, WordDropout
from keras_itr.preprocessing import CLIPTokenizer, WordPieceTokenizer, WordTokenizer

TEN = "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"


def dropped(rate, count, regions, mask=None, seed=0):
    batch = {"regions": np.zeros((count, regions, 2), "float32")}
    if mask is not None:
        batch["region_mask"] = tf.constant(mask)
    return in_graph(RegionDropout(rate))(batch, keys(count, seed))["region_mask"].numpy()


def corrupt(tokenizer, captions, rate, seed=0):
    """The token ids after the augmentation, one key for each caption."""
    batch = pack(tokenizer, captions)
    changed = in_graph(WordDropout(tokenizer, rate))(batch, keys(len(captions), seed))
    ids, mask = changed["token_ids"].numpy(), changed["padding_mask"].numpy()
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == mask.shape == batch["token_ids"].shape
    # Right-padded, and nothing but padding behind.
    assert (mask == (np.arange(mask.shape[1]) < mask.sum(axis=1, keepdims=True))).all()
    assert (ids[~mask] == tokenizer.pad_token_id).all()
    np.testing.assert_array_equal(mask, np.asarray(tokenizer.padding_mask(ids)))
    ends = (ids == tokenizer.end_token_id) & mask
    assert (ends.sum(axis=1) == 1).all() and (ends.argmax(axis=1) == mask.sum(axis=1) - 1).all()
    assert (ids[:, 0] == tokenizer.start_token_id).all()
    return ids


def test_draws_are_uniform_and_streams_and_examples_differ():
    first, second = (draws_of(keys(400), stream, (50,)) for stream in ("one", "two"))
    assert first.shape == (400, 50) and first.min() >= 0 and first.max() < 1
    counts = np.histogram(first, bins=10, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 40  # nine degrees of freedom: one in 100,000
    bound = 4.5 / np.sqrt(first.size)
    # What the other augmentations draw: with the key itself, and with its reverse.
    plain, reverse = (
        np.stack([tf.random.stateless_uniform([50], key, dtype=tf.float64, alg="philox") for key in order])
        for order in (keys(400), keys(400)[:, ::-1])
    )
    for other in (second, np.roll(first, 1, axis=0), np.roll(first, 1, axis=1), plain, reverse):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < bound


def test_regions_are_dropped_at_the_rate_and_independently():
    mask = dropped(0.2, 1500, 36)
    assert_share(1 - mask.mean(), 0.2, mask.size)
    # The count of a row varies as that of 36 independent draws.
    assert abs(mask.sum(axis=1).var() / (36 * 0.2 * 0.8) - 1) < 4.5 * np.sqrt(2 / 1500)
    assert abs(np.corrcoef(mask[:, 0], mask[:, 1])[0, 1]) < 4.5 / np.sqrt(1500)
    np.testing.assert_array_equal(mask, dropped(0.2, 1500, 36))
    assert (mask != dropped(0.2, 1500, 36, seed=1)).any()


def test_features_and_other_keys_stay():
    batch = {"regions": np.ones((3, 4, 2), "float32"), "image_id": np.arange(3)}
    out = RegionDropout(0.9)(batch, keys(3))
    assert out["regions"] is batch["regions"] and out["image_id"] is batch["image_id"]
    assert "region_mask" not in batch and out.keys() == {"regions", "image_id", "region_mask"}
    assert out["region_mask"].dtype == tf.bool and out["region_mask"].shape == (3, 4)


def test_invalid_regions_stay_invalid_and_valid_ones_survive():
    mask = np.random.default_rng(0).random((2000, 5)) < 0.6
    mask[:2] = [[False] * 5, [False, False, True, False, False]]
    out = dropped(0.7, 2000, 5, mask)
    assert not (out & ~mask).any()
    np.testing.assert_array_equal(out.any(axis=1), mask.any(axis=1))
    assert out[1].tolist() == mask[1].tolist()
    four = mask.sum(axis=1) == 4
    assert_share(out[four].sum() / mask[four].sum(), 0.3 + 0.7**4 / 4, four.sum())


def test_any_region_can_be_the_one_that_survives():
    out = dropped(1, 3000, 3)
    assert (out.sum(axis=1) == 1).all()
    for share in out.mean(axis=0):
        assert_share(share, 1 / 3, 3000)
    assert dropped(0, 10, 3).all()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_its_range_is_an_error(rate):
    with pytest.raises(ValueError, match="`rate` must be from 0 to 1"):
        RegionDropout(rate)
    with pytest.raises(ValueError, match="`rate` must be from 0 to 1"):
        WordDropout(word_tokenizer(2), rate)


def test_a_tokenizer_without_a_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        WordDropout(WordTokenizer(sequence_length=12))


def test_words_are_hidden_swapped_and_deleted_at_their_rates():
    tokenizer = word_tokenizer(500, "[MASK]")
    ids = corrupt(tokenizer, [TEN] * 4000, 0.2)
    count, mask_id = 40_000, tokenizer.token_to_id("[MASK]")
    assert_share(1 - (ids > 3).sum() / count, 0.2 * 0.4, count)
    assert_share((ids == mask_id).sum() / count, 0.2 * 0.5, count)
    # Ten of the 500 random words are the caption's own.
    swapped = ids[(ids > tokenizer.token_to_id("w9")) & (ids != mask_id)]
    assert_share(len(swapped) / count, 0.2 * 0.1 * 490 / 500, count)
    assert set(swapped) <= set(range(14, 504)) and len(set(swapped)) > 350
    assert abs(swapped.mean() - 258.5) < 4.5 * 490 / np.sqrt(12 * len(swapped))
    assert not (ids == tokenizer.unknown_token_id).any()
    # Every place of a caption is touched alike.
    for word in range(4, 14):
        assert_share((ids == word).any(axis=1).mean(), 0.8 + 0.2 * 0.1 / 500, 4000)


def test_without_a_mask_token_the_unknown_one_hides_words():
    tokenizer = word_tokenizer(10)
    assert tokenizer.mask_token_id == tokenizer.unknown_token_id == 1
    assert_share((corrupt(tokenizer, [TEN] * 1000, 0.4) == 1).sum() / 10_000, 0.2, 10_000)


def test_an_unknown_word_is_deleted_as_any_other():
    ids = corrupt(word_tokenizer(3), ["w0 strange w1"] * 3000, 0.5)
    lengths = (ids != 0).sum(axis=1) - 2
    assert_share(1 - lengths.mean() / 3, (0.6 - 0.2**3) / 3, 9000)


def test_captions_without_words_and_with_one():
    ids = corrupt(word_tokenizer(500, "[MASK]"), ["", "w0"] * 3000, 1)
    assert (ids[::2] == [2, 3, *[0] * 10]).all()
    one = ids[1::2]
    assert (one[:, 2] == 3).all()
    # What would be deleted stays as it is.
    assert_share((one[:, 1] == 4).mean(), 0.4 + 0.1 / 500, 3000)
    assert_share((one[:, 1] == 504).mean(), 0.5, 3000)


def test_rate_zero_changes_nothing():
    tokenizer = word_tokenizer(10)
    captions = [TEN, "", "w3 w4", "w1 " * 30]
    np.testing.assert_array_equal(corrupt(tokenizer, captions, 0), np.asarray(tokenizer(captions)))


def official(tokenizer, words, draws, rate):
    """One caption in plain Python, in the steps of the official code; `words` are lists of piece ids."""
    special = {tokenizer.token_to_id(token) for token in tokenizer.special_token_names}
    special |= {tokenizer.pad_token_id, tokenizer.mask_token_id}
    choices = [index for index in range(tokenizer.vocabulary_size()) if index not in special]
    out, place = [], 1
    for number, pieces in enumerate(words, start=1):
        draw = draws[0, number]
        for piece in pieces:
            if draw >= rate:
                out.append(piece)
            elif draw < 0.5 * rate:
                out.append(tokenizer.mask_token_id)
            elif draw < 0.6 * rate:
                out.append(choices[int(draws[1, place] * len(choices))])
            place += 1
    out = out or list(words[0] if words else [])
    row = [tokenizer.start_token_id, *out, tokenizer.end_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.sequence_length - len(row))


def assert_as_official(tokenizer, captions, rate):
    """`captions`: pairs of a text and its words as lists of tokens."""
    captions = captions * 400
    words = [[[tokenizer.token_to_id(token) for token in word] for word in split] for _, split in captions]
    texts = [text for text, _ in captions]
    whole = [[tokenizer.start_token_id, *itertools.chain(*split), tokenizer.end_token_id] for split in words]
    for row, ids in zip(whole, np.asarray(tokenizer(texts)), strict=True):
        assert row == ids[: len(row)].tolist()
    draws = draws_of(keys(len(texts)), "word dropout", (2, tokenizer.sequence_length))
    expected = [official(tokenizer, *pair, rate) for pair in zip(words, draws, strict=True)]
    np.testing.assert_array_equal(corrupt(tokenizer, texts, rate), expected)


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_pieces_share_the_fate_of_their_word(rate):
    doggys, running = ["dog", "##gy", "##s"], ["run", "##ning"]
    captions = [
        ("doggys a running cat", [doggys, ["a"], running, ["cat"]]),
        ("doggys", [doggys]),
        ("a strange, cat", [["a"], ["[UNK]"], ["[UNK]"], ["cat"]]),
        ("cat doggys running running running", [["cat"], doggys, running, running, running]),
        ("", []),
        # Cut within a word.
        ("running running running running doggys", [running] * 4 + [doggys[:2]]),
    ]
    assert_as_official(WordPieceTokenizer(PIECES, sequence_length=12), captions, rate)
    assert_as_official(word_tokenizer(4, "[MASK]"), [("w0 w1 w2", [["w0"], ["w1"], ["w2"]]), ("w3", [["w3"]])], rate)


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_clip_words_end_with_their_last_piece(rate):
    tokenizer = CLIPTokenizer(MERGES, sequence_length=9)
    catty = ["ca", "t", "t", "y</w>"]
    captions = [
        ("dog catty dog", [["dog</w>"], catty, ["dog</w>"]]),
        ("cat!!! dog", [["cat</w>"], ["!!", "!</w>"], ["dog</w>"]]),
        ("!do", [["!</w>"], ["d", "o</w>"]]),
        ("", []),
        # Cut within a word: the end token is none of its pieces. "!" has the id of padding.
        ("dog cat catty dog", [["dog</w>"], ["cat</w>"], catty, ["dog</w>"]]),
        ("dog dog dog catty", [["dog</w>"]] * 3 + [catty]),
        ("dog dog catty catty", [["dog</w>"]] * 2 + [catty] + [catty[:1]]),
    ]
    assert tokenizer.id_to_token(tokenizer.mask_token_id) == "_</w>"
    assert_as_official(tokenizer, captions, rate)


def test_where_words_begin():
    ids = tf.constant([[2, 5, 7, 6, 4, 10, 11, 8, 3, 0]])
    begins = WordPieceTokenizer(PIECES, sequence_length=10).begins_word(ids).numpy()
    assert begins.tolist() == [[True, True, False, False, True, True, False, True, True, True]]
    assert word_tokenizer(8).begins_word(ids).numpy().all()
    tokenizer = CLIPTokenizer(MERGES, sequence_length=8)
    begins = tokenizer.begins_word(tf.constant(np.asarray(tokenizer(["dog catty cat", "!!!!", ""])))).numpy()
    assert begins[0].tolist() == [True, True, True, False, False, False, True, True]
    assert begins[1, :5].tolist() == [True, True, False, False, True] and begins[2, :2].all()


def test_a_graph_keeps_the_shapes_and_gives_the_same():
    tokenizer = WordPieceTokenizer(PIECES, sequence_length=12)
    dropout = WordDropout(tokenizer, 0.5)
    batch = pack(tokenizer, ["doggys a running cat"] * 8)
    data = tf.data.Dataset.from_tensor_slices((batch, keys(8)))
    unknown = data.batch(4).map(dropout)
    assert unknown.element_spec["token_ids"].shape.as_list() == [None, 12]
    known = data.batch(4, drop_remainder=True).map(dropout)
    assert {key: spec.shape.as_list() for key, spec in known.element_spec.items()} == {
        "token_ids": [4, 12],
        "padding_mask": [4, 12],
    }
    whole = dropout(batch, keys(8))
    for key in dropout.changes:
        np.testing.assert_array_equal(np.concatenate([part[key] for part in unknown]), whole[key])
        np.testing.assert_array_equal(np.concatenate([part[key] for part in known]), whole[key])


def test_augmentations_say_what_they_change():
    tokenizer = word_tokenizer(10)
    batch = {
        **pack(tokenizer, [TEN] * 30),
        "images": tf.random.stateless_uniform([30, 8, 8, 3], (0, 0)),
        "regions": tf.zeros([30, 6, 2]),
        "region_mask": tf.ones([30, 6], tf.bool),
    }
    for augmentation in (RandomShift(2), RandomFlip(), RegionDropout(0.5), WordDropout(tokenizer, 0.5)):
        out = augmentation(batch, keys(30))
        changed = {key for key in batch if not np.array_equal(out[key], batch[key])}
        assert out.keys() == batch.keys() and changed == set(augmentation.changes)
