import keras


@keras.saving.register_keras_serializable(package="keras_itr")
class DualEncoderBackbone(keras.Model):
    """An image tower and a text tower that meet in one embedding space.

    Not a functional graph: a call runs the towers whose inputs are there,
    ignores other keys, and takes missing masks as all True. Everything is built
    in the constructor. (And no `keras_hub.models.Backbone`: Keras turns the
    bases of that class into functional ones as soon as any functional backbone
    is made in the process. Presets need no more than configuration and weights.)

    Args:
        image_tower: a `keras_itr.layers.Tower` of side `"image"`.
        text_tower: a `keras_itr.layers.Tower` of side `"text"`.
        embedding_dim: int, width of the joint space. A tower of another output
            width gets a bias-free projection; None (default) takes the width of
            the image tower.

    A projection has the dtype policy of its tower. `from_preset(..., dtype=...)`
    replaces the towers' policies.

    Inputs, any subset of:
        the image tower's (`"images"`, or `"regions"` with `"region_mask"`) and
        the text tower's (`"token_ids"` with `"padding_mask"`, or
        `"text_features"`).

    Returns:
        dict of `"image_global"` and `"text_global"` `(B, embedding_dim)`, not
        normalised, and, where a tower has local features, `"image_tokens"`,
        `"image_mask"`, `"text_tokens"`, `"text_mask"`.

    Raises:
        ValueError: if the towers are on the wrong sides.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import DualEncoderBackbone

    backbone = DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16))
    features = backbone({"regions": np.ones((2, 4, 32), "float32")})
    features["image_global"].shape  # (2, 16)
    ```
    """

    def __init__(self, image_tower, text_tower, embedding_dim=None, **kwargs):
        super().__init__(**kwargs)
        for tower, side in ((image_tower, "image"), (text_tower, "text")):
            if getattr(tower, "side", None) != side:
                raise ValueError(f"{side}_tower must be a Tower of side {side!r}, received {type(tower).__name__}.")
        # Layers.
        embedding_dim = embedding_dim or image_tower.output_dim
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_projection = self._projection(image_tower, embedding_dim, "image_projection")
        self.text_projection = self._projection(text_tower, embedding_dim, "text_projection")
        # Configuration.
        self.embedding_dim = embedding_dim
        self.built = True

    def call(self, inputs, training=False):
        features = {}
        for tower, encode in ((self.image_tower, self.encode_images), (self.text_tower, self.encode_texts)):
            if tower.input_key in inputs:
                encoded = encode(inputs, training=training)
                features.update({f"{tower.side}_{key}": value for key, value in encoded.items()})
        if not features:
            raise ValueError(
                f"the backbone needs {self.image_tower.input_key!r} or {self.text_tower.input_key!r}, "
                f"received {', '.join(map(repr, inputs)) or 'no input'}."
            )
        return features

    def encode_images(self, inputs, training=False):
        """Image inputs to a dict of `"global"` `(B, embedding_dim)` and, where there are any, `"tokens"`, `"mask"`."""
        return self._encode(self.image_tower, self.image_projection, inputs, training)

    def encode_texts(self, inputs, training=False):
        """Text inputs to a dict of `"global"` `(B, embedding_dim)` and, where there are any, `"tokens"`, `"mask"`."""
        return self._encode(self.text_tower, self.text_projection, inputs, training)

    def _encode(self, tower, projection, inputs, training):
        if tower.input_key not in inputs:
            raise ValueError(
                f"{type(tower).__name__} needs {tower.input_key!r}, received {', '.join(map(repr, inputs))}."
            )
        features = tower(inputs, training=training)
        pooled = features.pop("pooled")
        return {"global": pooled if projection is None else projection(pooled), **features}

    def _projection(self, tower, embedding_dim, name):
        if tower.output_dim == embedding_dim:
            return None
        projection = keras.layers.Dense(embedding_dim, use_bias=False, dtype=tower.dtype_policy, name=name)
        projection.build((None, tower.output_dim))
        return projection

    def get_config(self):
        # The towers' configurations hold the dtypes.
        config = super().get_config()
        config.pop("dtype")
        return {
            **config,
            "image_tower": keras.layers.serialize(self.image_tower),
            "text_tower": keras.layers.serialize(self.text_tower),
            "embedding_dim": self.embedding_dim,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        dtype = config.pop("dtype", None)
        for key in ("image_tower", "text_tower"):
            if isinstance(config[key], dict):
                tower = config[key] if dtype is None else _with_dtype(config[key], dtype)
                config[key] = keras.layers.deserialize(tower)
        return cls(**config)


def _with_dtype(serialized, dtype):
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))
    return {**serialized, "config": {**serialized["config"], "dtype": policy}}
