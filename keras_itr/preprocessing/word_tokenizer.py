from collections import Counter

import keras

from keras_itr.preprocessing.cleaning import check_style, clean_caption
from keras_itr.preprocessing.vocabulary_tokenizer import VocabularyTokenizer

_CAPTIONS_AT_ONCE = 10_000


@keras.saving.register_keras_serializable(package="keras_itr")
class WordTokenizer(VocabularyTokenizer):
    """Whole words to ids: captions are cleaned, split at white space and looked up in a vocabulary.

    Core TensorFlow operations only: the same function runs eagerly, in `tf.data` and in an exported SavedModel. Ids 0
    to 3 are `[PAD]`, `[UNK]`, `[START]` and `[END]`; a caption cannot spell them. Languages written without spaces give
    one word per sentence: use `WordPieceTokenizer` for them.

    Inputs: captions as `str`, list, array or string tensor of shape (...). Output: int32 ids (..., L): start, words,
    end, padded with 0 on the right; the padding mask is `ids != 0`. Over-long captions are cut and keep their end
    token; an empty caption is `[START] [END]`. Under JAX and PyTorch an eager call returns a tensor of that backend.

    Args:
        vocabulary: List of distinct words, the position being the id, with the four special tokens among them and
            `[PAD]` first; or `None`, to be loaded from `vocabulary.txt`. See `from_captions`.
        sequence_length: Length L of the ids, start and end included; default 32.
        cleaning: Style of `clean_caption`: `"words"` (default), `"cusa"`, `"ascl"` or `"none"`.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: Unknown `cleaning`, `sequence_length` below 3, a faulty vocabulary, or use before there is one.

    Example:

    ```python
    from keras_itr.preprocessing import WordTokenizer

    tokenizer = WordTokenizer.from_captions(["A man's hat.", "A red hat"], sequence_length=6)
    tokenizer(["A blue hat", ""])  # [[2, 4, 1, 5, 3, 0], [2, 3, 0, 0, 0, 0]]
    tokenizer.detokenize(tokenizer("A red hat"))  # "a red hat"
    ```

    Source: our choice; word vocabularies with start and end as in VSE++ (Faghri et al., BMVC 2018).
    """

    special_token_names = ("[PAD]", "[UNK]", "[START]", "[END]")

    def __init__(self, vocabulary=None, sequence_length=32, cleaning="words", **kwargs):
        check_style(cleaning)
        super().__init__(vocabulary=vocabulary, sequence_length=sequence_length, **kwargs)
        self.cleaning = cleaning

    @classmethod
    def from_captions(cls, captions, min_count=1, max_size=None, sequence_length=32, cleaning="words", **kwargs):
        """Builds the vocabulary from training captions, cleaned as they will be in use.

        Args:
            captions: Sequence of `str`.
            min_count: Words seen less often are unknown; default 1, every word is kept.
            max_size: Largest number of ids, special tokens included; `None` for no limit.
            sequence_length, cleaning, **kwargs: As in the constructor.

        Returns:
            A tokenizer whose words are ordered by falling count, then alphabetically by code point.

        Raises:
            ValueError: `max_size` leaves no room for the special tokens.
        """
        specials = cls.special_token_names
        if max_size is not None and max_size < len(specials):
            raise ValueError(
                f"`max_size` must be at least {len(specials)}, the special tokens, or None; got {max_size}."
            )
        counts = Counter()
        for start in range(0, len(captions), _CAPTIONS_AT_ONCE):
            counts.update(_words(list(captions[start : start + _CAPTIONS_AT_ONCE]), cleaning))
        kept = [word for word, count in counts.items() if count >= min_count and word not in specials]
        ordered = sorted(kept, key=lambda word: (-counts[word], word))
        vocabulary = [*specials, *ordered][:max_size]
        return cls(vocabulary, sequence_length=sequence_length, cleaning=cleaning, **kwargs)

    def token_ids(self, texts):
        import tensorflow as tf

        words = tf.strings.split(clean_caption(texts, self.cleaning))
        ids = self._lookup_table().lookup(words.values)
        return words.with_values(tf.where(ids < 0, self.unknown_token_id, ids))

    def get_config(self):
        return {**super().get_config(), "cleaning": self.cleaning}


def _words(captions, cleaning):
    import tensorflow as tf

    words = tf.strings.split(clean_caption(tf.constant(captions, tf.string), cleaning))
    return (word.decode("utf-8", "replace") for word in words.values.numpy())
