import math

import keras
from keras import ops


def _epoch(step, steps_per_epoch):
    # Integers up to here: float32 cannot tell steps apart beyond 2**24.
    return ops.cast(ops.floor_divide(ops.cast(step, "int32"), steps_per_epoch), "float32")


def _warmup_factor(step, warmup_steps, offset):
    """min(1, (step + offset) / warmup_steps), or 1 without a warm-up."""
    if not warmup_steps:
        return 1.0
    reached = ops.minimum(ops.cast(step, "int32") + offset, warmup_steps)
    return ops.cast(reached, "float32") / float(warmup_steps)


@keras.saving.register_keras_serializable(package="keras_itr")
class EpochCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Half a cosine from `initial` to `final`, in steps of one epoch or smoothly.

    `lr(e) = final + (initial - final) (1 + cos(pi e / epochs)) / 2`, where `e`
    is the number of finished epochs (`per="epoch"`, constant inside an epoch)
    or `step / steps_per_epoch` (`per="step"`). After the last epoch the rate
    stays at `final`. A warm-up multiplies this by
    `min(1, (step + 1) / warmup_steps)`; the cosine runs below it from step 0.

    Args:
        initial: float, the rate of the first epoch.
        final: float, the rate that the last epoch approaches.
        epochs: int, the length of the half cosine.
        steps_per_epoch: int, batches in one epoch. With gradient accumulation
            these are still batches, not updates.
        warmup_steps: int, batches of linear warm-up. Defaults to `0`, none.
        per: `"epoch"` or `"step"`. Defaults to `"epoch"`.

    Raises:
        ValueError: if `per` is neither `"epoch"` nor `"step"`, or `epochs` or
            `steps_per_epoch` is not positive.

    Example:

    ```python
    import keras
    from keras_itr.training.schedules import EpochCosine

    schedule = EpochCosine(1e-5, 1e-6, epochs=30, steps_per_epoch=1000)
    float(schedule(0)), float(schedule(15_000))  # (1e-05, 5.5e-06)
    optimizer = keras.optimizers.AdamW(schedule)
    ```

    Reference: the official training of *Cross-modal and Uni-modal Soft-label
    Alignment for Image-Text Retrieval*, AAAI 2024 (`per="epoch"`, no warm-up).
    The per-step form and the warm-up are our choice.
    """

    def __init__(self, initial, final, epochs, steps_per_epoch, warmup_steps=0, per="epoch"):
        super().__init__()
        if per not in ("epoch", "step"):
            raise ValueError(f"`per` must be 'epoch' or 'step'. Received: per={per!r}")
        _check_positive(epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.initial = initial
        self.final = final
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = warmup_steps
        self.per = per

    def __call__(self, step):
        if self.per == "epoch":
            epoch = _epoch(step, self.steps_per_epoch)
        else:
            epoch = ops.cast(step, "float32") / float(self.steps_per_epoch)
        # (1 + cos x) / 2 = cos(x / 2)**2, without the cancellation near x = pi.
        angle = ops.minimum(epoch / float(self.epochs), 1.0) * (math.pi / 2)
        rate = self.final + (self.initial - self.final) * ops.square(ops.cos(angle))
        return rate * _warmup_factor(step, self.warmup_steps, offset=1)

    def get_config(self):
        return {
            "initial": self.initial,
            "final": self.final,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_steps": self.warmup_steps,
            "per": self.per,
        }


@keras.saving.register_keras_serializable(package="keras_itr")
class WarmupStepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that falls by a factor every few epochs, after a linear warm-up.

    `lr(t) = base * decay**(epoch // decay_epochs) * min(1, (t + warmup_offset) / warmup_steps)`
    with `epoch = t // steps_per_epoch`, for the step `t` = 0, 1, ...

    Args:
        base: float, the rate after the warm-up.
        steps_per_epoch: int, batches in one epoch. With gradient accumulation
            these are still batches, not updates.
        decay_epochs: int, epochs between two falls. Defaults to `20`.
        decay: float, the factor of one fall. Defaults to `0.1`; `1.0` keeps the
            rate constant after the warm-up.
        warmup_steps: int, batches of linear warm-up; `0` is none. Defaults to
            `1000`.
        warmup_offset: int, so that the first rate is not zero. Defaults to `2`.

    Raises:
        ValueError: if `steps_per_epoch` or `decay_epochs` is not positive.

    Example:

    ```python
    from keras_itr.training.schedules import WarmupStepDecay

    schedule = WarmupStepDecay(1e-5, steps_per_epoch=40)
    float(schedule(0)), float(schedule(1200))  # (2e-08, 1e-06)
    ```

    Reference: the official training of *Efficient Token-Guided Image-Text
    Retrieval with Consistent Multimodal Contrastive Training*, TIP 2023.
    """

    def __init__(self, base, steps_per_epoch, decay_epochs=20, decay=0.1, warmup_steps=1000, warmup_offset=2):
        super().__init__()
        _check_positive(steps_per_epoch=steps_per_epoch, decay_epochs=decay_epochs)
        self.base = base
        self.steps_per_epoch = steps_per_epoch
        self.decay_epochs = decay_epochs
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.warmup_offset = warmup_offset

    def __call__(self, step):
        falls = _epoch(step, self.steps_per_epoch * self.decay_epochs)
        rate = self.base * ops.power(ops.cast(self.decay, "float32"), falls)
        return rate * _warmup_factor(step, self.warmup_steps, self.warmup_offset)

    def get_config(self):
        return {
            "base": self.base,
            "steps_per_epoch": self.steps_per_epoch,
            "decay_epochs": self.decay_epochs,
            "decay": self.decay,
            "warmup_steps": self.warmup_steps,
            "warmup_offset": self.warmup_offset,
        }


