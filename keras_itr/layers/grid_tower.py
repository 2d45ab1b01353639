import keras

from keras_itr.layers.grid_features import GridFeatures
from keras_itr.layers.image_networks import pixel_scaling
from keras_itr.layers.region_tower import RegionTower
from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class GridTower(Tower):
    """Pixels to one vector: the cells of a pretrained network, then a region tower over them.

    Args:
        grid_features: a `GridFeatures`.
        region_tower: a `RegionTower` over its rows.

    Inputs:
        images: `(B, H, W, 3)` float32, after the preset's image converter.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, cells, E)`, `"mask"` `(B, cells)`.

    Raises:
        ValueError: if the region tower reads rows of another width.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import GridTower

    tower = GridTower.from_network("MobileNetV2", (64, 64), arguments={"alpha": 0.35}, embedding_dim=16)
    tower({"images": np.zeros((2, 64, 64, 3), "float32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, grid features of a network and pooling over them. The residual MLP
    of the region tower over cells is our choice.
    """

    side = "image"
    input_key = "images"

    def __init__(self, grid_features, region_tower, **kwargs):
        super().__init__(**kwargs)
        if region_tower.feature_dim != grid_features.output_dim:
            raise ValueError(
                f"the region tower reads rows of width {region_tower.feature_dim}, "
                f"the grid features have {grid_features.output_dim}."
            )
        # Layers.
        self.grid_features = grid_features
        self.region_tower = region_tower
        # Configuration.
        self.image_size = grid_features.image_size
        self.output_dim, self.token_dim = region_tower.output_dim, region_tower.token_dim
        self.built = True

    @classmethod
    def from_network(
        cls,
        network,
        image_size,
        arguments=None,
        weights=None,
        grid=None,
        pca=None,
        unfreeze=None,
        embedding_dim=1024,
        hidden_dim=None,
        pooling="gpo",
        dropout=0.0,
    ):
        """A tower out of the arguments of `GridFeatures` and those of `RegionTower`."""
        features = GridFeatures(network, image_size, arguments, weights, grid, pca, unfreeze)
        return cls(features, RegionTower(features.output_dim, embedding_dim, hidden_dim, pooling, dropout))

    @staticmethod
    def converter_defaults(arguments):
        """The image converter's arguments that follow from the network's name, for a recipe that gives none."""
        scaling = pixel_scaling(arguments["network"])
        return {} if scaling is None else {"scale": scaling[0], "offset": scaling[1]}

    def call(self, inputs, training=False):
        regions = self.grid_features(inputs["images"])
        return self.region_tower({"regions": regions}, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "grid_features": keras.layers.serialize(self.grid_features),
            "region_tower": keras.layers.serialize(self.region_tower),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("grid_features", "region_tower"):
            if isinstance(config[key], dict):
                config[key] = keras.layers.deserialize(config[key])
        return cls(**config)
