import keras
import keras_hub

from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class SigLIPTextTower(Tower):
    """SigLIP's text Transformer: tokens to the projected last position.

    Every position sees every other, padding too, as the published weights were trained: a caption is always
    `sequence_length` ids, filled up with the padding id of its tokenizer (1 for published weights), and the padding
    mask concerns only who reads the tokens. `keras_itr.conversion.convert` fills it with published weights.

    Args:
        vocabulary_size: int, number of token ids, 32000 for published weights.
        sequence_length: int, length of all inputs, default 64.
        hidden_dim: int, width of the Transformer, default 768.
        num_layers: int, default 12.
        num_heads: int, default 12.
        intermediate_dim: int, width of the feed-forward part, default 3072.
        embedding_dim: int, width of the output, default 768.

    Inputs:
        token_ids: `(B, sequence_length)` int32.
        padding_mask: `(B, sequence_length)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, embedding_dim)`; `"tokens"` `(B, L, hidden_dim)` after the last normalisation, not
        projected; `"mask"` `(B, L)`.

    Raises:
        ValueError: for ids of another length.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import SigLIPTextTower

    tower = SigLIPTextTower(100, 8, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32, embedding_dim=16)
    tower({"token_ids": np.ones((2, 8), "int32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023; layers of keras-hub.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(
        self,
        vocabulary_size,
        sequence_length=64,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        intermediate_dim=3072,
        embedding_dim=768,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Layers.
        self.siglip = keras_hub.models.SigLIPTextEncoder(
            vocabulary_size,
            hidden_dim,
            hidden_dim,
            num_layers,
            num_heads,
            intermediate_dim,
            max_sequence_length=sequence_length,
            projection_dim=embedding_dim,
            dtype=self.dtype_policy,
            name="text_encoder",
        )
        # The same layers, with all positions as a second output.
        outputs = {"pooled": self.siglip.output, "tokens": self.siglip.post_layer_norm.output}
        self.encoder = keras.Model(self.siglip.input, outputs, name="encoder")
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.hidden_dim = self.token_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.embedding_dim = self.output_dim = embedding_dim
        self.built = True

    def call(self, inputs, training=False):
        token_ids = inputs["token_ids"]
        if token_ids.shape[1] not in (None, self.sequence_length):
            raise ValueError(
                f"SigLIP reads {self.sequence_length} ids a caption, padding included, received {token_ids.shape[1]}."
            )
        features = self.encoder({"token_ids": token_ids}, training=training)
        return {**features, "mask": self.mask_of(inputs, "padding_mask", token_ids)}

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
        }
