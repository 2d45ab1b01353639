import keras
import keras_hub
from keras import ops

from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class CLIPTextTower(Tower):
    """CLIP's causal text Transformer: tokens to the projected end token.

    The defaults are those of ViT-B/32. `keras_itr.models.load_initial_weights`
    fills it with OpenAI's weights; without them it starts at random.

    Args:
        vocabulary_size: int, number of token ids, 49408 for OpenAI's weights.
        sequence_length: int, the longest input, default 77.
        hidden_dim: int, width of the Transformer, default 512.
        num_layers: int, default 12.
        num_heads: int, default 8.
        intermediate_dim: int, width of the feed-forward part, default 2048.
        embedding_dim: int, width of the output, default 512.
        activation: of the feed-forward part, default `"quick_gelu"` as in
            OpenAI's weights; `"gelu"` for weights trained with that.

    Inputs:
        token_ids: `(B, L)` int32, right-padded, `L <= sequence_length`.
        padding_mask: `(B, L)` bool, True = valid; if absent, True up to the
            first of the largest ids in a row, which is where OpenAI's code
            looks for the end token.

    Returns:
        dict of `"pooled"` `(B, E)`: the last valid token, which is the end
        token, after the last normalisation, then a bias-free projection;
        `"tokens"` `(B, L, hidden_dim)`: all tokens after the same
        normalisation, start and end included, not projected; `"mask"` `(B, L)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import CLIPTextTower

    tower = CLIPTextTower(100, 16, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32, embedding_dim=8)
    tower({"token_ids": np.ones((2, 7), "int32")})["pooled"].shape  # (2, 8)
    ```

    Reference: Radford et al., Learning Transferable Visual Models From Natural
    Language Supervision, ICML 2021; layers of keras-hub, with the epsilon of
    1e-5 that OpenAI has in the last normalisation in place of its 1e-6.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(
        self,
        vocabulary_size,
        sequence_length=77,
        hidden_dim=512,
        num_layers=12,
        num_heads=8,
        intermediate_dim=2048,
        embedding_dim=512,
        activation="quick_gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Layers.
        self.encoder = keras_hub.models.CLIPTextEncoder(
            vocabulary_size,
            hidden_dim,
            hidden_dim,
            num_layers,
            num_heads,
            intermediate_dim,
            intermediate_activation=activation,
            max_sequence_length=sequence_length,
            dtype=self.dtype_policy,
            name="text_encoder",
        )
        self.encoder.layer_norm.epsilon = 1e-5
        self.projection = keras.layers.Dense(embedding_dim, use_bias=False, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, hidden_dim))
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.hidden_dim = self.token_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.embedding_dim = self.output_dim = embedding_dim
        self.activation = activation
        self.built = True

    def call(self, inputs, training=False):
        token_ids = inputs["token_ids"]
        positions = ops.expand_dims(ops.arange(ops.shape(token_ids)[1], dtype="int32"), 0)
        mask = self._mask(inputs, positions)
        # Causal attention: no valid token sees the padding behind it.
        tokens = self.encoder({"token_ids": token_ids}, training=training)
        end = ops.max(ops.where(mask, positions, 0), axis=1)
        end_token = ops.take_along_axis(tokens, end[:, None, None], axis=1)[:, 0]
        return {"pooled": self.projection(end_token), "tokens": tokens, "mask": mask}

    def _mask(self, inputs, positions):
        if inputs.get("padding_mask") is not None:
            return ops.cast(inputs["padding_mask"], "bool")
        end = ops.cast(ops.argmax(inputs["token_ids"], axis=1), "int32")
        return positions <= end[:, None]

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "embedding_dim": self.embedding_dim,
            "activation": self.activation,
        }
