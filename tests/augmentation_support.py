"""Keys, draws and packed captions for tests of the augmentations."""

import numpy as np
import tensorflow as tf

from keras_itr.data.augmentation import draw_per_example
from keras_itr.data.hashing import hash64
from keras_itr.preprocessing import WordTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[START]", "[END]"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "##s", "##gy", "cat", "a", "run", "##ning"]
MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "! !"]


def keys(count, seed=0):
    """In the form of the pipeline's."""
    rows = np.arange(count)
    return np.stack([hash64(seed, "augmentation", 0, rows), rows.astype("uint64")], axis=1).view("int64")


def in_graph(augmentation):
    """As in the pipeline; eagerly, thousands of examples would take minutes."""
    return tf.function(lambda batch, keys: augmentation(batch, keys))


def draws_of(keys, stream, shape):
    return tf.function(lambda keys: draw_per_example(keys, stream, shape))(keys).numpy()


def word_tokenizer(count, *more):
    return WordTokenizer([*SPECIALS, *[f"w{index}" for index in range(count)], *more], sequence_length=12)


def pack(tokenizer, captions):
    ids = np.asarray(tokenizer(captions))
    return {"token_ids": tf.constant(ids), "padding_mask": tf.constant(np.asarray(tokenizer.padding_mask(ids)))}


def assert_share(observed, expected, count):
    """Within four and a half standard deviations of a binomial share."""
    assert abs(observed - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count)
