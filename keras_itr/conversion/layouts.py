"""How tensors of PyTorch become the values of Keras variables."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """A rule from tensors to the value of one variable.

    Attributes:
        shapes: function of the variable's shape: the shapes that the tensors must have.
        value: function of the tensors as arrays and the variable's shape: its value.
        at_least: bool: the first tensor may have more rows.
    """

    shapes: Callable
    value: Callable
    at_least: bool = False

    def fits(self, received, shape):
        """Whether tensors of the shapes `received` do for a variable of `shape`."""
        expected = self.shapes(shape)
        if self.at_least:
            rows, least = received[0], expected[0]
            return len(rows) == len(least) and rows[0] >= least[0] and rows[1:] == least[1:]
        return list(received) == list(expected)


def matrix(split):
    """A kernel whose axes before `split` are inputs, the others outputs; PyTorch keeps `(outputs, inputs)`."""

    def shapes(shape):
        return [(int(np.prod(shape[split:])), int(np.prod(shape[:split])))]

    return Layout(shapes, lambda arrays, shape: arrays[0].T.reshape(shape))


def rows_from(start):
    """As many rows as the variable has, from one on; there may be more."""
    return Layout(
        lambda shape: [(start + shape[0], *shape[1:])],
        lambda arrays, shape: arrays[0][start : start + shape[0]],
        at_least=True,
    )


def rows_at(rows):
    """Given rows in a given order; there may be more."""
    return Layout(
        lambda shape: [(max(rows) + 1, *shape[1:])], lambda arrays, shape: arrays[0][np.array(rows)], at_least=True
    )


def _gates(array):
    """Rows of the gates r, z, n as z, r, n."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new])


AS_IS = Layout(lambda shape: [tuple(shape)], lambda arrays, shape: arrays[0])
FLAT = Layout(lambda shape: [(int(np.prod(shape)),)], lambda arrays, shape: arrays[0].reshape(shape))
LINEAR = matrix(1)
# (inputs, heads, width of a head), and the way back.
ATTENTION_IN, ATTENTION_OUT = matrix(1), matrix(2)
CONVOLUTION = Layout(
    lambda shape: [(shape[3], shape[2], shape[0], shape[1])], lambda arrays, shape: arrays[0].transpose(2, 3, 1, 0)
)
FIRST_ROWS = rows_from(0)
WITH_BATCH_AXIS = Layout(lambda shape: [(1, *shape)], lambda arrays, shape: arrays[0][0])
GRU_KERNEL = Layout(lambda shape: [(shape[1], shape[0])], lambda arrays, shape: _gates(arrays[0]).T)
# Input and recurrent bias, as a GRU with `reset_after` has them.
GRU_BIAS = Layout(lambda shape: [(shape[1],)] * 2, lambda arrays, shape: np.stack([_gates(a) for a in arrays]))
