"""The few numerical conventions that losses, layers and models share."""

from keras import backend, ops


def at_least_float32(x):
    """`x` as a floating tensor of at least 32 bits: losses are never computed in half precision."""
    x = ops.convert_to_tensor(x)
    if backend.standardize_dtype(x.dtype) in ("float32", "float64"):
        return x
    return ops.cast(x, "float32")


def unit_rows(x, epsilon=1e-12):
    """Rows of `x` divided by `max(norm, epsilon)`, in at least float32.

    A zero row has no direction, and receives no gradient: the true one is as
    large as `1 / epsilon`.
    """
    x = at_least_float32(x)
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    x = ops.where(square > epsilon**2, x, ops.stop_gradient(x))
    return x * ops.rsqrt(ops.maximum(square, epsilon**2))


def tempered_log_softmax(similarity, temperature):
    """`log softmax(similarity / temperature)` over the last axis, in at least float32.

    The row maximum leaves before the division: in exact arithmetic nothing
    changes, in float32 the gradient of a small temperature keeps four more
    digits, because the dominant entry contributes an exact zero.
    """
    similarity = at_least_float32(similarity)
    highest = ops.stop_gradient(ops.max(similarity, axis=-1, keepdims=True))
    return ops.log_softmax((similarity - highest) / ops.cast(temperature, similarity.dtype), axis=-1)


def without_padding(rows, mask):
    """`rows` `(..., N, D)` with zeros where `mask` `(..., N)` is False, whatever stands there.

    Kernels, attention and their gradients multiply padding by zero, and zero
    times NaN is NaN.
    """
    return ops.where(ops.cast(mask, "bool")[..., None], rows, 0.0)
