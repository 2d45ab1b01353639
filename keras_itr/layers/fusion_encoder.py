import math

import keras
import keras_hub
from keras import ops

from keras_itr.numerics import without_padding


@keras.saving.register_keras_serializable(package="keras_itr")
class FusionEncoder(keras.layers.Layer):
    """Words read the words and the regions: a Transformer with cross-attention.

    Each layer is self-attention over the text, cross-attention (queries from
    the text, keys and values from the image) and a feed-forward part with GELU,
    with the layer normalisation after each residual sum. Inputs of another
    width than `hidden_dim` are projected to it first.

    Padding changes nothing at valid positions, whatever it holds, NaN included;
    outputs at padded positions mean nothing. An image without a valid region is
    read as one of zeros.

    Args:
        num_layers: int.
        num_heads: int, divides `hidden_dim`.
        hidden_dim: int, width of the layers and of the output.
        intermediate_dim: int, width of the feed-forward part.
        dropout: float, after and inside of each part, training only.

    The widths of the inputs come with `build(text_shape, image_shape)`; call it
    in the constructor of whatever holds the layer.

    Call arguments:
        text: `(B, L, Dx)` float.
        image: `(B, R, Dy)` float.
        text_mask: `(B, L)` bool, True = valid; all True if None.
        image_mask: `(B, R)` bool, likewise.

    Returns:
        `(B, L, hidden_dim)` float.

    Raises:
        ValueError: if `num_heads` does not divide `hidden_dim`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import FusionEncoder

    fusion = FusionEncoder(num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32, dropout=0.1)
    fusion(np.ones((2, 5, 16), "float32"), np.ones((2, 4, 16), "float32")).shape  # (2, 5, 16)
    ```

    Reference: the multimodal encoder of Li et al., Align before Fuse, NeurIPS
    2021: post-norm layers of BERT with cross-attention; normalisation epsilon
    and first kernels as in BERT, scaled to the width. The projections are our
    choice.
    """

    def __init__(self, num_layers, num_heads, hidden_dim, intermediate_dim, dropout, **kwargs):
        super().__init__(**kwargs)
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads must divide hidden_dim, received {num_heads} and {hidden_dim}.")
        # Layers.
        # BERT's 0.02 belongs to its width of 768; in a narrower stack it would drown the image in the residual text.
        kernel = keras.initializers.TruncatedNormal(stddev=0.02 * math.sqrt(768 / hidden_dim))
        self.blocks = [
            keras_hub.layers.TransformerDecoder(
                intermediate_dim,
                num_heads,
                dropout=dropout,
                activation="gelu",
                layer_norm_epsilon=1e-12,
                kernel_initializer=kernel.clone(),
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        for block in self.blocks:
            block.build((None, None, hidden_dim), (None, None, hidden_dim))
        self.text_projection = None
        self.image_projection = None
        # Configuration.
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.supports_masking = True

    def build(self, text_shape, image_shape):
        self.text_projection = self._projection(text_shape[-1], "text_projection")
        self.image_projection = self._projection(image_shape[-1], "image_projection")

    def call(self, text, image, text_mask=None, image_mask=None, training=False):
        text, text_mask = _without_padding(text, text_mask)
        image, image_mask = _without_padding(image, image_mask)
        if self.text_projection is not None:
            text = self.text_projection(text)
        if self.image_projection is not None:
            image = self.image_projection(image)
        for block in self.blocks:
            text = block(
                text,
                image,
                decoder_padding_mask=text_mask,
                encoder_padding_mask=image_mask,
                use_causal_mask=False,
                training=training,
            )
        return text

    def _projection(self, width, name):
        if width == self.hidden_dim:
            return None
        projection = keras.layers.Dense(self.hidden_dim, dtype=self.dtype_policy, name=name)
        projection.build((None, None, width))
        return projection

    def compute_output_shape(self, text_shape, image_shape):
        return (*text_shape[:-1], self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
        }


def _without_padding(tokens, mask):
    """Zeros in place of padding, and a mask with no row all False: a softmax over nothing is NaN on some backends."""
    if mask is None:
        return tokens, None
    mask = ops.cast(mask, "bool")
    tokens = without_padding(tokens, mask)
    return tokens, ops.logical_or(mask, ops.logical_not(ops.any(mask, axis=1, keepdims=True)))
