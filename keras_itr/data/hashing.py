"""Counter-based integer hashes: random draws that are pure functions of their keys.

Our choice: the finaliser of splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014), chained over the keys. A draw depends on nothing but its keys, so it does not matter in which order,
in which process or on which machine it is made. Only wrapping uint64 arithmetic, shifts and a stable sort are used:
the values do not change with the platform or the NumPy version, which `numpy.random` does not promise.
"""

import functools

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def hash64(*keys):
    """64 well-mixed bits for every combination of the keys.

    Args:
        *keys: integers, integer arrays of broadcastable shapes, or strings (a string names a stream of draws).
            Negative integers count modulo 2**64.

    Returns:
        uint64 array of the broadcast shape.

    Raises:
        TypeError: a key is neither an integer, an integer array nor a string.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.hashing import hash64

    hash64(0, "colour", np.arange(3))  # three draws of the stream "colour" under seed 0
    ```

    Source: our choice, see the module.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # wrapping is the point; NumPy warns of it for scalars only
        for key in keys:
            state = _mix((state + _STEP) ^ _as_uint64(key))
    return np.asarray(state)


def uniform(*keys):
    """Uniform draws in [0, 1): the upper 53 bits of `hash64(*keys)` times 2**-53, exact in float64.

    Returns:
        float64 array of the keys' broadcast shape.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.hashing import uniform

    dropped = uniform(0, "drop", np.arange(1000)) < 0.2
    ```

    Source: our choice, see the module.
    """
    return (hash64(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(bound, *keys):
    """Integer draws in [0, bound): the upper 32 bits of `hash64(*keys)` times `bound`, over 2**32.

    Args:
        bound: integer or integer array, 1 to 2**32; broadcasts with the keys. No value is favoured by more than
            bound / 2**32.
        *keys: as for `hash64`.

    Returns:
        int64 array of the broadcast shape.

    Raises:
        ValueError: `bound` is outside 1..2**32.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.hashing import integers

    integers(6, 0, "dice", np.arange(10))
    ```

    Source: our choice, see the module.
    """
    bound = np.asarray(bound)
    if bound.size and (bound.min() < 1 or bound.max() > 2**32):
        raise ValueError(f"`bound` must be from 1 to 2**32, got {bound.min()} to {bound.max()}.")
    half = np.uint64(32)
    return (((hash64(*keys) >> half) * bound.astype(np.uint64)) >> half).astype(np.int64)


def permutation(n, *keys):
    """The order 0..n-1 shuffled: the stable argsort of one hash per position.

    Args:
        n: number of positions.
        *keys: scalar keys, as for `hash64`; the data order of an epoch is `permutation(n, seed, epoch)`.

    Returns:
        int64 array (n,).

    Example:

    ```python
    from keras_itr.data.hashing import permutation

    order = permutation(4000, 0, 3)  # seed 0, epoch 3
    ```

    Source: our choice, see the module.
    """
    return np.argsort(hash64(*keys, np.arange(n)), kind="stable").astype(np.int64)


def _mix(bits):
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> _SHIFTS[2])


def _as_uint64(key):
    if isinstance(key, str):
        return _fold(key)
    array = np.asarray(key)
    if array.dtype.kind not in "iub":
        raise TypeError(f"A hash key must be an integer below 2**64, an integer array or a string, got {key!r}.")
    return array.astype(np.uint64)


@functools.cache
def _fold(text):
    """FNV-1a over the UTF-8 bytes; Python's own `hash` of a string changes from process to process."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return np.uint64(value)