@keras.saving.register_keras_serializable(package="keras_itr")
class LaterStart(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that has already run for some steps: for an optimizer that takes over in the middle of a training.

    Args:
        schedule: a `LearningRateSchedule`.
        first_step: int, the step of `schedule` that is step 0 here.

    Example:

    ```python
    from keras_itr.training.schedules import LaterStart, WarmupStepDecay

    float(LaterStart(WarmupStepDecay(1e-5, steps_per_epoch=40), first_step=1200)(0))  # 1e-06
    ```

    Source: our choice.
    """

    def __init__(self, schedule, first_step):
        super().__init__()
        self.schedule = schedule
        self.first_step = first_step

    def __call__(self, step):
        return self.schedule(ops.cast(step, "int32") + self.first_step)

    def get_config(self):
        return {
            "schedule": keras.optimizers.schedules.serialize(self.schedule),
            "first_step": self.first_step,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["first_step"])


def _check_positive(**lengths):
    for name, length in lengths.items():
        if length < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={length}")


def build_schedule(run, steps_per_epoch, multiplier=1.0, first_step=0):
    """The learning rate of a recipe's `run` section, for one group of weights.

    Args:
        run: the `run` section of a `Recipe`.
        steps_per_epoch: int, batches in one epoch (batches also when gradients
            are accumulated: Keras shows a schedule the count of batches).
        multiplier: float, scales the whole curve. Defaults to `1.0`.
        first_step: int, batches of the run before the optimizer begins, in an
            earlier training stage. Defaults to `0`.

    Returns:
        A float for a constant rate without warm-up, else a
        `LearningRateSchedule`. `step` warms up with an offset of 2, as its
        source does; `cosine` and `constant` with 1.

    Example:

    ```python
    from keras_itr.training.recipe import RunSection
    from keras_itr.training.schedules import build_schedule

    run = RunSection(epochs=30, batch_size=128, learning_rate=5e-4, schedule={"type": "cosine", "warmup_epochs": 1})
    float(build_schedule(run, steps_per_epoch=100)(0))  # 5e-06
    ```

    Source: our choice.
    """
    schedule = _whole_schedule(run, steps_per_epoch, multiplier)
    return LaterStart(schedule, first_step) if first_step and not isinstance(schedule, float) else schedule


def _whole_schedule(run, steps_per_epoch, multiplier):
    schedule, rate = run.schedule, run.learning_rate * multiplier
    warmup_steps = schedule.warmup_steps or schedule.warmup_epochs * steps_per_epoch
    if schedule.type == "cosine":
        final = schedule.final * multiplier
        return EpochCosine(rate, final, run.epochs, steps_per_epoch, warmup_steps, schedule.per)
    if schedule.type == "step":
        return WarmupStepDecay(rate, steps_per_epoch, schedule.decay_epochs, schedule.decay, warmup_steps)
    if not warmup_steps:
        return rate
    return WarmupStepDecay(rate, steps_per_epoch, decay=1.0, warmup_steps=warmup_steps, warmup_offset=1)
