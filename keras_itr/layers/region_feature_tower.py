import keras

from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower
from keras_itr.numerics import without_padding


@keras.saving.register_keras_serializable(package="keras_itr")
class RegionFeatureTower(Tower):
    """Region or grid features as they are, for methods that bring their own projection. No weights; padding is zero.

    Args:
        feature_dim: int, width of one region and of the output.
        pooling: `"mean"` (default), `"max"` or `"first"`.

    Inputs:
        regions: `(B, R, feature_dim)` float.
        region_mask: `(B, R)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, feature_dim)`, `"tokens"` `(B, R, feature_dim)`, `"mask"` `(B, R)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionFeatureTower

    RegionFeatureTower(32)({"regions": np.ones((2, 4, 32), "float32")})["pooled"].shape  # (2, 32)
    ```

    Our choice.
    """

    side = "image"
    input_key = "regions"

    def __init__(self, feature_dim, pooling="mean", **kwargs):
        super().__init__(**kwargs)
        # Layers.
        self.pooling_layer = get_pooling(pooling)
        # Configuration.
        self.feature_dim = self.output_dim = self.token_dim = feature_dim
        self.pooling = pooling
        self.built = True

    def call(self, inputs, training=False):
        mask = self.mask_of(inputs, "region_mask", inputs["regions"])
        regions = without_padding(inputs["regions"], mask)
        return {"pooled": self.pooling_layer(regions, mask), "tokens": regions, "mask": mask}

    def get_config(self):
        return {**super().get_config(), "feature_dim": self.feature_dim, "pooling": self.pooling}
