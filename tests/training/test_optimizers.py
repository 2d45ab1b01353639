from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from keras_itr.training.optimizers import TowerOptimizer, build_optimizer
from keras_itr.training.recipe import RunSection

# Repeated token ids: where TensorFlow's gradients are sparse.
TOKENS = np.array([[[1, 1, 2], [1, 2, 3]], [[4, 4, 4], [1, 0, 0]], [[2, 2, 2], [3, 3, 1]], [[0, 1, 2], [2, 2, 4]]])
IMAGES = np.random.default_rng(0).normal(size=(4, 2, 4)).astype("float32")
STEPS_PER_EPOCH = 2


class Table(keras.layers.Layer):
    """An embedding whose table has the path that the kernel of the other tower has."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(5, 3), name="kernel")

    def call(self, token_ids):
        return ops.take(self.kernel, token_ids, axis=0)


class Towers(keras.Model):
    """Two towers and a temperature; the loss is linear in every weight, so that the oracle knows the gradients."""

    def __init__(self, **kwargs):
        super().__init__(name="towers", **kwargs)
        # Equal paths on purpose: membership must not go by name.
        image_tower = keras.layers.Dense(3, name="layer", bias_initializer="ones", dtype=self.dtype_policy)
        text_tower = Table(name="layer", dtype=self.dtype_policy)
        self.backbone = SimpleNamespace(image_tower=image_tower, text_tower=text_tower)
        self.image_layer, self.text_layer = image_tower, text_tower
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def build(self, shapes=None):
        self.image_layer.build((None, 4))
        self.text_layer.build((None, 3))

    def call(self, inputs):
        return ops.sum(self.image_layer(inputs["images"])) + ops.sum(self.text_layer(inputs["token_ids"]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.cast(y_pred, "float32") + 3.0 * self.scale


def test_the_towers_of_this_test_share_a_path():
    model, _ = make()
    assert model.image_layer.kernel.path == model.text_layer.kernel.path


def make(dtype=None, **settings):
    keras.utils.set_random_seed(0)
    model = Towers(dtype=dtype)
    model.build()
    run = RunSection(**{"epochs": 4, "batch_size": 2, "learning_rate": 0.01, **settings})
    optimizer = build_optimizer(run, STEPS_PER_EPOCH, model)
    model.compile(optimizer=optimizer)
    return model, optimizer


def train(model, first=0, last=2):
    for images, token_ids in zip(IMAGES[first:last], TOKENS[first:last], strict=True):
        model.fit({"images": images, "token_ids": token_ids}, batch_size=2, verbose=0)


def weights(model):
    tensors = [model.image_layer.kernel, model.image_layer.bias, model.text_layer.kernel, model.scale]
    return [np.array(ops.convert_to_numpy(tensor), "float64") for tensor in tensors]


def gradients(step):
    kernel = np.repeat(IMAGES[step].sum(0)[:, None], 3, axis=1)
    embeddings = np.repeat(np.bincount(TOKENS[step].ravel(), minlength=5)[:, None], 3, axis=1)
    return [np.array(value, "float64") for value in (kernel, np.full(3, 2.0), embeddings, 3.0)]


def clipped(values, clip_norm):
    norm = np.sqrt(sum(np.sum(value**2) for value in values))
    return [value * min(1.0, clip_norm / norm) for value in values]


def adamw(start, updates, rates, weight_decay):
    """Decoupled weight decay, algorithm 2 of Loshchilov and Hutter; `updates` is a list of gradient lists."""
    values = [value.copy() for value in start]
    first, second = [value * 0 for value in start], [value * 0 for value in start]
    for t, grads in enumerate(updates, start=1):
        for i, grad in enumerate(grads):
            first[i] = 0.9 * first[i] + 0.1 * grad
            second[i] = 0.999 * second[i] + 0.001 * grad**2
            step = first[i] / (1 - 0.9**t) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
            decay = weight_decay * values[i] if values[i].ndim >= 2 else 0.0
            values[i] = values[i] - rates[t - 1][i] * (step + decay)
    return values


def close(model, expected):
    for got, want in zip(weights(model), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_two_steps_of_adamw_with_tower_rates_and_the_global_norm():
    towers = {"image_tower": 0.1, "text_tower": 2.0}
    model, _ = make(weight_decay=0.5, clip_norm=2.0, tower_learning_rates=towers)
    start = weights(model)
    train(model)
    updates = [clipped(gradients(step), 2.0) for step in range(2)]
    close(model, adamw(start, updates, [[0.001, 0.001, 0.02, 0.01]] * 2, weight_decay=0.5))
    per_tower = [clipped(gradients(0)[:2], 2.0) + clipped(gradients(0)[2:], 2.0), updates[1]]
    wrong = adamw(start, per_tower, [[0.001, 0.001, 0.02, 0.01]] * 2, weight_decay=0.5)
    assert np.abs(weights(model)[2] - wrong[2]).max() > 1e-5


def test_one_group_without_tower_rates():
    model, optimizer = make(weight_decay=0.5)
    start = weights(model)
    train(model)
    close(model, adamw(start, [gradients(0), gradients(1)], [[0.01] * 4] * 2, weight_decay=0.5))
    assert [inner.name for inner in optimizer.optimizers] == ["rest"]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_nothing_decays_by_default(kind):
    model, _ = make(optimizer=kind)
    start = weights(model)
    train(model)
    close(model, adamw(start, [gradients(0), gradients(1)], [[0.01] * 4] * 2, weight_decay=0.0))


@pytest.mark.parametrize("towers", [None, {"image_tower": 0.1, "text_tower": 2.0}])
def test_accumulation_averages_clips_once_and_keeps_the_epochs_of_the_schedule(towers):
    schedule = {"type": "step", "decay_epochs": 1, "decay": 0.1}
    model, optimizer = make(
        weight_decay=0.5, clip_norm=2.0, tower_learning_rates=towers, schedule=schedule, gradient_accumulation_steps=2
    )
    start = weights(model)
    train(model, 0, 1)
    close(model, start)
    train(model, 1, 4)
    updates = [[(a + b) / 2 for a, b in zip(gradients(s), gradients(s + 1), strict=True)] for s in (0, 2)]
    factors = np.array([0.1, 0.1, 2.0, 1.0] if towers else [1.0] * 4)
    # Two batches are one epoch: the second update belongs to the second epoch, although it is update number one.
    rates = [0.01 * factors, 0.001 * factors]
    close(model, adamw(start, [clipped(update, 2.0) for update in updates], rates, weight_decay=0.5))
    assert [int(inner._iterations) for inner in optimizer.optimizers] == [4] * len(optimizer.optimizers)
    assert [int(inner.iterations) for inner in optimizer.optimizers] == [2] * len(optimizer.optimizers)


def test_schedules_of_all_towers_advance_together():
    schedule = {"type": "cosine", "final": 0.002, "warmup_epochs": 1}
    model, optimizer = make(tower_learning_rates={"image_tower": 0.1, "text_tower": 0.5}, schedule=schedule)
    train(model, 0, 4)
    rates = {inner.name: float(ops.convert_to_numpy(inner.learning_rate)) for inner in optimizer.optimizers}
    expected = 0.002 + 0.008 * np.cos(np.pi * 2 / 8) ** 2
    assert rates == pytest.approx(
        {"image_tower": 0.1 * expected, "text_tower": 0.5 * expected, "rest": expected}, rel=1e-6
    )
    assert {int(inner.iterations) for inner in optimizer.optimizers} == {4} == {int(optimizer.iterations)}


@pytest.mark.parametrize("accumulation", [None, 2])
def test_state_saved_by_path_resumes_exactly(accumulation):
    settings = {
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "tower_learning_rates": {"image_tower": 0.1},
        "gradient_accumulation_steps": accumulation,
    }
    model, optimizer = make(**settings)
    assert len({variable.path for variable in optimizer.variables}) == len(optimizer.variables)
    train(model, 0, 3)
    state = {variable.path: np.array(ops.convert_to_numpy(variable)) for variable in optimizer.variables}
    values = weights(model)
    train(model, 3, 4)

    resumed, fresh = make(**settings)
    assert [variable.path for variable in fresh.variables] == list(state)
    for variable in fresh.variables:
        variable.assign(state[variable.path])
    resumed.image_layer.set_weights(values[:2])
    resumed.text_layer.set_weights(values[2:3])
    resumed.scale.assign(values[3])
    train(resumed, 3, 4)
    for got, want in zip(weights(resumed), weights(model), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("accumulation", [None, 2])
def test_mixed_float16_is_loss_scaled_by_compile(accumulation):
    model, optimizer = make(
        dtype="mixed_float16",
        clip_norm=2.0,
        tower_learning_rates={"image_tower": 0.1},
        gradient_accumulation_steps=accumulation,
    )
    start = weights(model)
    train(model, 0, 1)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.inner_optimizer is optimizer
    assert len({variable.path for variable in model.optimizer.variables}) == len(model.optimizer.variables)
    # 2 rows x the first scale 2**15 is infinite in float16: the step is skipped and counts nowhere.
    close(model, start)
    assert int(optimizer.iterations) == 0
    train(model, 1, 3)
    updates = [gradients(1), gradients(2)]
    if accumulation:
        updates = [[(a + b) / 2 for a, b in zip(*updates, strict=True)]]
    rates = [[0.001, 0.001, 0.01, 0.01]] * 2
    expected = adamw(start, [clipped(update, 2.0) for update in updates], rates, weight_decay=0.0)
    for got, want, first in zip(weights(model), expected, start, strict=True):
        np.testing.assert_allclose(got - first, want - first, rtol=2e-2, atol=1e-6)


def test_a_revived_optimizer_trains_the_same():
    model, optimizer = make(weight_decay=0.5, clip_norm=2.0, tower_learning_rates={"text_tower": 0.1})
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(revived, TowerOptimizer)
    other, _ = make()
    other.compile(optimizer=revived)
    train(model)
    train(other)
    close(other, weights(model))


def test_a_model_without_weights_or_with_others_is_refused():
    with pytest.raises(ValueError, match="call it on one batch"):
        build_optimizer(RunSection(epochs=1, batch_size=2, learning_rate=0.1), 2, keras.Sequential())
    model, optimizer = make()
    model.text_layer.trainable = False
    revived = TowerOptimizer.from_config(optimizer.get_config())
    with pytest.raises(ValueError, match="freeze or unfreeze layers first"):
        revived.build(model.trainable_variables)
