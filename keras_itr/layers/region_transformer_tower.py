import keras
import numpy as np
from keras import ops

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower
from keras_itr.layers.transformer_stack import TransformerStack
from keras_itr.numerics import without_padding


@keras.saving.register_keras_serializable(package="keras_itr")
class RegionTransformerTower(Tower):
    """Regions that know where they are and see each other: a box map, then Transformer layers.

    `[feature, x1, y1, x2, y2, area]` goes through two dense layers back to the
    width of the features, then through the stack, and by one dense layer to the
    output width.

    Args:
        feature_dim: int, width of one region and of the stack.
        embedding_dim: int, output width, default 1024; None keeps `feature_dim`.
        num_layers: int, default 4.
        num_heads: int, default 4.
        intermediate_dim: int, default 2048.
        pooling: `"mean"` (default), `"gpo"`, `"max"` or `"first"`.
        dropout: float, within the stack, training only, default 0.1.
        feature_dropout: float, rate on the region features, training only, default 0.
        grid: pair of ints, or None (default): regions without boxes are the
            cells of a grid of so many rows and columns, row by row from the top
            left, and get the boxes of these.

    Inputs:
        regions: `(B, R, feature_dim)` float.
        region_boxes: `(B, R, 4)` float, x1, y1, x2, y2 in 0..1.
        region_mask: `(B, R)` bool, True = valid; optional. Position 0 is always
            valid.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, R, E)`, `"mask"` `(B, R)`.

    Raises:
        ValueError: without boxes, unless there is a grid of as many cells.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTransformerTower

    tower = RegionTransformerTower(feature_dim=32, embedding_dim=16, num_layers=1, intermediate_dim=64, grid=(2, 2))
    tower({"regions": np.ones((2, 4, 32), "float32")})["pooled"].shape  # (2, 16)
    ```

    Reference: the image encoder of Liu et al., TGDT, IEEE TIP 2023, in the form
    of the official code. The boxes of grid cells and the dropout of features are
    our choice.
    """

    side = "image"
    input_key = "regions"
    takes_global_row = True

    def __init__(
        self,
        feature_dim,
        embedding_dim=1024,
        num_layers=4,
        num_heads=4,
        intermediate_dim=2048,
        pooling="mean",
        dropout=0.1,
        feature_dropout=0.0,
        grid=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Layers.
        self.drop = keras.layers.Dropout(feature_dropout, dtype=self.dtype_policy, name="drop")
        self.box_hidden = self._dense(feature_dim, feature_dim + 5, "box_hidden", "relu")
        self.box_output = self._dense(feature_dim, feature_dim, "box_output")
        self.stack = TransformerStack(
            feature_dim, num_layers, num_heads, intermediate_dim, dropout, dtype=self.dtype_policy, name="stack"
        )
        self.projection = None if embedding_dim is None else self._dense(embedding_dim, feature_dim, "projection")
        self.pooling_layer = get_pooling(pooling)
        # Configuration.
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.output_dim = self.token_dim = embedding_dim or feature_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.pooling = pooling
        self.dropout = dropout
        self.feature_dropout = feature_dropout
        self.grid = None if grid is None else tuple(grid)
        self.built = True

    def call(self, inputs, training=False):
        regions = self.drop(inputs["regions"], training=training)
        mask = self.mask_of(inputs, "region_mask", regions)
        boxes = ops.cast(self.boxes_of(inputs), regions.dtype)
        area = (boxes[..., 2:3] - boxes[..., 0:1]) * (boxes[..., 3:4] - boxes[..., 1:2])
        placed = ops.concatenate([regions, boxes, area], axis=-1)
        tokens = self.box_output(self.box_hidden(without_padding(placed, mask)))
        tokens = self.stack(tokens, mask, training=training)
        if self.projection is not None:
            tokens = self.projection(tokens)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def boxes_of(self, inputs):
        """`(B, R, 4)`: the boxes of the inputs, or those of the grid's cells."""
        boxes = inputs.get("region_boxes")
        if boxes is not None:
            return boxes
        regions = inputs["regions"]
        if self.grid is None or self.grid[0] * self.grid[1] != regions.shape[1]:
            raise ValueError(
                f"'region_boxes' is missing: {regions.shape[1]} regions need boxes (B, R, 4), or a tower with grid="
                f"(rows, columns) of as many cells; its grid is {self.grid}."
            )
        boxes = ops.convert_to_tensor(grid_boxes(*self.grid)[None])
        return ops.broadcast_to(boxes, (ops.shape(regions)[0], *boxes.shape[1:]))

    def _dense(self, units, width, name, activation=None):
        dense = keras.layers.Dense(units, activation, dtype=self.dtype_policy, name=name)
        dense.build((None, None, width))
        return dense

    def get_config(self):
        return {
            **super().get_config(),
            "feature_dim": self.feature_dim,
            "embedding_dim": self.embedding_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "feature_dropout": self.feature_dropout,
            "grid": self.grid,
        }


def grid_boxes(rows, columns):
    """float32 `(rows * columns, 4)`: x1, y1, x2, y2 of the cells in 0..1, row by row from the top left."""
    y, x = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1).astype("float32")
