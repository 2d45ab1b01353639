import keras

from keras_itr.layers.both_directions import both_directions
from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class RecurrentTextTower(Tower):
    """Words to one vector: embedding, bidirectional GRU, pooling.

    The two directions are averaged. Padding is masked, so that the vector of a
    caption does not depend on the length of its batch.

    Args:
        vocabulary_size: int, number of token ids.
        embedding_dim: int, units of the GRU and output width, default 1024.
        word_dim: int, width of the word embedding, default 300.
        pooling: `"gpo"` (default), `"mean"`, `"max"` or `"first"`.
        dropout: float, rate on the word embeddings, training only, default 0.

    Inputs:
        token_ids: `(B, L)` int32, right-padded.
        padding_mask: `(B, L)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, L, E)`, `"mask"` `(B, L)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RecurrentTextTower

    tower = RecurrentTextTower(vocabulary_size=100, embedding_dim=16)
    tower({"token_ids": np.ones((2, 7), "int32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, BiGRU text encoder of the
    official code. The dropout is our choice.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(self, vocabulary_size, embedding_dim=1024, word_dim=300, pooling="gpo", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        # Layers.
        self.words = keras.layers.Embedding(
            vocabulary_size,
            word_dim,
            embeddings_initializer=keras.initializers.RandomUniform(-0.1, 0.1),
            dtype=self.dtype_policy,
            name="words",
        )
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.recurrence = both_directions(
            keras.layers.GRU(embedding_dim, return_sequences=True, reset_after=True, dtype=self.dtype_policy),
            dtype=self.dtype_policy,
            name="recurrence",
        )
        self.pooling_layer = get_pooling(pooling)
        self.words.build((None, None))
        self.recurrence.build((None, None, word_dim))
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = self.output_dim = self.token_dim = embedding_dim
        self.word_dim = word_dim
        self.pooling = pooling
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        mask = self.mask_of(inputs, "padding_mask", inputs["token_ids"])
        words = self.drop(self.words(inputs["token_ids"]), training=training)
        tokens = self.recurrence(words, mask=mask, training=training)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "embedding_dim": self.embedding_dim,
            "word_dim": self.word_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
