import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_itr.training.recipe import RunSection
from keras_itr.training.schedules import EpochCosine, LaterStart, WarmupStepDecay, build_schedule

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def rates(schedule, steps):
    return np.array([float(ops.convert_to_numpy(schedule(step))) for step in steps])


def run(**settings):
    return RunSection(**{"epochs": 10, "batch_size": 4, "learning_rate": 0.1, **settings})


@pytest.mark.parametrize("epochs", [30, 40])
def test_cosine_of_every_epoch_is_constant_inside_it(epochs):
    expected = np.load(FIXTURES / "cusa/schedule_cosine.npz", allow_pickle=False)[f"lr_{epochs}_epochs"]
    schedule = EpochCosine(1e-5, 1e-6, epochs, steps_per_epoch=2265)
    starts = np.arange(epochs) * 2265
    for steps in (starts, starts + 2264):
        np.testing.assert_allclose(rates(schedule, steps.tolist()), expected, rtol=1e-6)


def test_warmup_and_step_decay_of_tgdt():
    expected = np.load(FIXTURES / "tgdt/case18_lr_f30k.npz", allow_pickle=False)["learning_rate"]
    # Around the end of the warm-up and each fall, and every 97th step: calls are slow, one by one.
    steps = sorted({*range(0, 2400, 97), 0, 1, 799, 800, 997, 998, 999, 1599, 1600, 2399})
    got = rates(WarmupStepDecay(1e-5, steps_per_epoch=40), steps)
    np.testing.assert_allclose(got, expected[steps], rtol=1e-5, atol=0)


def test_a_later_optimizer_counts_on():
    settings = run(schedule={"type": "cosine", "per": "step", "final": 0.01})
    whole, later = build_schedule(settings, 5), build_schedule(settings, 5, first_step=20)
    np.testing.assert_allclose(rates(later, range(0, 20, 3)), rates(whole, range(20, 40, 3)), rtol=1e-6)
    again = LaterStart.from_config(later.get_config())
    assert again.get_config() == later.get_config() and rates(again, [3]) == rates(later, [3])
    assert build_schedule(run(), 5, first_step=20) == 0.1


def test_cosine_per_step_with_warmup():
    schedule = EpochCosine(0.4, 0.1, epochs=10, steps_per_epoch=50, warmup_steps=20, per="step")
    steps = np.array([0, 9, 19, 20, 250, 499, 500, 800])
    cosine = 0.1 + 0.15 * (1 + np.cos(np.pi * np.minimum(steps / 500, 1)))
    np.testing.assert_allclose(rates(schedule, steps.tolist()), cosine * np.minimum((steps + 1) / 20, 1), rtol=2e-6)


def test_epochs_change_at_the_right_step_beyond_the_integers_of_float32():
    steps_per_epoch = 16_777_217  # 2**24 + 1
    schedule = WarmupStepDecay(1.0, steps_per_epoch, decay_epochs=3, decay=0.5, warmup_steps=0)
    last = 3 * steps_per_epoch - 1
    assert rates(schedule, [last, last + 1]).tolist() == [1.0, 0.5]
    cosine = EpochCosine(1.0, 0.0, 3, steps_per_epoch)
    np.testing.assert_allclose(rates(cosine, [steps_per_epoch - 1, steps_per_epoch]), [1.0, 0.75], rtol=1e-6)


@pytest.mark.parametrize("step", [7, np.int64(7), "int32 tensor", "variable"])
def test_a_step_may_be_a_number_a_tensor_or_a_variable(step):
    if step == "int32 tensor":
        step = ops.convert_to_tensor(7, dtype="int32")
    elif step == "variable":
        step = keras.Variable(7, dtype="int", trainable=False)
    assert rates(WarmupStepDecay(1.0, 5, decay_epochs=1, warmup_steps=10), [step]) == pytest.approx([0.09])


@pytest.mark.parametrize(
    "schedule",
    [EpochCosine(1e-3, 1e-5, 7, 11, warmup_steps=5, per="step"), WarmupStepDecay(1e-3, 11, 2, 0.3, 4, 1)],
)
def test_schedules_survive_serialisation(schedule):
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert revived.get_config() == schedule.get_config()
    steps = [0, 3, 30, 60]
    assert rates(revived, steps).tolist() == rates(schedule, steps).tolist()


def test_of_a_recipe():
    assert build_schedule(run(), 5, multiplier=0.5) == pytest.approx(0.05)
    constant = build_schedule(run(schedule={"type": "constant", "warmup_epochs": 2}), 5)
    np.testing.assert_allclose(rates(constant, [0, 4, 9, 10, 500]), [0.01, 0.05, 0.1, 0.1, 0.1], rtol=1e-6)
    cosine = build_schedule(run(schedule={"type": "cosine", "final": 0.02}), 5, multiplier=0.5)
    np.testing.assert_allclose(rates(cosine, [4, 25, 50]), [0.05, 0.03, 0.01], rtol=1e-6)
    step = build_schedule(run(schedule={"type": "step", "decay_epochs": 3, "warmup_steps": 4}), 5)
    np.testing.assert_allclose(rates(step, [0, 14, 15]), [0.05, 0.1, 0.01], rtol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`per` must be 'epoch' or 'step'. Received: per='batch'"):
        EpochCosine(1.0, 0.1, 3, 5, per="batch")
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be at least 1. Received: steps_per_epoch=0"):
        WarmupStepDecay(1.0, steps_per_epoch=0)
