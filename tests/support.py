"""Fixtures and gradients, the same way on the three backends."""

import json
from pathlib import Path

import keras
import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


def load_fixture(group, name):
    """The arrays (floats as float32) and the description of one golden case."""
    with np.load(FIXTURES / group / f"{name}.npz", allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    arrays = {key: array.astype("float32") if array.dtype.kind == "f" else array for key, array in arrays.items()}
    return arrays, json.loads((FIXTURES / group / f"{name}.json").read_text())


def gradients(function, inputs=(), variables=()):
    """`function(*inputs)` and its gradients in the inputs and in Keras variables, as NumPy arrays."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        value, grads = _tensorflow(function, inputs, variables)
    elif backend == "jax":
        value, grads = _jax(function, inputs, variables)
    else:
        value, grads = _torch(function, inputs, variables)
    shapes = [x.shape for x in (*inputs, *variables)]
    grads = [
        np.zeros(shape, "float32") if grad is None else keras.ops.convert_to_numpy(grad)
        for grad, shape in zip(grads, shapes, strict=True)
    ]
    return keras.ops.convert_to_numpy(value), grads


def _tensorflow(function, inputs, variables):
    import tensorflow as tf

    tensors = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return value, tape.gradient(value, [*tensors, *[variable.value for variable in variables]])


def _jax(function, inputs, variables):
    import jax

    def pure(tensors, values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*tensors)

    arguments = [jax.numpy.asarray(x) for x in inputs], [variable.value for variable in variables]
    value, (input_grads, variable_grads) = jax.value_and_grad(pure, argnums=(0, 1))(*arguments)
    return value, [*input_grads, *variable_grads]


def _torch(function, inputs, variables):
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    value = function(*tensors)
    leaves = [*tensors, *[variable.value for variable in variables]]
    if not value.requires_grad:
        return value, [None] * len(leaves)
    return value, torch.autograd.grad(value, leaves, allow_unused=True)


def draw(*shape, seed=0):
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def region_data(count=8, seed=0, teachers=True):
    """Random model inputs of a region-and-sentence model, two captions an image."""
    data = {
        "regions": np.repeat(draw(count // 2, 4, 12, seed=seed), 2, axis=0),
        "text_features": draw(count, 10, seed=seed + 1),
        "image_id": np.arange(count, dtype="int32") // 2,
    }
    if teachers:
        data["teacher_image"] = np.repeat(draw(count // 2, 5, seed=seed + 2), 2, axis=0)
        data["teacher_text"] = draw(count, 7, seed=seed + 3)
    return data


def region_backbone(embedding_dim=8):
    """A tiny backbone over regions and sentence vectors."""
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import DualEncoderBackbone

    return DualEncoderBackbone(RegionTower(12, embedding_dim), SentenceFeatureTower(10, embedding_dim))
