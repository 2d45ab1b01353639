import math

import keras
import numpy as np
from keras import ops

from keras_itr.layers.both_directions import both_directions
from keras_itr.numerics import at_least_float32


@keras.saving.register_keras_serializable(package="keras_itr")
class GeneralizedPooling(keras.layers.Layer):
    """The generalized pooling operator (GPO): learned weights over sorted values.

    Every feature dimension is sorted in descending order over the valid
    elements and averaged with weights that depend on the number of valid
    elements alone: a bidirectional GRU reads the sine and cosine codes of
    positions `0 .. n-1`, a bias-free dense layer scores each, a softmax at a
    temperature normalises. Mean, max and k-max pooling are special cases.

    Masks may have holes: only how many elements are valid, and their values,
    matter. A row without a valid element gives zeros and zero gradient.

    `freeze(size)` fixes the weights for sets of up to `size` elements as a
    constant table: the same results, and no recurrent operation in an export.
    The table is saved and loaded with the weights. A frozen layer does not
    train; `freeze(None)` undoes it.

    Args:
        position_dim: int, width of the position codes, even, default 32.
        hidden_dim: int, units of the GRU per direction, default 32.
        temperature: float, of the softmax over positions, default 0.1.

    Call arguments:
        features: `(B, N, D)` float.
        mask: `(B, N)` bool, True = valid; all True if None.

    Returns:
        `(B, D)`, at least float32.

    Raises:
        ValueError: for an odd `position_dim`, a `temperature` of 0 or less, or for
            sets larger than a frozen layer was frozen for.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import GeneralizedPooling

    pooling = GeneralizedPooling()
    pooling(np.ones((2, 5, 8), "float32"), np.ones((2, 5), bool)).shape  # (2, 8)
    ```

    Reference: Chen et al., Learning the Best Pooling Strategy for Visual
    Semantic Embedding, CVPR 2021, in the form of the official code (positions
    from 0, averaged directions, linear score, temperature 0.1).
    """

    def __init__(self, position_dim=32, hidden_dim=32, temperature=0.1, **kwargs):
        super().__init__(**kwargs)
        if position_dim % 2:
            raise ValueError(f"position_dim must be even (sine and cosine pairs), received {position_dim}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, a divisor, received {temperature}.")
        self.position_dim = position_dim
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        # Sorting, softmax and the fill value need float32 under any policy.
        self.recurrence = both_directions(
            keras.layers.GRU(hidden_dim, return_sequences=True, reset_after=True, dtype="float32", **self._uniform()),
            dtype="float32",
            name="recurrence",
        )
        self.score = keras.layers.Dense(
            1, use_bias=False, kernel_initializer=self._initializer(), dtype="float32", name="score"
        )
        self.recurrence.build((None, None, position_dim))
        self.score.build((None, None, hidden_dim))
        self.frozen_table = None
        self.supports_masking = True
        self.built = True

    def call(self, features, mask=None):
        features = at_least_float32(features)
        if mask is None:
            mask = ops.ones(ops.shape(features)[:2], dtype="bool")
        valid = ops.cast(mask, "bool")
        counts = ops.sum(ops.cast(valid, "int32"), axis=1)
        size = ops.shape(features)[1]
        filled = ops.where(valid[:, :, None], features, -3.0e38)
        ordered = ops.flip(ops.sort(filled, axis=1), axis=1)
        # The filling stands behind the valid values; zeros there keep it out of the gradient.
        ordered = ops.where((ops.arange(size)[None, :] < counts[:, None])[:, :, None], ordered, 0.0)
        weights = ops.cast(self._rows(counts, size), features.dtype)
        return ops.sum(weights[:, :, None] * ordered, axis=1)

    def coefficients(self, counts):
        """Weights of the sorted values for rows of `counts` `(B,)` valid elements: `(B, max(counts))`."""
        counts = ops.cast(ops.convert_to_tensor(counts), "int32")
        return self._rows(counts, int(ops.convert_to_numpy(ops.max(counts))))

    def freeze(self, size):
        """Fix the weights for sets of up to `size` elements, outside of any compiled function; None undoes it.

        Do it before the first compiled call: a function of TensorFlow or JAX keeps the state it was compiled in. After
        it, `compile()` makes `fit` anew; what `embed_images` and its kin compiled stays until the model is loaded anew.

        Args:
            size: int, 1 or more, or None.

        Raises:
            ValueError: for a size below 1.
        """
        if size is not None and size < 1:
            raise ValueError(f"freeze() needs a size of 1 or more, or None to thaw, received {size}.")
        self.frozen_table = None if size is None else ops.convert_to_numpy(self._table(size))

    def save_own_variables(self, store):
        if self.frozen_table is not None:
            store["frozen_table"] = self.frozen_table

    def load_own_variables(self, store):
        # New weights without a table leave no old one behind.
        self.frozen_table = np.array(store["frozen_table"]) if "frozen_table" in store else None

    def _rows(self, counts, size):
        if self.frozen_table is None:
            return ops.take(self._table(size), counts, axis=0)
        largest = self.frozen_table.shape[1]
        if isinstance(size, int) and size > largest:
            raise ValueError(f"{self.name} was frozen for sets of up to {largest}, received {size}; freeze({size}).")
        return ops.take(ops.convert_to_tensor(self.frozen_table), counts, axis=0)[:, :size]

    def _table(self, size):
        """The weights for every count `0 .. size`, as rows `(size + 1, size)`."""
        valid = ops.arange(size)[None, :] < ops.arange(1, size + 1)[:, None]
        codes = ops.broadcast_to(self._position_codes(size)[None], (size, size, self.position_dim))
        scores = self.score(self.recurrence(codes, mask=valid))[:, :, 0] / self.temperature
        weights = ops.where(valid, ops.softmax(ops.where(valid, scores, -1e9), axis=-1), 0.0)
        return ops.concatenate([ops.zeros((1, size), weights.dtype), weights], axis=0)

    def _position_codes(self, size):
        position = ops.cast(ops.arange(size), "float32")[:, None]
        frequency = ops.exp(ops.arange(0, self.position_dim, 2, dtype="float32") * (-math.log(1e4) / self.position_dim))
        angle = position * frequency[None, :]
        return ops.reshape(ops.stack([ops.sin(angle), ops.cos(angle)], axis=-1), (size, self.position_dim))

    def _initializer(self):
        bound = 1 / math.sqrt(self.hidden_dim)
        return keras.initializers.RandomUniform(-bound, bound)

    def _uniform(self):
        names = ("kernel_initializer", "recurrent_initializer", "bias_initializer")
        return {name: self._initializer() for name in names}

    def compute_output_shape(self, features_shape, mask_shape=None):
        return (features_shape[0], features_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "position_dim": self.position_dim,
            "hidden_dim": self.hidden_dim,
            "temperature": self.temperature,
        }
