import keras
import numpy as np
from keras import ops

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class MPNetTextTower(Tower):
    """MPNet to one vector: a Transformer with relative positions in its attention, pooling over all valid tokens.

    `keras_itr.conversion.convert` fills it with published weights, such as those of the sentence encoder
    all-mpnet-base-v2; without them it starts at random. There is no linear map behind it.

    Args:
        vocabulary_size: int, number of token ids.
        sequence_length: int, the longest input, default 128.
        hidden_dim: int, width of the Transformer and of the output, default 768.
        num_layers: int, default 12.
        num_heads: int, default 12.
        intermediate_dim: int, width of the feed-forward part, default 3072.
        num_buckets: int, kinds of distances between two tokens, default 32, shared by all layers.
        epsilon: float, of the normalisations, default 1e-5.
        pooling: `"mean"` (default), `"gpo"`, `"max"` or `"first"`.
        dropout: float, training only, default 0.1.

    Inputs:
        token_ids: `(B, L)` int32, right-padded, `L <= sequence_length`.
        padding_mask: `(B, L)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, hidden_dim)`, `"tokens"` `(B, L, hidden_dim)`, `"mask"` `(B, L)`.

    Raises:
        ValueError: if `num_heads` does not divide `hidden_dim`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import MPNetTextTower

    tower = MPNetTextTower(100, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32)
    tower({"token_ids": np.ones((2, 7), "int32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Song et al., MPNet: Masked and Permuted Pre-training for Language Understanding, NeurIPS 2020; buckets of
    distances after Raffel et al., T5, JMLR 2020.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(
        self,
        vocabulary_size,
        sequence_length=128,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        intermediate_dim=3072,
        num_buckets=32,
        epsilon=1e-5,
        pooling="mean",
        dropout=0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide hidden_dim {hidden_dim}.")
        # Layers.
        self.words = self._embedding(vocabulary_size, hidden_dim, "words")
        self.positions = self._embedding(sequence_length, hidden_dim, "positions")
        self.distances = self._embedding(num_buckets, num_heads, "distances")
        self.normalization = _built(
            keras.layers.LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="normalization"), hidden_dim
        )
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        sizes = (hidden_dim, num_heads, intermediate_dim, epsilon, dropout)
        self.blocks = [_Block(*sizes, dtype=self.dtype_policy, name=f"block_{i}") for i in range(num_layers)]
        self.pooling_layer = get_pooling(pooling)
        self.buckets = distance_buckets(sequence_length, num_buckets)
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.hidden_dim = self.output_dim = self.token_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_buckets = num_buckets
        self.epsilon = epsilon
        self.pooling = pooling
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        token_ids = inputs["token_ids"]
        mask = self.mask_of(inputs, "padding_mask", token_ids)
        length = ops.shape(token_ids)[1]
        tokens = self.words(token_ids) + self.positions(ops.arange(length, dtype="int32"))[None]
        tokens = self.drop(self.normalization(tokens), training=training)
        # (1, heads, L, L) of distances; no token looks at padding.
        bias = self.distances(ops.convert_to_tensor(self.buckets)[:length, :length])
        bias = ops.cast(ops.transpose(bias, (2, 0, 1))[None], "float32")
        bias = ops.where(mask[:, None, None, :], bias, -1e9)
        for block in self.blocks:
            tokens = block(tokens, bias, training=training)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def _embedding(self, count, width, name):
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        embedding = keras.layers.Embedding(count, width, start, dtype=self.dtype_policy, name=name)
        embedding.build((None, None))
        return embedding

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "num_buckets": self.num_buckets,
            "epsilon": self.epsilon,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }


class _Block(keras.layers.Layer):
    """A post-norm Transformer block whose attention scores take a bias `(B, heads, L, L)`."""

    def __init__(self, hidden_dim, num_heads, intermediate_dim, epsilon, dropout, **kwargs):
        # The bias stays float32.
        super().__init__(autocast=False, **kwargs)
        widths = {"query": hidden_dim, "key": hidden_dim, "value": hidden_dim, "attention_output": hidden_dim}
        for name, units in {**widths, "intermediate": intermediate_dim}.items():
            activation = keras.activations.gelu if name == "intermediate" else None
            setattr(self, name, self._dense(units, hidden_dim, name, activation))
        self.output_layer = self._dense(hidden_dim, intermediate_dim, "output")
        for name in ("attention_normalization", "output_normalization"):
            layer = keras.layers.LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name=name)
            setattr(self, name, _built(layer, hidden_dim))
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.num_heads = num_heads
        self.built = True

    def call(self, tokens, bias, training=False):
        attended = self.drop(self.attention_output(self._attend(tokens, bias, training)), training=training)
        tokens = self.attention_normalization(tokens + attended)
        hidden = self.drop(self.output_layer(self.intermediate(tokens)), training=training)
        return self.output_normalization(tokens + hidden)

    def _attend(self, tokens, bias, training):
        query, key, value = (self._heads(layer(tokens)) for layer in (self.query, self.key, self.value))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / key.shape[-1] ** 0.5
        weights = ops.softmax(ops.cast(scores, "float32") + bias, axis=-1)
        mixed = ops.matmul(self.drop(ops.cast(weights, value.dtype), training=training), value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(tokens))

    def _heads(self, x):
        """`(B, L, D)` to `(B, heads, L, D / heads)`."""
        shape = ops.shape(x)
        return ops.transpose(
            ops.reshape(x, (shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads)), (0, 2, 1, 3)
        )

    def _dense(self, units, width, name, activation=None):
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        dense = keras.layers.Dense(
            units, activation=activation, kernel_initializer=start, dtype=self.dtype_policy, name=name
        )
        return _built(dense, width)


def _built(layer, width):
    layer.build((None, None, width))
    return layer


def distance_buckets(length, num_buckets=32, largest=128):
    """`(length, length)` int32: the kind of the distance from a row's token to a column's.

    Half of the kinds are for tokens behind, half for tokens before; of each half one half counts exactly and the other
    by the logarithm, up to `largest`.
    """
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = num_buckets // 2, num_buckets // 4
    distance = np.abs(ahead)
    # In float32, as the reference: a logarithm on the edge of a kind is rounded in the same way.
    scale = np.log(np.maximum(distance, 1).astype("float32") / exact) / np.log(largest / exact).astype("float32")
    far = np.minimum(exact + (scale * (half - exact)).astype("int32"), half - 1)
    return (np.where(distance < exact, distance, far) + np.where(ahead > 0, half, 0)).astype("int32")
