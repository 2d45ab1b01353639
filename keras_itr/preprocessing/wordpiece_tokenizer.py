import keras
import numpy as np

from keras_itr.preprocessing.bert_vocabulary import BERT_UNCASED, bert_uncased_vocabulary, is_bert_uncased
from keras_itr.preprocessing.bert_words import character_table, split_words
from keras_itr.preprocessing.vocabulary_tokenizer import VocabularyTokenizer

_CONTINUATION = "##"
_MAX_WORD_CHARACTERS = 100
_CAPTIONS_AT_ONCE = 10_000


@keras.saving.register_keras_serializable(package="keras_itr")
class WordPieceTokenizer(VocabularyTokenizer):
    """BERT's tokenizer: basic tokenization, then greedy longest-match word pieces.

    Core TensorFlow operations only: the same function runs eagerly, in `tf.data` and in an exported SavedModel, and no
    operation of tensorflow-text is needed. Basic tokenization drops control characters, lower-cases, strips accents and
    makes each punctuation mark and each Chinese character a word; a word of more than 100 characters, or with a part
    that no piece covers, is `[UNK]`.

    It equals the `tokenizers` library's BertWordPieceTokenizer except that
    - Hangul syllables, and some Indic and musical signs, are not decomposed (no Unicode normalization in core
      TensorFlow: accents are stripped by a table in which one character stays one character);
    - characters added to Unicode in recent years follow the tables of the running Python, U+2B820 to U+2B91F are
      Chinese characters as in BERT's own code, U+1734 is no accent and U+166D no punctuation mark;
    - captions cannot spell special tokens: `[SEP]` in a caption is three words.

    With BERT's uncased vocabulary all ids are equal to the library's on the 35,000 captions of Flickr8k's training and
    dev splits and on 2,000 made of them with digits, capitals, accents and contractions.

    Inputs: captions as `str`, list, array or string tensor of shape (...). Output: int32 ids (..., L): `[CLS]`, pieces,
    `[SEP]`, padded with 0 on the right; the padding mask is `ids != 0`. Over-long captions are cut and keep their
    `[SEP]`; an empty caption is `[CLS] [SEP]`. Under JAX and PyTorch an eager call returns a tensor of that backend.

    Args:
        vocabulary: List of distinct pieces, the position being the id, with `[PAD]` first and `[UNK]`, `[CLS]`, `[SEP]`
            anywhere, such as the lines of a BERT `vocab.txt`; or `"bert_uncased"` for the 30,522 of BERT base, uncased,
            in English, which come with the package; or `None`, to be loaded from `vocabulary.txt`.
        sequence_length: Length L of the ids, `[CLS]` and `[SEP]` included; default 64.
        lowercase: Whether to lower-case; default True, False for a cased vocabulary.
        strip_accents: Whether to strip accents; `None` (default) does what `lowercase` says.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: `sequence_length` below 3, a faulty vocabulary, or use before there is one.

    Example:

    ```python
    from keras_itr.preprocessing import WordPieceTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "two", "dog", "##s", "cafe", "!"]
    tokenizer = WordPieceTokenizer(vocabulary, sequence_length=8)
    tokenizer("Two dogs, café!")  # [2, 4, 5, 6, 1, 7, 8, 3]
    ```

    Reference: Devlin et al., BERT, NAACL 2019, and its official tokenizer.
    """

    special_token_names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    def __init__(self, vocabulary=None, sequence_length=64, lowercase=True, strip_accents=None, **kwargs):
        super().__init__(vocabulary=vocabulary, sequence_length=sequence_length, **kwargs)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self._characters = None

    @classmethod
    def from_captions(cls, captions, max_size=8192, min_count=2, sequence_length=64, **kwargs):
        """Trains a vocabulary on captions with the `tokenizers` library, which keras-hub installs.

        Args:
            captions: Sequence of `str`.
            max_size: Largest number of ids, special tokens included; default 8192. Single characters are always
                kept, so a smaller `max_size` than there are characters is exceeded.
            min_count: Pairs of pieces seen less often are not joined; default 2.
            sequence_length, **kwargs: As in the constructor.

        Returns:
            A tokenizer; equal captions give an equal vocabulary.
        """
        tokenizer = cls(cls.special_token_names, sequence_length=sequence_length, **kwargs)
        captions = [" ".join(words) for words in tokenizer._split(captions)]
        tokenizer.set_vocabulary(_train_pieces(captions, cls.special_token_names, max_size, min_count))
        return tokenizer

    def _split(self, captions):
        """Captions -> lists of words, for training."""
        import tensorflow as tf

        for start in range(0, len(captions), _CAPTIONS_AT_ONCE):
            texts = tf.constant(list(captions[start : start + _CAPTIONS_AT_ONCE]), tf.string)
            for words in split_words(texts, self._character_table()).to_list():
                words = [word.decode() for word in words]
                yield [word for word in words if len(word) <= _MAX_WORD_CHARACTERS]

    def _character_table(self):
        import tensorflow as tf

        if self._characters is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._characters = character_table(self.lowercase, self.strip_accents)
        return self._characters

    def token_ids(self, texts):
        import tensorflow as tf

        words = split_words(texts, self._character_table())
        # Captions share most of their words: each is taken apart once.
        distinct, index = tf.unique(words.values)
        pieces = self._pieces(distinct)
        return words.with_values(tf.gather(pieces, index)).merge_dims(1, 2)

    def begins_word(self, token_ids):
        import tensorflow as tf

        begins = np.array([not token.startswith(_CONTINUATION) for token in self.get_vocabulary()])
        return tf.gather(begins, token_ids)

    def _pieces(self, words):
        """String (W,) -> ragged int32 (W, pieces): again and again the longest piece at the front of the rest."""
        import tensorflow as tf

        lengths = tf.strings.length(words, "UTF8_CHAR")
        begins = tf.where(lengths > _MAX_WORD_CHARACTERS, lengths, 0)
        columns = tf.fill([tf.size(words), 1], -1)

        def find_next(begins, columns):
            rows = tf.where(begins < lengths)[:, 0]
            begin, length = tf.gather(begins, rows), tf.gather(lengths, rows)
            ids, ends = self._longest_piece(tf.gather(words, rows), begin, length)
            column = tf.tensor_scatter_nd_update(tf.fill([tf.size(words)], -1), rows[:, None], ids)
            begins = tf.tensor_scatter_nd_update(begins, rows[:, None], ends)
            return begins, tf.concat([columns, column[:, None]], axis=1)

        _, columns = tf.while_loop(
            lambda begins, columns: tf.reduce_any(begins < lengths),
            find_next,
            (begins, columns),
            shape_invariants=(begins.shape, tf.TensorShape([None, None])),
        )
        unknown = tf.reduce_any(columns == self.unknown_token_id, axis=1) | (lengths > _MAX_WORD_CHARACTERS)
        columns = tf.where(unknown[:, None], -1, columns)
        columns = tf.concat([tf.where(unknown, self.unknown_token_id, -1)[:, None], columns], axis=1)
        return tf.ragged.boolean_mask(columns, columns >= 0)

    def _longest_piece(self, words, begins, lengths):
        """Ids and ends of the longest pieces that start at `begins`; `[UNK]` and the word's end where there is none."""
        import tensorflow as tf

        rest = lengths - begins
        widths = tf.range(tf.minimum(self._max_piece, tf.reduce_max(rest)), 0, -1)
        positions, spans = tf.meshgrid(begins, widths, indexing="ij")
        parts = tf.strings.substr(words[:, None], positions, spans, unit="UTF8_CHAR")
        # (W, widths), the longest first.
        ids = self._lookup_table().lookup(tf.where(positions > 0, _CONTINUATION, "") + parts)
        longest = tf.argmax(ids >= 0, axis=1, output_type=tf.int32)
        found = tf.gather(ids, longest, batch_dims=1)
        ends = begins + tf.minimum(tf.gather(widths, longest), rest)
        return tf.where(found < 0, self.unknown_token_id, found), tf.where(found < 0, lengths, ends)

    def set_vocabulary(self, vocabulary):
        super().set_vocabulary(bert_uncased_vocabulary() if vocabulary == BERT_UNCASED else vocabulary)
        self._max_piece = max(len(token.removeprefix(_CONTINUATION)) for token in self.vocabulary)

    def packaged(self):
        return BERT_UNCASED if is_bert_uncased(self.vocabulary) else None

    def _join(self, tokens):
        return " ".join(tokens).replace(f" {_CONTINUATION}", "")

    def get_config(self):
        return {**super().get_config(), "lowercase": self.lowercase, "strip_accents": self.strip_accents}


def _train_pieces(captions, special_tokens, max_size, min_count):
    """Captions of words joined by spaces -> list of pieces."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    # Named beforehand, or their ids, and with them the choice between equal pairs, would differ from run to run.
    words = {word for caption in captions for word in caption.split(" ")}
    continuations = sorted({_CONTINUATION + character for word in words for character in word[1:]})
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=max_size,
        min_frequency=min_count,
        special_tokens=[*special_tokens, *continuations],
        continuing_subword_prefix=_CONTINUATION,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.get)
