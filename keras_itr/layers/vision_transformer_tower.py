import keras
import keras_hub
from keras import ops

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class VisionTransformerTower(Tower):
    """Pixels to one vector: patches, pre-norm Transformer, pooling.

    Args:
        image_size: pair of ints, height and width, multiples of `patch_size`.
        patch_size: int, default 8.
        embedding_dim: int, width of the Transformer and of the output, default 192.
        num_layers: int, default 4.
        num_heads: int, default 3.
        intermediate_dim: int; None (default) is `4 * embedding_dim`.
        pooling: `"mean"` (default), `"gpo"`, `"max"` or `"first"`.
        dropout: float, default 0.

    Inputs:
        images: `(B, H, W, 3)` float32, after the preset's image converter.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, P, E)`, `"mask"` `(B, P)`
        with `P = H * W / patch_size**2`, row by row from the top left.

    Raises:
        ValueError: if the image size is no multiple of the patch size.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import VisionTransformerTower

    tower = VisionTransformerTower(image_size=(32, 32), embedding_dim=24)
    tower({"images": np.zeros((2, 32, 32, 3), "float32")})["pooled"].shape  # (2, 24)
    ```

    Reference: Dosovitskiy et al., ViT, ICLR 2021; sizes are our choice.
    """

    side = "image"
    input_key = "images"

    def __init__(
        self,
        image_size=(64, 64),
        patch_size=8,
        embedding_dim=192,
        num_layers=4,
        num_heads=3,
        intermediate_dim=None,
        pooling="mean",
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise ValueError(f"image_size {tuple(image_size)} must be a multiple of patch_size {patch_size}.")
        # Layers.
        num_patches = (height // patch_size) * (width // patch_size)
        self.patches = keras.layers.Conv2D(
            embedding_dim, patch_size, strides=patch_size, dtype=self.dtype_policy, name="patches"
        )
        self.positions = keras_hub.layers.PositionEmbedding(num_patches, dtype=self.dtype_policy, name="positions")
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
            epsilon=1e-6, dtype=self.dtype_policy, name="normalization"
        )
        self.pooling_layer = get_pooling(pooling)
        self.patches.build((None, height, width, 3))
        for layer in (self.positions, *self.blocks, self.normalization):
            layer.build((None, num_patches, embedding_dim))
        # Configuration.
        self.image_size = tuple(image_size)
        self.patch_size = patch_size
        self.embedding_dim = self.output_dim = self.token_dim = embedding_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.pooling = pooling
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        grid = self.patches(inputs["images"])
        tokens = ops.reshape(grid, (ops.shape(grid)[0], -1, self.embedding_dim))
        tokens = tokens + self.positions(tokens)
        for block in self.blocks:
            tokens = block(tokens, training=training)
        tokens = self.normalization(tokens)
        mask = self.mask_of(inputs, None, tokens)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "embedding_dim": self.embedding_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
