import keras
from keras import ops

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class ConvolutionalTower(Tower):
    """Pixels to one vector: a small residual ConvNet.

    Every stage halves the map with a strided 3x3 convolution and adds one
    residual 3x3 convolution, each with batch normalisation and ReLU. With
    `pooling="flatten"` a dense layer reads the whole last map, so that the
    vector can tell where things are; any other pooling treats the cells as a
    set.

    Args:
        image_size: pair of ints, height and width; multiples of `2**len(filters)`.
        filters: list of ints, channels of the stages, default `(32, 64, 128, 128)`.
        embedding_dim: int, output width, default 256; None: no last dense layer, the vector is the pooled map.
        pooling: `"flatten"` (default), `"gpo"`, `"mean"`, `"max"` or `"first"`.
        dropout: float, rate before the last dense layer, default 0.

    Inputs:
        images: `(B, H, W, 3)` float32, after the preset's image converter.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, C, filters[-1])`, `"mask"`
        `(B, C)` for the C cells of the last map, row by row from the top left.

    Raises:
        ValueError: if the image size cannot be halved often enough.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import ConvolutionalTower

    tower = ConvolutionalTower(image_size=(32, 32), filters=(8, 16), embedding_dim=24)
    tower({"images": np.zeros((2, 32, 32, 3), "float32")})["pooled"].shape  # (2, 24)
    ```

    Our choice.
    """

    side = "image"
    input_key = "images"

    def __init__(
        self,
        image_size=(64, 64),
        filters=(32, 64, 128, 128),
        embedding_dim=256,
        pooling="flatten",
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        height, width = image_size
        shrink = 2 ** len(filters)
        if height % shrink or width % shrink:
            raise ValueError(f"image_size {tuple(image_size)} must be a multiple of {shrink}: {len(filters)} halvings.")
        # Layers.
        self.stages = []
        channels = 3
        for index, count in enumerate(filters):
            down = self._convolution(count, 2, f"down_{index}")
            same = self._convolution(count, 1, f"same_{index}")
            down[0].build((None, height, width, channels))
            height, width, channels = height // 2, width // 2, count
            for layer in (down[1], *same):
                layer.build((None, height, width, channels))
            self.stages.append((*down, *same))
        cells = height * width
        self.pooling_layer = None if pooling == "flatten" else get_pooling(pooling)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        width = cells * channels if pooling == "flatten" else channels
        self.output_layer = None
        if embedding_dim is not None:
            self.output_layer = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="output")
            self.output_layer.build((None, width))
        # Configuration.
        self.image_size = tuple(image_size)
        self.filters = tuple(filters)
        self.embedding_dim = embedding_dim
        self.output_dim = embedding_dim or width
        self.token_dim = channels
        self.pooling = pooling
        self.dropout = dropout
        self.num_cells = cells
        self.built = True

    def call(self, inputs, training=False):
        x = inputs["images"]
        for down, down_norm, same, same_norm in self.stages:
            x = ops.relu(down_norm(down(x), training=training))
            x = x + ops.relu(same_norm(same(x), training=training))
        tokens = ops.reshape(x, (ops.shape(x)[0], self.num_cells, self.token_dim))
        mask = self.mask_of(inputs, None, tokens)
        if self.pooling_layer is None:
            pooled = ops.reshape(x, (ops.shape(x)[0], self.num_cells * self.token_dim))
        else:
            pooled = self.pooling_layer(tokens, mask)
        pooled = self.drop(pooled, training=training)
        if self.output_layer is not None:
            pooled = self.output_layer(pooled)
        return {"pooled": pooled, "tokens": tokens, "mask": mask}

    def _convolution(self, filters, strides, name):
        return (
            keras.layers.Conv2D(
                filters, 3, strides, "same", use_bias=False, dtype=self.dtype_policy, name=f"{name}_convolution"
            ),
            keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name=f"{name}_normalization"
            ),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "filters": self.filters,
            "embedding_dim": self.embedding_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
