import os

import keras_hub

from keras_itr.preprocessing.tensors import to_backend, to_strings

VOCABULARY_FILE = "vocabulary.txt"
MASK_TOKEN = "[MASK]"


class VocabularyTokenizer(keras_hub.tokenizers.Tokenizer):
    """What the tokenizers of the package share: the vocabulary, its file, and the packing of ids.

    A subclass names its four special tokens and says how captions become ids, in core TensorFlow operations; eager
    calls, `tf.data` and exported graphs run that one function. Under JAX and PyTorch an eager call returns a tensor of
    the backend. The vocabulary is kept in an asset file, one token a line, as in `keras_hub`; the configuration holds
    `None` in its place. One that comes with the package has no file, and its name in the configuration.

    Args:
        vocabulary: List of distinct tokens, the position being the id, with the padding token first and the other three
            special tokens anywhere; or `None`, to be loaded with `load_assets`.
        sequence_length: Length L of a packed caption, start and end token included; at least 3.

    Raises:
        ValueError: `sequence_length` is not an integer of at least 3, or the vocabulary breaks one of its rules.
    """

    # What the special tokens are for, and their names, in the same order.
    special_token_attributes = ("pad_token", "unknown_token", "start_token", "end_token")
    special_token_names = ()
    assets_file = VOCABULARY_FILE

    def __init__(self, vocabulary=None, sequence_length=32, **kwargs):
        for attribute, token in zip(self.special_token_attributes, self.special_token_names, strict=True):
            self._add_special_token(token, attribute)
        super().__init__(**kwargs)
        if not isinstance(sequence_length, int) or sequence_length < 3:
            raise ValueError(
                f"`sequence_length` must be an integer of at least 3 (start, one word, end); got {sequence_length!r}."
            )
        self.sequence_length = sequence_length
        self.file_assets = [self.assets_file]
        self.vocabulary = None
        self.built = True
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def packaged(self):
        """The name of the vocabulary if it comes with the package: a preset then holds the name in place of a file."""
        return None

    def token_ids(self, texts):
        """String (B,) -> ragged int32 (B, tokens) without start and end; TensorFlow operations only."""
        raise NotImplementedError

    def tokenize(self, inputs):
        """Captions of shape (...) -> int32 ids (..., L): start, tokens, end, right-padded with 0; the end token is
        kept when a caption is too long, and an empty caption is start and end alone."""
        import tensorflow as tf

        self._require_vocabulary()
        with tf.device("CPU:0"):
            texts = to_strings(inputs)
            ids = self._pack(self.token_ids(tf.reshape(texts, [-1])))
            ids = tf.reshape(ids, tf.concat([tf.shape(texts), [self.sequence_length]], axis=0))
            ids = tf.ensure_shape(ids, texts.shape.concatenate(self.sequence_length))
        return to_backend(ids)

    def call(self, inputs, training=None):
        return self.tokenize(inputs)

    def padding_mask(self, token_ids):
        """Bool of the shape of packed ids: True for start, tokens and end, False for the padding behind them."""
        return token_ids != self.pad_token_id

    def begins_word(self, token_ids):
        """Bool of the shape of packed ids: True where a word begins, False for further pieces of one; a special token
        is a word, and here every token. TensorFlow operations only."""
        import tensorflow as tf

        return tf.ones_like(token_ids, tf.bool)

    @property
    def mask_token_id(self):
        """Id that stands for a hidden word: `[MASK]` if the vocabulary has it, else the unknown token (our choice)."""
        self._require_vocabulary()
        return self._ids.get(MASK_TOKEN, self.unknown_token_id)

    def _pack(self, ids):
        import tensorflow as tf

        rows = ids.nrows(out_type=tf.int32)
        start, end = tf.fill([rows, 1], self.start_token_id), tf.fill([rows, 1], self.end_token_id)
        packed = tf.concat([start, ids[:, : self.sequence_length - 2], end], axis=1)
        return packed.to_tensor(0, shape=[None, self.sequence_length])

    def _lookup_table(self):
        """Token -> id, -1 for a token that is not there or is special: captions cannot spell a special token."""
        import tensorflow as tf

        # Made once and outside any graph under construction, so that every graph refers to the same table.
        if self._table is None:
            with tf.init_scope(), tf.device("CPU:0"):
                tokens = [token for token in self.vocabulary if token not in self.special_token_names]
                keys = tf.constant(tokens, tf.string, shape=[len(tokens)])
                ids = tf.constant([self._ids[token] for token in tokens], tf.int32, shape=[len(tokens)])
                self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, ids), -1)
        return self._table

    def detokenize(self, inputs):
        """Ids (L,) -> `str`, (..., L) -> nested list of `str`; special tokens are left out."""
        import keras

        rows = keras.ops.convert_to_numpy(inputs)
        if rows.ndim > 1:
            return [self.detokenize(row) for row in rows]
        tokens = [self.id_to_token(index) for index in rows]
        return self._join([token for token in tokens if token not in self.special_token_names])

    def _join(self, tokens):
        return " ".join(tokens)

    def get_vocabulary(self):
        """The list of tokens; the position is the id."""
        self._require_vocabulary()
        return list(self.vocabulary)

    def set_vocabulary(self, vocabulary):
        """Takes a list of tokens as the vocabulary, after checking it; see the class for its rules."""
        if isinstance(vocabulary, (str, bytes)):
            raise ValueError(
                f"`vocabulary` must be a list of tokens; got {vocabulary!r}. Read a file with "
                "`load_vocabulary(path)` or `load_assets(directory)`."
            )
        vocabulary = tuple(vocabulary)
        self._check_vocabulary(vocabulary)
        self.vocabulary = vocabulary
        self.file_assets = [] if self.packaged() else [self.assets_file]
        self._ids = {token: index for index, token in enumerate(vocabulary)}
        self._table = None
        self._update_special_token_ids()

    def _check_vocabulary(self, vocabulary):
        for token in vocabulary:
            if not isinstance(token, str) or not token or "\n" in token:
                raise ValueError(f"A token must be a non-empty str without a line break; got {token!r}.")
        if len(set(vocabulary)) < len(vocabulary):
            token = next(token for token in vocabulary if vocabulary.count(token) > 1)
            raise ValueError(f"Tokens must be distinct; {token!r} is in the vocabulary more than once. Remove it.")
        missing = [token for token in self.special_token_names if token not in vocabulary]
        if missing or vocabulary[0] != self.pad_token:
            raise ValueError(
                f"The vocabulary must hold {list(self.special_token_names)}, {self.pad_token!r} first because 0 is "
                f"padding; missing {missing}, first {vocabulary[:1]}. Add them, or use `from_captions`."
            )

    def _require_vocabulary(self):
        if self.vocabulary is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} has no vocabulary yet. Pass `vocabulary=`, build it with `{name}.from_captions(captions)`, or "
                "read it with `load_assets(directory)`."
            )

    def vocabulary_size(self):
        """Number of ids, special tokens included."""
        return len(self.get_vocabulary())

    def token_to_id(self, token):
        """Id of a token; ValueError if it is not in the vocabulary."""
        self._require_vocabulary()
        if token not in self._ids:
            raise ValueError(f"Token {token!r} is not in the vocabulary; `get_vocabulary()` lists it.")
        return self._ids[token]

    def id_to_token(self, id):
        """Token of an id; ValueError if it is outside the vocabulary."""
        if not 0 <= id < self.vocabulary_size():
            raise ValueError(f"`id` must be in 0..{self.vocabulary_size() - 1}; got {id}.")
        return self.vocabulary[id]

    def save_assets(self, dir_path):
        """Writes `vocabulary.txt` into a directory: UTF-8, one token a line; nothing if it comes with the package."""
        self._require_vocabulary()
        for name in self.file_assets:
            with open(os.path.join(dir_path, name), "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in self._asset_lines())

    def load_assets(self, dir_path):
        """Reads what `save_assets` wrote."""
        path = os.path.join(dir_path or "", self.assets_file)
        if self.file_assets or os.path.isfile(path):
            self.load_vocabulary(path)

    def load_preset_assets(self, preset):
        """Reads the file of a preset that `save_to_preset` wrote, if the vocabulary does not come with the package."""
        if self.file_assets:
            super().load_preset_assets(preset)

    def _asset_lines(self):
        return self.get_vocabulary()

    def load_vocabulary(self, path):
        """Reads a vocabulary from a file: UTF-8, one token a line, such as a BERT `vocab.txt`."""
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                self.set_vocabulary(line.removesuffix("\n") for line in file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def get_config(self):
        # The vocabulary lives in the asset file, or comes with the package under its name.
        config = super().get_config()
        return {**config, "vocabulary": self.packaged(), "sequence_length": self.sequence_length}
