import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_itr")
class FeatureQueue(keras.layers.Layer):
    """A ring of the last features of earlier batches: a supply of negatives.

    Row `r` of a batch goes to slot `(pointer + r) % size`, for any batch size:
    a batch may wrap around the end, and of more rows than slots the last `size`
    stay. A slot that was never written holds zeros and the id -1. Contents,
    ids and pointer are non-trainable variables: saved, restored, and right
    under `tf.function`, `jax.jit` and PyTorch. Features stay float32 under any
    dtype policy.

    In a training step the losses read first, and `enqueue` comes last. What
    `features()` and `ids()` return are copies, which a later `enqueue` does not
    change. The layer has no `call`.

    Args:
        size: int, number of slots.
        dim: int, width of a feature.

    Methods:
        enqueue(features, ids): `(B, dim)` float and `(B,)` int. An id is that of
            an image, 0 or more; a row of id -1 leaves its slot empty.
        features(): `(size, dim)` float32.
        ids(): `(size,)` int32, -1 = empty.
        valid_for(ids): `(B,)` int to `(B, size)` bool: the slot was written, and
            not by the same image. For an id of -1 every written slot is valid.
        reset(): empty again.

    Raises:
        ValueError: if a size is not positive, for features of another width, or
            for a number of ids other than rows.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import FeatureQueue

    queue = FeatureQueue(size=4, dim=2)
    queue.enqueue(np.ones((3, 2), "float32"), np.array([7, 8, 9]))
    queue.ids()  # [7, 8, 9, -1]
    queue.valid_for(np.array([8]))  # [[True, False, True, False]]
    ```

    Reference: He et al., Momentum Contrast, CVPR 2020, for the queue. Any batch
    size, masked empty slots and ids are our choice.
    """

    # Needed to go on training, not to use the model: a preset may leave it out and `reset()` after it was loaded.
    training_only = True

    def __init__(self, size, dim, **kwargs):
        super().__init__(**kwargs)
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs a positive size and dim, received {size} and {dim}.")
        self.size = size
        self.dim = dim
        self.slots = self._state((size, dim), "zeros", "float32", "slots")
        self.slot_ids = self._state((size,), keras.initializers.Constant(-1), "int32", "slot_ids")
        self.pointer = self._state((), "zeros", "int32", "pointer")
        self.built = True

    def enqueue(self, features, ids):
        features = ops.stop_gradient(ops.cast(features, "float32"))
        ids = ops.cast(ids, "int32")
        if features.shape[-1] != self.dim:
            raise ValueError(f"{self.name} holds features of width {self.dim}, received {tuple(features.shape)}.")
        counts = (features.shape[0], ids.shape[0])
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(f"{self.name} needs one id per row, received {counts[1]} ids for {counts[0]} rows.")
        count = ops.shape(features)[0]
        # Of a batch larger than the ring only the end would survive; slots then are distinct.
        features, ids = features[-self.size :], ids[-self.size :]
        kept = ops.shape(features)[0]
        pointer = _snapshot(self.pointer)
        slots = (pointer + count - kept + ops.arange(kept, dtype="int32")) % self.size
        self.slots.assign(ops.scatter_update(self.features(), slots[:, None], features))
        self.slot_ids.assign(ops.scatter_update(self.ids(), slots[:, None], ids))
        self.pointer.assign((pointer + count) % self.size)

    def features(self):
        return _snapshot(self.slots)

    def ids(self):
        return _snapshot(self.slot_ids)

    def valid_for(self, ids):
        written = self.ids()[None, :]
        return ops.logical_and(written != -1, written != ops.cast(ids, "int32")[:, None])

    def reset(self):
        self.slots.assign(ops.zeros_like(self.features()))
        self.slot_ids.assign(ops.full_like(self.ids(), -1))
        self.pointer.assign(0)

    def _state(self, shape, initializer, dtype, name):
        return self.add_weight(
            shape,
            initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            # Replicas of a TensorFlow strategy enqueue the same gathered batch.
            aggregation="only_first_replica",
            name=name,
        )

    def get_config(self):
        return {**super().get_config(), "size": self.size, "dim": self.dim}


def _snapshot(variable):
    """The present value: on TensorFlow and PyTorch a tensor without a copy would follow the variable."""
    return ops.copy(ops.convert_to_tensor(variable))
