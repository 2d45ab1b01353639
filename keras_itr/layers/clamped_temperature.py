import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_itr")
class ClampedTemperature(keras.layers.Layer):
    """A scalar temperature that stays inside a range and keeps its gradient there.

    The initial value is pulled into the range, the optimizer clips the value
    after every update, and reading it clips once more without touching the
    gradient: a temperature that sits on its bound moves back as soon as its
    gradient says so. (`ops.clip` has different gradients at the bound on the
    three backends.) Always float32, whatever the dtype policy.

    Args:
        initial: float, first value; a divisor of similarities.
        minimum: float, greater than 0.
        maximum: float, not below `minimum`.
        trainable: bool, default True.

    Call arguments:
        logits: optional tensor; returned divided by the temperature.

    Returns:
        The temperature as a float32 scalar, or `logits / temperature`.

    Raises:
        ValueError: if the range is empty or not positive.

    Example:

    ```python
    from keras_itr.layers import ClampedTemperature

    temperature = ClampedTemperature(0.07, 0.01, 1.0)
    temperature()  # 0.07
    ```

    Reference: the clamping rule of the code of Huang et al., CUSA, AAAI 2024.
    """

    def __init__(self, initial, minimum, maximum, trainable=True, **kwargs):
        super().__init__(trainable=trainable, **kwargs)
        if not 0 < minimum <= maximum:
            raise ValueError(f"a temperature needs 0 < minimum <= maximum, received {minimum} and {maximum}.")
        self.initial = float(initial)
        self.minimum = float(minimum)
        self.maximum = float(maximum)
        self.value = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(min(max(self.initial, self.minimum), self.maximum)),
            constraint=self._clip,
            dtype="float32",
            autocast=False,
            name="value",
        )
        self.built = True

    @classmethod
    def of_three(cls, numbers, argument, **kwargs):
        """A layer of `(initial, minimum, maximum)`, as methods take them; `argument` is its name for the message."""
        try:
            initial, minimum, maximum = map(float, numbers)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{argument} must be three numbers, (initial, minimum, maximum), received {numbers!r}."
            ) from error
        return cls(initial, minimum, maximum, **kwargs)

    def call(self, logits=None):
        value = ops.convert_to_tensor(self.value)
        value = value + ops.stop_gradient(self._clip(value) - value)
        return value if logits is None else logits / ops.cast(value, logits.dtype)

    def _clip(self, value):
        return ops.clip(value, self.minimum, self.maximum)

    def get_config(self):
        return {
            **super().get_config(),
            "initial": self.initial,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
