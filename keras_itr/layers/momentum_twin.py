import types

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_itr")
class MomentumTwin(keras.layers.Layer):
    """A slowly moving copy of an encoder, the source of keys in contrastive learning.

    Starts equal to the encoder and follows it with `update()`:
    `twin <- momentum * twin + (1 - momentum) * encoder` for every trainable
    weight; the others (statistics of batch normalisation, frozen weights) are
    copied straight, and the states of random seeds stay the twin's own. Called
    like the encoder, with the same inputs and outputs, it passes no gradient.
    Nothing makes its weights trainable, not even `model.trainable = True`, so
    batch normalisation in it always reads its statistics.

    The encoder is borrowed: its weights are not counted, saved or trained
    through the twin. In a training step `update()` comes first, before the keys
    are computed, and outside of any layer's `call` (in `objectives`, that is).
    Weights in pure half precision (not `mixed_*`) are too coarse for an average.

    Args:
        encoder: a built layer, such as a `Tower` with its pooling, whose
            configuration makes another one like it.
        momentum: float from 0 to 1, default 0.999; 1 never moves.

    Call arguments:
        *args, **kwargs: those of the encoder.
        training: bool, default False. True drops out where the encoder does.

    Returns:
        What the encoder returns, under `stop_gradient`.

    Methods:
        update(): one step of the average.
        reset(): equal to the encoder again; after weights were loaded into the
            encoder alone.

    Raises:
        ValueError: if the encoder is not built, or its configuration makes a layer
            with other weights, or for a momentum out of range.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import MomentumTwin, RegionTower

    tower = RegionTower(feature_dim=32, embedding_dim=16)
    twin = MomentumTwin(tower, momentum=0.995)
    twin({"regions": np.ones((2, 4, 32), "float32")})["pooled"].shape  # (2, 16)
    twin.update()
    ```

    Made from its configuration, a twin has an encoder of its own to follow.

    Reference: He et al., Momentum Contrast, CVPR 2020, for the average. Straight
    copies of statistics are our choice.
    """

    # Needed to go on training, not to use the model: a preset may leave it out and `reset()` after it was loaded.
    training_only = True

    def __init__(self, encoder, momentum=0.999, **kwargs):
        # The encoder casts its inputs itself.
        super().__init__(autocast=False, **kwargs)
        if not encoder.built:
            raise ValueError(f"a momentum twin needs a built encoder; build {encoder.name} or call it once before.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1, received {momentum}.")
        self.momentum = momentum
        # In an object that weight tracking does not enter: the encoder belongs to somebody else.
        self.followed = types.SimpleNamespace(encoder=encoder)
        self.twin = _another(encoder)
        self.twin.trainable = False
        self.built = True
        self.reset()

    def call(self, *args, training=False, **kwargs):
        outputs = self.twin(*args, training=training, **kwargs)
        return keras.tree.map_structure(ops.stop_gradient, outputs)

    def update(self):
        for own, followed in self._pairs():
            value = _value(followed)
            if followed.trainable:
                value = self.momentum * ops.convert_to_tensor(own) + (1 - self.momentum) * value
            own.assign(value)

    def reset(self):
        for own, followed in self._pairs():
            own.assign(_value(followed))

    @property
    def trainable(self):
        return False

    @trainable.setter
    def trainable(self, value):
        """Ignored: a model that becomes trainable takes its twins along otherwise."""

    def _pairs(self):
        # `weights` leaves the states of random seeds out.
        return zip(self.twin.weights, self.followed.encoder.weights, strict=True)

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.followed.encoder)
        return {**super().get_config(), "encoder": encoder, "momentum": self.momentum}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})


def _value(variable):
    """A copy: JAX would give both variables one buffer, and training donates each buffer once."""
    return ops.copy(ops.stop_gradient(ops.convert_to_tensor(variable)))


def _another(encoder):
    """A layer of the same configuration and build, with weights of its own."""
    other = type(encoder).from_config(encoder.get_config())
    if not other.built:
        other.build_from_config(encoder.get_build_config())
    shapes = [[tuple(weight.shape) for weight in layer.weights] for layer in (other, encoder)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{encoder.name} has {len(shapes[1])} weights, but another one of its configuration {len(shapes[0])} or "
            "of other shapes; build all of its parts in its constructor or in build()."
        )
    return other
