"""Plain float64 oracles of losses, compared with the Keras form in value and gradient."""

import keras
import numpy as np
from support import draw, gradients


def unit(*shape, seed=0):
    """Random float32 rows of length one."""
    rows = draw(*shape, seed=seed)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def value(tensor):
    return keras.ops.convert_to_numpy(tensor)


def compiled(function):
    """`function` under `jax.jit` on JAX, which compiles a shape met once far faster than operation by operation."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def assert_relative(actual, expected, tolerance, name=""):
    """`max|a - b| / max(max|expected|, 1e-6)` over the whole array: the rule of the AAI fixtures."""
    scale = max(np.abs(expected).max(), 1e-6)
    error = np.abs(np.asarray(actual, "float64") - expected).max() / scale
    assert error <= tolerance, f"{name}: relative error {error:.2e}"


def assert_finite(function, inputs):
    """The value and gradients of a finite scalar."""
    result, grads = gradients(function, inputs)
    assert np.isfinite(result).all() and all(np.isfinite(grad).all() for grad in grads)
    return result, grads


def assert_matches_oracle(function, oracle, inputs, rtol=1e-4, atol=1e-6):
    """`function` against `oracle`, a NumPy function of the same arrays, and against its numeric derivative."""
    result, grads = gradients(function, inputs)
    exact = [np.asarray(x, "float64") for x in inputs]
    np.testing.assert_allclose(result, oracle(*exact), rtol=rtol, atol=atol)
    for grad, expected in zip(grads, numeric_gradients(oracle, exact), strict=True):
        np.testing.assert_allclose(grad, expected, rtol=rtol, atol=max(atol, 1e-5 * np.abs(expected).max()))


def numeric_gradients(oracle, arrays, step=1e-6):
    """Central differences of a scalar function of float64 arrays."""
    results = []
    for position, array in enumerate(arrays):
        result = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in arrays]
                moved[position][index] += sign * step
                ends.append(oracle(*moved))
            result[index] = (ends[0] - ends[1]) / (2 * step)
        results.append(result)
    return results
