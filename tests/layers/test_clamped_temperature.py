import keras
import numpy as np
import pytest
from support import gradients

from keras_itr.layers import ClampedTemperature


def value(layer):
    return float(keras.ops.convert_to_numpy(layer.value))


@pytest.mark.parametrize(("initial", "first"), [(0.5, 0.5), (0.001, 0.1), (7.0, 0.9)])
def test_the_initial_value_is_pulled_into_the_range(initial, first):
    assert value(ClampedTemperature(initial, 0.1, 0.9)) == np.float32(first)


@pytest.mark.parametrize("bound", [0.1, 0.9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_gradient_lives_on_the_bound_and_the_update_stays_inside(bound, sign):
    layer = ClampedTemperature(bound, 0.1, 0.9)
    reading, (grad,) = gradients(lambda: sign * 3.0 * layer(), variables=[layer.value])
    np.testing.assert_allclose([reading, grad], [sign * 3 * np.float32(bound), sign * 3])
    optimizer = keras.optimizers.SGD(0.05)
    optimizer.apply([keras.ops.convert_to_tensor(grad)], [layer.value])
    inward = (sign > 0) == (bound > 0.5)
    assert (value(layer) != np.float32(bound)) == inward
    assert np.float32(0.1) <= value(layer) <= np.float32(0.9)


def test_logits_are_divided_and_half_precision_is_kept_out():
    layer = ClampedTemperature(0.5, 0.1, 0.9, dtype="mixed_float16")
    logits = keras.ops.convert_to_numpy(keras.ops.stop_gradient(layer(np.ones((2, 2), "float32"))))
    np.testing.assert_allclose(logits, 2.0)
    assert layer.value.dtype == "float32"


def test_a_fixed_temperature_is_not_trained_and_round_trips():
    layer = ClampedTemperature(0.5, 0.1, 0.9, trainable=False)
    assert not layer.trainable_variables
    copy = ClampedTemperature.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config() and not copy.trainable_variables


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.5, 0.1), (-1.0, 1.0)])
def test_an_empty_range_is_an_error(bounds):
    with pytest.raises(ValueError, match="0 < minimum <= maximum"):
        ClampedTemperature(0.5, *bounds)
