import keras
import keras_hub

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class TransformerTextTower(Tower):
    """Tokens to one vector: token and position embeddings, pre-norm Transformer, pooling.

    Args:
        vocabulary_size: int, number of token ids.
        sequence_length: int, the longest input, default 32.
        embedding_dim: int, width of the Transformer and of the output, default 256.
        num_layers: int, default 2.
        num_heads: int, default 4.
        intermediate_dim: int, width of the feed-forward part; None (default) is
            `4 * embedding_dim`.
        pooling: `"mean"` (default), `"gpo"`, `"max"` or `"first"`.
        dropout: float, default 0.

    Inputs:
        token_ids: `(B, L)` int32, right-padded, `L <= sequence_length`.
        padding_mask: `(B, L)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, L, E)`, `"mask"` `(B, L)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import TransformerTextTower

    tower = TransformerTextTower(vocabulary_size=100, embedding_dim=16)
    tower({"token_ids": np.ones((2, 7), "int32")})["pooled"].shape  # (2, 16)
    ```

    Our choice, of keras-hub's Transformer blocks.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(
        self,
        vocabulary_size,
        sequence_length=32,
        embedding_dim=256,
        num_layers=2,
        num_heads=4,
        intermediate_dim=None,
        pooling="mean",
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Layers.
        self.words = keras_hub.layers.TokenAndPositionEmbedding(
            vocabulary_size, sequence_length, embedding_dim, dtype=self.dtype_policy, name="words"
        )
        self.blocks = [
            keras_hub.layers.TransformerEncoder(
                intermediate_dim or 4 * embedding_dim,
                num_heads,
                dropout=dropout,
                activation="gelu",
                normalize_first=True,
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        self.normalization = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="normalization"
        )
        self.pooling_layer = get_pooling(pooling)
        self.words.build((None, sequence_length))
        for layer in (*self.blocks, self.normalization):
            layer.build((None, sequence_length, embedding_dim))
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.embedding_dim = self.output_dim = self.token_dim = embedding_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.pooling = pooling
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        mask = self.mask_of(inputs, "padding_mask", inputs["token_ids"])
        tokens = self.words(inputs["token_ids"])
        for block in self.blocks:
            tokens = block(tokens, padding_mask=mask, training=training)
        tokens = self.normalization(tokens)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "embedding_dim": self.embedding_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
