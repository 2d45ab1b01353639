"""One compiled training step from equal weights makes the same change on every backend.

The references hold the changes in millionths. `python models/test_training_steps.py`, run in the folder `tests` with
`KERAS_BACKEND=tensorflow`, writes them anew; do so only after a change that is meant to change the numbers.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from momentum_support import array, give_uniforms, make_aai, make_coder, queues, twins, word_backbone, word_data
from support import FIXTURES, draw
from test_tgdt import boxed_data
from test_tgdt import make as make_tgdt

from keras_itr.models import CLIP, VSEInfinity
from keras_itr.training.optimizers import TowerOptimizer

METHODS = {
    "clip": lambda: CLIP(word_backbone()),
    "vse_infinity": lambda: VSEInfinity(word_backbone()),
    "aai": lambda: make_aai(distillation_ramp_steps=4, momentum=0.9),
    "coder": lambda: make_coder(momentum=0.9),
}


def recipe_adam(model):
    """Adam as in a recipe, where embedding tables learn the same on every backend."""
    # A gradient far below epsilon is rounding; with the usual 1e-8 its sign would decide the update.
    adam = keras.optimizers.Adam(0.01, epsilon=1e-3)
    return TowerOptimizer({"rest": adam}, [[weight.path, "rest"] for weight in model.trainable_variables], 2.0)


OPTIMIZERS = {"sgd": lambda model: keras.optimizers.SGD(0.05), "adam": recipe_adam}
CASES = [*((name, "sgd") for name in METHODS), ("coder", "adam")]
MILLIONTH = 1e-6


def prepared(name):
    """A model whose weights, twins, queues and draws are NumPy's."""
    model = METHODS[name]()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape):
            variable.assign(0.3 * rng.normal(size=variable.shape).astype("float32"))
    if getattr(model, "codes", None) is not None:
        model.codes.prototypes.assign(model.codes.prototypes.constraint(array(model.codes.prototypes)))
    for twin in twins(model):
        twin.reset()
        for weight, followed in twin._pairs():
            if followed.trainable:
                weight.assign(array(followed) + 0.1 * rng.normal(size=weight.shape).astype("float32"))
    for queue in queues(model):
        rows = draw(9, queue.dim, seed=3)
        # Of the batch's own images and of others. Three slots are empty, so that the batch wraps around.
        queue.enqueue(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array([0, 1, *range(20, 27)]))
    if name == "aai":
        model.steps.assign(2)
        give_uniforms(model)
    return model


def stepped(name, optimizer):
    """The model, its loss, and the values of all weights before and after one step."""
    model = prepared(name)
    model.compile(optimizer=OPTIMIZERS[optimizer](model))
    before = {id(weight): array(weight) for weight in model.weights}
    loss = model.fit(word_data(8), batch_size=8, shuffle=False, verbose=0).history["loss"][0]
    return model, loss, before, {id(weight): array(weight) for weight in model.weights}


def changes(model, loss, before, after):
    """What the step did to every weight outside the twins, in order."""
    own = {id(weight) for twin in twins(model) for weight in twin.weights}
    rest = [weight for weight in model.weights if id(weight) not in own]
    changed = {f"{index:03d}": after[id(weight)] - before[id(weight)] for index, weight in enumerate(rest)}
    return {"loss": np.array(loss), **changed}, {f"{index:03d}": weight.path for index, weight in enumerate(rest)}


@pytest.mark.parametrize("name, optimizer", CASES)
def test_one_step_changes_the_same_on_every_backend(name, optimizer):
    with np.load(FIXTURES / "training_steps" / f"{name}_{optimizer}.npz", allow_pickle=False) as stored:
        expected = {key: stored[key] * MILLIONTH for key in stored.files}
    model, loss, before, after = stepped(name, optimizer)
    found, paths = changes(model, loss, before, after)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # A change is a difference of two float32 numbers near 1, stored in millionths.
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=5e-6, err_msg=paths.get(key, key))
    if getattr(model, "codes", None) is not None:
        np.testing.assert_allclose(np.linalg.norm(array(model.codes.prototypes), axis=1), 1, atol=1e-6)
    # Averages of the old twin and the encoder before the step; statistics are the encoder's own.
    for twin in twins(model):
        for weight, followed in twin._pairs():
            old = before[id(weight)], before[id(followed)]
            moved = 0.9 * old[0] + 0.1 * old[1] if followed.trainable else after[id(followed)]
            np.testing.assert_allclose(after[id(weight)], moved, atol=1e-6, err_msg=weight.path)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="gradients stay with their variables on PyTorch alone")
def test_gradients_do_not_add_up_from_step_to_step():
    """Two stacks of equally named blocks in one model: Keras' PyTorch backend knows the weights of one alone."""
    model = make_tgdt()
    variables = model.trainable_variables
    assert len({variable.path for variable in variables}) < len(variables)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    model.fit(boxed_data(), batch_size=8, verbose=0)
    for variable in variables:
        variable.value.grad = keras.ops.full(variable.shape, float("nan"))
    model.fit(boxed_data(), batch_size=8, verbose=0)
    assert not [v.path for v in variables if v.value.grad is not None and np.isnan(array(v.value.grad)).any()]


if __name__ == "__main__":
    for name, optimizer in CASES:
        found, _ = changes(*stepped(name, optimizer))
        found = {key: np.rint(value / MILLIONTH).astype("int32") for key, value in found.items()}
        np.savez_compressed(FIXTURES / "training_steps" / f"{name}_{optimizer}.npz", **found)
