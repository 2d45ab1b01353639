import math

import keras

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower
from keras_itr.numerics import without_padding


@keras.saving.register_keras_serializable(package="keras_itr")
class RegionTower(Tower):
    """Region or grid features to one vector: linear map, residual MLP, pooling.

    `tokens = Dense(E)(x) + Dense(E)(relu(BatchNorm(Dense(H)(x))))`, then the
    pooling over valid regions. Batch statistics are those of valid regions.

    Args:
        feature_dim: int, width of one region.
        embedding_dim: int, output width, default 1024.
        hidden_dim: int, width of the MLP; None (default) is `embedding_dim // 2`.
        pooling: `"gpo"` (default), `"mean"`, `"max"` or `"first"`.
        dropout: float, rate on the region features, training only, default 0.

    Inputs:
        regions: `(B, R, feature_dim)` float.
        region_mask: `(B, R)` bool, True = valid; optional. What stands behind a
            False does not matter, NaN included.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, R, E)`, `"mask"` `(B, R)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTower

    tower = RegionTower(feature_dim=32, embedding_dim=16)
    tower({"regions": np.ones((2, 4, 32), "float32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, region encoder of the
    official code. The dropout is our choice.
    """

    side = "image"
    input_key = "regions"

    def __init__(self, feature_dim, embedding_dim=1024, hidden_dim=None, pooling="gpo", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        # Layers.
        bound = math.sqrt(6 / (feature_dim + embedding_dim))
        self.shortcut = self._dense(embedding_dim, bound, "zeros", "shortcut")
        hidden = hidden_dim or embedding_dim // 2
        self.hidden = self._dense(hidden, 1 / math.sqrt(feature_dim), None, "hidden")
        self.normalization = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name="normalization"
        )
        self.output_layer = self._dense(embedding_dim, 1 / math.sqrt(hidden), None, "output")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.pooling_layer = get_pooling(pooling)
        self.shortcut.build((None, None, feature_dim))
        self.hidden.build((None, None, feature_dim))
        self.normalization.build((None, None, hidden))
        self.output_layer.build((None, None, hidden))
        # Configuration.
        self.feature_dim = feature_dim
        self.embedding_dim = self.output_dim = self.token_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.pooling = pooling
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        mask = self.mask_of(inputs, "region_mask", inputs["regions"])
        regions = self.drop(without_padding(inputs["regions"], mask), training=training)
        hidden = self.normalization(self.hidden(regions), mask=mask, training=training)
        tokens = self.shortcut(regions) + self.output_layer(keras.ops.relu(hidden))
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def _dense(self, units, bound, bias, name):
        uniform = keras.initializers.RandomUniform(-bound, bound)
        bias = bias or keras.initializers.RandomUniform(-bound, bound)
        return keras.layers.Dense(
            units, kernel_initializer=uniform, bias_initializer=bias, dtype=self.dtype_policy, name=name
        )

    def get_config(self):
        return {
            **super().get_config(),
            "feature_dim": self.feature_dim,
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
        }
