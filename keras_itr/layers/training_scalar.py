import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_itr")
class TrainingScalar(keras.layers.Layer):
    """One number that only training needs: a switch, or a count of steps.

    A non-trainable scalar, so that it is read inside the graph, restored on a
    resume and right under `jax.jit`; a preset leaves it out.

    Args:
        dtype: of the number, default `"float32"`.

    Returns:
        `layer()`: the present value as a tensor, a copy.

    Methods:
        assign(value): set it.
        reset(): 0 again.

    Example:

    ```python
    from keras_itr.layers import TrainingScalar

    steps = TrainingScalar("int32")
    steps.assign(steps() + 1)
    ```

    Our choice.
    """

    training_only = True

    def __init__(self, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.value = self.add_weight((), "zeros", dtype=dtype, trainable=False, autocast=False, name="value")
        self.built = True

    def call(self, training=False):
        # A Keras layer needs one argument; there is nothing to do differently in training.
        return ops.copy(ops.convert_to_tensor(self.value))

    def assign(self, value):
        self.value.assign(value)

    def reset(self):
        self.value.assign(0)
