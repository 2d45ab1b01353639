"""CLIP's byte pairs: the alphabet of bytes, OpenAI's merges, words to symbols in core TensorFlow operations."""

import functools
import gzip
import pathlib

import numpy as np

WORD_END = "</w>"
NUM_BYTE_SYMBOLS = 512
_MERGES_FILE = pathlib.Path(__file__).parent / "assets" / "bpe_simple_vocab_16e6.txt.gz"
# The file goes on; CLIP's vocabulary ends here. The first line is a comment.
_NUM_MERGES = 48_894


@functools.cache
def openai_merges():
    """The merges of OpenAI's CLIP, by falling priority: tuple of 48,894 `str` such as `"i n"`."""
    with gzip.open(_MERGES_FILE, "rt", encoding="utf-8", newline="\n") as file:
        next(file)
        return tuple(next(file).removesuffix("\n") for _ in range(_NUM_MERGES))


@functools.cache
def byte_alphabet():
    """tuple of `(byte, character)` in the order of the ids: printable bytes of Latin-1 stand for themselves, the others
    for the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return tuple((byte, chr(byte)) for byte in printable) + tuple(
        (byte, chr(256 + index)) for index, byte in enumerate(others)
    )


def parse_merges(merges):
    """Checks merges and makes the symbols of them.

    Args:
        merges: Sequence of `str`, two symbols and a space between them.

    Returns:
        The symbols by id, a list (256 bytes, 256 bytes at the end of a word, one per merge), and the pair of ids that
        each merge joins, int64 (merges,), as one number.

    Raises:
        ValueError: A merge is not two symbols, joins one that is no byte and no earlier merge, or makes one that is
            there already.
    """
    characters = [character for _, character in byte_alphabet()]
    symbols = characters + [character + WORD_END for character in characters]
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    keys = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else ()
        if len(parts) != 2 or any(part not in ids for part in parts) or parts[0].endswith(WORD_END):
            raise ValueError(
                f'A merge must be a str of two symbols and one space, such as "i n" or "in g{WORD_END}", each a byte '
                f"or made by an earlier merge, {WORD_END} only at the end; got {merge!r}, number {len(keys)}."
            )
        if "".join(parts) in ids:
            raise ValueError(f"Merge {merge!r}, number {len(keys)}, makes a symbol that is there already; remove it.")
        keys.append(_pair_key(ids[parts[0]], ids[parts[1]]))
        ids["".join(parts)] = len(symbols)
        symbols.append("".join(parts))
    return symbols, np.array(keys, "int64")


def pair_table(keys):
    """The merges as a TensorFlow table int64 -> int64: pair of ids -> id of what they make.

    Ids rise with the rank of their merge, so that the smallest is merged first; a pair that does not merge has the
    largest of all numbers.
    """
    import tensorflow as tf

    merged = tf.range(NUM_BYTE_SYMBOLS, NUM_BYTE_SYMBOLS + len(keys), dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(keys), merged), tf.int64.max)


def byte_pairs(words, table):
    """String (W,) of non-empty words -> ragged int32 (W, symbols); TensorFlow operations only.

    In each round every word has the first of its merges by rank done, wherever its pair stands; the rounds end when no
    word has a pair that merges.
    """
    import tensorflow as tf

    def merge(symbols, rows, _):
        pairs = tf.where(_ends(rows), tf.constant(-1, tf.int64), _pair_key(symbols, tf.roll(symbols, -1, axis=0)))
        merged = table.lookup(pairs)
        first = tf.gather(tf.math.segment_min(merged, rows), rows)
        chosen = _without_overlap((merged == first) & (merged < tf.int64.max))
        kept = ~_shift(chosen)
        symbols = tf.where(chosen, merged, symbols)
        return tf.boolean_mask(symbols, kept), tf.boolean_mask(rows, kept), tf.reduce_any(chosen)

    symbols, rows, _ = tf.while_loop(
        lambda symbols, rows, any_merged: any_merged,
        merge,
        (*_byte_symbols(words), tf.constant(True)),
        shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None]), tf.TensorShape([])),
    )
    symbols = tf.cast(symbols, tf.int32)
    return tf.RaggedTensor.from_value_rowids(symbols, rows, tf.size(words, tf.int64), validate=False)


def _pair_key(left, right):
    return left * 2**32 + right


def _byte_symbols(words):
    """Symbols int64 (S,) of the bytes of all words, and int64 (S,), the word each belongs to."""
    import tensorflow as tf

    characters = tf.strings.bytes_split(words)
    codes = tf.reshape(tf.io.decode_raw(characters.values, tf.uint8), [-1])
    # The position in the alphabet of every byte.
    ids = np.argsort([byte for byte, _ in byte_alphabet()])
    symbols, rows = tf.gather(tf.constant(ids, tf.int64), tf.cast(codes, tf.int32)), characters.value_rowids()
    return tf.where(_ends(rows), symbols + NUM_BYTE_SYMBOLS // 2, symbols), rows


def _ends(rows):
    """True for the last symbol of each word."""
    import tensorflow as tf

    return rows != tf.concat([rows, [-1]], axis=0)[1:]


def _without_overlap(chosen):
    """Every second one of neighbours: in "aaa" two pairs share a letter, and the left one is merged."""
    import tensorflow as tf

    places = tf.range(tf.size(chosen))
    begins = tf.concat([[0], tf.boolean_mask(places, chosen & ~_shift(chosen))], axis=0)
    begin = tf.gather(begins, tf.searchsorted(begins, places, side="right") - 1)
    return chosen & ((places - begin) % 2 == 0)


def _shift(flags):
    import tensorflow as tf

    return tf.concat([[False], flags], axis=0)[:-1]
