"""BERT's basic tokenization, captions to words, as one table over code points and core TensorFlow operations."""

import functools
import itertools
import unicodedata

# First code point of each block that BERT calls Chinese characters, and the first one after it.
_CHINESE_EDGES = (
    *(0x3400, 0x4DC0, 0x4E00, 0xA000, 0xF900, 0xFB00),
    *(0x20000, 0x2A6E0, 0x2A700, 0x2CEB0, 0x2F800, 0x2FA20),
)
# Outside these ranges no code point changes, except for the private planes, which are dropped.
_CHANGING = (range(0x30000), range(0xE0000, 0xE0200))
_PRIVATE_PLANES = 0xF0000
_SPACE, _DROPPED, _UNCHANGED = ord(" "), 0, -1


@functools.cache
def character_changes(lowercase, strip_accents):
    """dict code point -> value, of the code points that change.

    The value is the character put in the place of the code point, 32 for white space, 0 for a dropped character, or
    negative for punctuation, which is a word of its own.
    """
    values = {
        code: _character_value(chr(code), lowercase, strip_accents) for code in itertools.chain.from_iterable(_CHANGING)
    }
    return {code: value for code, value in values.items() if value != code}


def _character_value(character, lowercase, strip_accents):
    if character in "\t\n\r":
        return _SPACE
    if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs"):
        return _DROPPED
    if character.isspace():
        return _SPACE
    folded = character
    if strip_accents:
        folded = "".join(c for c in unicodedata.normalize("NFD", folded) if unicodedata.category(c) != "Mn")
    folded = folded.lower() if lowercase else folded
    if not folded:
        return _DROPPED
    # One character stays one character: Hangul and some Indic vowel signs are not taken apart.
    folded = folded if len(folded) == 1 else character
    return -ord(folded) if _is_punctuation(folded) else ord(folded)


def _is_punctuation(character):
    ascii_symbol = character.isascii() and not character.isalnum()
    return ascii_symbol or unicodedata.category(character).startswith("P")


def character_table(lowercase, strip_accents):
    """`character_changes` as a TensorFlow table int32 -> int32, -1 for an unchanged code point."""
    import tensorflow as tf

    changes = character_changes(lowercase, strip_accents)
    keys, values = tf.constant(list(changes), tf.int32), tf.constant(list(changes.values()), tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), _UNCHANGED)


def split_words(texts, table):
    """String (B,) -> ragged string (B, words); TensorFlow operations only."""
    import tensorflow as tf

    texts = tf.strings.unicode_decode(texts, "UTF-8")
    values = _change_characters(texts.values, table)
    keep = texts.with_values(values != _DROPPED)
    texts = tf.ragged.boolean_mask(texts.with_values(values), keep)
    values, rows = texts.values, texts.value_rowids()

    # A word begins at a single, and at a letter after a single, after white space or at the beginning of a caption.
    single, space = values < 0, values == _SPACE
    ended = tf.concat([[True], (single | space)[:-1]], axis=0) | tf.concat([[True], rows[1:] != rows[:-1]], axis=0)
    begins = tf.boolean_mask((single | ended)[: tf.size(values)], ~space)
    characters, rows = tf.boolean_mask(tf.abs(values), ~space), tf.boolean_mask(rows, ~space)

    starts = tf.where(begins)[:, 0]
    words = tf.strings.unicode_encode(tf.RaggedTensor.from_row_starts(characters, starts, validate=False), "UTF-8")
    return tf.RaggedTensor.from_value_rowids(words, tf.gather(rows, starts), texts.nrows(), validate=False)


def _change_characters(codes, table):
    """int32 code points -> values as in `character_changes`, with Chinese characters negative as well."""
    import tensorflow as tf

    found = table.lookup(codes)
    values = tf.where(found == _UNCHANGED, codes, found)
    chinese = tf.searchsorted(_CHINESE_EDGES, codes, side="right") % 2 == 1
    values = tf.where(chinese, -tf.abs(values), values)
    return tf.where(codes >= _PRIVATE_PLANES, _DROPPED, values)
