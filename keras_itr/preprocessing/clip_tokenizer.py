import types

import keras
import numpy as np

from keras_itr.preprocessing.byte_pairs import (
    WORD_END,
    byte_alphabet,
    byte_pairs,
    openai_merges,
    pair_table,
    parse_merges,
)
from keras_itr.preprocessing.cleaning import check_style, clean_caption
from keras_itr.preprocessing.tensors import to_backend
from keras_itr.preprocessing.vocabulary_tokenizer import VocabularyTokenizer

MERGES_FILE = "merges.txt"
OPENAI = "openai"
# OpenAI's code drops control characters and straightens quotation marks. White space is that of any script; RE2's own
# \s is ASCII only.
_CLEANING = (
    (r"[\x00-\x08\v\x0e-\x1f\x7f\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffc}]", ""),
    (r"[\x{2bc}\x{2018}-\x{201b}]", "'"),
    (r"[\x{201c}-\x{201f}]", '"'),
    (r"[\s\x{85}\p{Z}]+", " "),
)
# A contraction, letters, one digit, or what is neither, after white space became spaces.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^ \p{L}\p{N}]+"


@keras.saving.register_keras_serializable(package="keras_itr")
class CLIPTokenizer(VocabularyTokenizer):
    """CLIP's tokenizer: lower case, words by a regular expression, byte pairs.

    Core TensorFlow operations only: the same function runs eagerly, in `tf.data` and in an exported SavedModel. There
    is no operation of tensorflow-text, and no cache that grows with use. Every text has ids, as every byte has one.

    It does what OpenAI's code does, straight quotation marks and no control characters included, and after these two
    steps it equals the `tokenizers` library set up as CLIP's tokenizer, except that
    - Unicode is not normalized (core TensorFlow cannot): an accent that is a character of its own, a ligature or a
      full-width letter stays one. Broken encodings and HTML entities such as `&amp;` stay as well;
    - a sigma at the end of a word becomes a final sigma, as in OpenAI's code and not in the library;
    - some letters added to Unicode in recent years are no letters yet, or keep their case, in TensorFlow's tables;
    - captions cannot spell special tokens: `<|endoftext|>` in a caption is plain text.

    With OpenAI's merges all ids are equal to the library's on the 35,000 captions of Flickr8k's training and dev splits
    and on 2,000 made of them with digits, capitals, accents and contractions.

    Inputs: captions as `str`, list, array or string tensor of shape (...). Output: int32 ids (..., L):
    `<|startoftext|>`, tokens, `<|endoftext|>`, padded with 0 on the right. As 0 is also the id of the token `!`, the
    mask is `padding_mask(ids)` and not `ids != 0`. Over-long captions are cut and keep their end token; an empty
    caption is start and end alone. Under JAX and PyTorch an eager call returns a tensor of that backend.

    Args:
        merges: `"openai"` (default) for the 48,894 of OpenAI's CLIP, which come with the package and make 49,408 ids;
            or a list of `str` by falling priority, such as `"i n"` or `"in g</w>"`, each of two symbols that are bytes
            or come from earlier merges; or `None`, to be loaded from `merges.txt`. Ids are 256 bytes, 256 bytes at
            the end of a word, one per merge, start, end.
        sequence_length: Length L of the ids, start and end included; default 77.
        cleaning: Style of `clean_caption` that comes first: `"none"` (default, as OpenAI), `"cusa"`, `"ascl"` or
            `"words"`.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: Unknown `cleaning`, `sequence_length` below 3, a faulty merge, or use before there are merges.

    Example:

    ```python
    from keras_itr.preprocessing import CLIPTokenizer

    tokenizer = CLIPTokenizer(sequence_length=8)
    tokenizer("Two dogs!")  # [49406, 1237, 3255, 256, 49407, 0, 0, 0]
    CLIPTokenizer(["d o", "do g</w>"], sequence_length=5)("dog")  # [514, 513, 515, 0, 0]
    ```

    Reference: Radford et al., CLIP, ICML 2021, and its official tokenizer.
    """

    special_token_attributes = ("start_token", "end_token")
    special_token_names = ("<|startoftext|>", "<|endoftext|>")
    pad_token_id = 0
    assets_file = MERGES_FILE

    def __init__(self, merges=OPENAI, sequence_length=77, cleaning="none", **kwargs):
        check_style(cleaning)
        super().__init__(sequence_length=sequence_length, **kwargs)
        self.cleaning = cleaning
        self.merges = None
        if merges is not None:
            self.set_merges(merges)

    def set_merges(self, merges):
        """Takes merges, and the vocabulary that follows from them; see the class."""
        if isinstance(merges, str) and merges != OPENAI:
            raise ValueError(
                f'`merges` must be "{OPENAI}" or a list of merges; got {merges!r}. Read a file with '
                "`load_assets(directory)`."
            )
        merges = openai_merges() if merges == OPENAI else tuple(merges)
        symbols, self._pair_keys = parse_merges(merges)
        self.merges, self._compiled = merges, None
        super().set_vocabulary([*symbols, *self.special_token_names])

    def set_vocabulary(self, vocabulary):
        raise ValueError("The vocabulary of a CLIPTokenizer follows from its merges; use `set_merges(merges)`.")

    def _check_vocabulary(self, vocabulary):
        """Nothing to check: `parse_merges` has made it."""

    def _require_vocabulary(self):
        if self.vocabulary is None:
            raise ValueError(
                'CLIPTokenizer has no merges yet. Pass `merges="openai"` or a list, or read them with '
                "`load_assets(directory)`."
            )

    def token_ids(self, texts):
        import tensorflow as tf

        if not tf.executing_eagerly():
            return self._token_ids(texts)
        if self._compiled is None:
            # Operation by operation, the rounds of merges take twenty times as long. In an object that tracking does
            # not enter, or an export would hold one more function.
            signature = [tf.TensorSpec([None], tf.string)]
            self._compiled = types.SimpleNamespace(run=tf.function(self._token_ids, input_signature=signature))
        return self._compiled.run(texts)

    def _token_ids(self, texts):
        import tensorflow as tf

        texts = clean_caption(texts, self.cleaning)
        for pattern, replacement in _CLEANING:
            texts = tf.strings.regex_replace(texts, pattern, replacement)
        words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(texts, "utf-8"), _WORD, r"\0 "))
        # A word is a token or more: further ones would be cut anyway.
        words = words[:, : self.sequence_length - 2]
        # Captions share most of their words: each is taken apart once.
        distinct, index = tf.unique(words.values)
        symbols = byte_pairs(distinct, self._lookup_table())
        return words.with_values(tf.gather(symbols, index)).merge_dims(1, 2)

    def _lookup_table(self):
        import tensorflow as tf

        # Made once and outside any graph under construction, so that every graph refers to the same table.
        if self._table is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._table = pair_table(self._pair_keys)
        return self._table

    def padding_mask(self, token_ids):
        """Bool of the shape of packed ids: True up to the end token, False for the padding behind it."""
        import tensorflow as tf

        with tf.device("CPU:0"):
            ids = token_ids if tf.is_tensor(token_ids) else tf.constant(keras.ops.convert_to_numpy(token_ids))
            # Captions cannot spell the end token: there is one in a row.
            ended = tf.cumsum(tf.cast(ids == self.end_token_id, tf.int32), axis=-1, exclusive=True)
            return to_backend(ended == 0)

    def begins_word(self, token_ids):
        import tensorflow as tf

        ends = np.array([token.endswith(WORD_END) or token in self.special_token_names for token in self.vocabulary])
        # A caption that was cut may end within a word: the end token is none of its pieces.
        first = tf.ones_like(token_ids[..., :1], tf.bool)
        return tf.concat([first, tf.gather(ends, token_ids[..., :-1])], axis=-1) | (token_ids == self.end_token_id)

    @property
    def mask_token_id(self):
        """Id that stands for a hidden word: the word `_`, as CLIP has neither a mask nor an unknown token (our
        choice)."""
        return self.token_to_id(f"_{WORD_END}")

    def detokenize(self, inputs):
        """Ids (L,) -> `str`, (..., L) -> nested list of `str`, up to the end token and in lower case; the spaces are
        those between words, whatever the caption had."""
        rows = keras.ops.convert_to_numpy(inputs)
        if rows.ndim == 1:
            rows = rows[(rows == self.end_token_id).cumsum() == 0]
        return super().detokenize(rows)

    def _join(self, tokens):
        codes = {character: byte for byte, character in byte_alphabet()}
        words = "".join(tokens).split(WORD_END)
        return " ".join(
            bytes(codes[character] for character in word).decode("utf-8", "replace") for word in words
        ).strip()

    def packaged(self):
        return OPENAI if self.merges == openai_merges() else None

    def load_vocabulary(self, path):
        """Reads merges from a file: UTF-8, one merge a line, by falling priority."""
        with open(path, encoding="utf-8", newline="\n") as file:
            self.set_merges([line.removesuffix("\n") for line in file])

    def _asset_lines(self):
        return self.merges

    def get_config(self):
        config = super().get_config()
        del config["vocabulary"]
        # Merges live in the asset file; OpenAI's come with the package.
        return {**config, "merges": self.packaged(), "cleaning": self.cleaning}
