import keras
import keras_hub
from keras import ops


@keras.saving.register_keras_serializable(package="keras_itr")
class TransformerStack(keras.layers.Layer):
    """Transformer layers over a set of tokens, with the normalisation after each residual sum.

    Finite padding changes nothing at valid positions; outputs at padded positions
    mean nothing. Position 0 is always valid: it is the token of the whole item.

    Args:
        width: int, of the tokens.
        num_layers: int, 0 for none: the tokens come back as they are.
        num_heads: int, divides `width`.
        intermediate_dim: int, width of the feed-forward part, with ReLU.
        dropout: float, on attention and after each part, training only, default 0.1.

    Call arguments:
        tokens: `(B, N, width)` float.
        padding_mask: `(B, N)` bool, True = valid; all True if None.

    Returns:
        `(B, N, width)` float.

    Raises:
        ValueError: if `num_heads` does not divide `width`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import TransformerStack

    TransformerStack(16, num_layers=2, num_heads=4, intermediate_dim=32)(np.ones((2, 5, 16), "float32")).shape
    # (2, 5, 16)
    ```

    Reference: Vaswani et al., NeurIPS 2017, as in the encoders of Liu et al.,
    TGDT, IEEE TIP 2023: ReLU and a normalisation epsilon of 1e-5. Built of
    keras-hub's encoder layers.
    """

    def __init__(self, width, num_layers, num_heads, intermediate_dim, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        if width % num_heads:
            raise ValueError(f"num_heads must divide the width of the tokens, received {num_heads} and {width}.")
        # Layers.
        self.blocks = [
            keras_hub.layers.TransformerEncoder(
                intermediate_dim, num_heads, dropout=dropout, dtype=self.dtype_policy, name=f"block_{index}"
            )
            for index in range(num_layers)
        ]
        for block in self.blocks:
            block.build((None, None, width))
        # Configuration.
        self.width = width
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.supports_masking = True
        self.built = True

    def call(self, tokens, padding_mask=None, training=False):
        if padding_mask is not None:
            valid = ops.cast(padding_mask, "bool")
            # A softmax over nothing would be NaN on some backends.
            padding_mask = ops.concatenate([ops.ones_like(valid[:, :1]), valid[:, 1:]], axis=1)
        for block in self.blocks:
            tokens = block(tokens, padding_mask=padding_mask, training=training)
        return tokens

    def compute_output_shape(self, tokens_shape, padding_mask_shape=None):
        return tokens_shape

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
        }
