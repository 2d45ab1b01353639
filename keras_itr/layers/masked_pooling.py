import difflib

import keras
from keras import ops

from keras_itr.layers.generalized_pooling import GeneralizedPooling
from keras_itr.numerics import at_least_float32


@keras.saving.register_keras_serializable(package="keras_itr")
class MaskedPooling(keras.layers.Layer):
    """Mean, maximum or first element over the valid elements of a set.

    Args:
        mode: `"mean"`, `"max"` or `"first"`.

    Call arguments:
        features: `(B, N, D)` float.
        mask: `(B, N)` bool, True = valid; all True if None.

    Returns:
        `(B, D)`, at least float32; zeros for a row without a valid element
        (`"first"` reads position 0 whatever the mask says).

    Raises:
        ValueError: if `mode` is none of the three.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import MaskedPooling

    MaskedPooling("mean")(np.ones((2, 5, 8), "float32")).shape  # (2, 8)
    ```
    """

    def __init__(self, mode="mean", **kwargs):
        super().__init__(**kwargs)
        if mode not in ("mean", "max", "first"):
            raise ValueError(f"mode must be 'mean', 'max' or 'first', received {mode!r}.")
        self.mode = mode
        self.supports_masking = True
        self.built = True

    def call(self, features, mask=None):
        features = at_least_float32(features)
        if self.mode == "first":
            return features[:, 0]
        if mask is None:
            mask = ops.ones(ops.shape(features)[:2], dtype="bool")
        valid = ops.cast(mask, "bool")[:, :, None]
        if self.mode == "mean":
            total = ops.sum(ops.where(valid, features, 0.0), axis=1)
            return total / ops.maximum(ops.sum(ops.cast(valid, features.dtype), axis=1), 1.0)
        highest = ops.max(ops.where(valid, features, -3.0e38), axis=1)
        return ops.where(ops.any(valid, axis=1), highest, 0.0)

    def compute_output_shape(self, features_shape, mask_shape=None):
        return (features_shape[0], features_shape[-1])

    def get_config(self):
        return {**super().get_config(), "mode": self.mode}


def get_pooling(name):
    """The pooling layer called `"gpo"`, `"mean"`, `"max"` or `"first"`."""
    if name == "gpo":
        return GeneralizedPooling(name="pooling")
    if name in ("mean", "max", "first"):
        return MaskedPooling(name, name="pooling")
    near = difflib.get_close_matches(str(name), ["gpo", "mean", "max", "first"], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"pooling must be 'gpo', 'mean', 'max' or 'first', received {name!r}{hint}")
