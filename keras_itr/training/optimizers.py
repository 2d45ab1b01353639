import keras
from keras import ops

from keras_itr.training.schedules import build_schedule

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


@keras.saving.register_keras_serializable(package="keras_itr")
class TowerOptimizer(keras.optimizers.MultiOptimizer):
    """One optimizer per group of weights, under one gradient norm.

    Keras's `MultiOptimizer` with three things it lacks. Weights of less than two
    dimensions do not decay. The gradients are clipped by their norm over *all*
    groups before they are handed out; with gradient accumulation, by the norm of
    the accumulated mean. And they are made dense first: TensorFlow's gradient of
    an embedding table lists a repeated token once per occurrence, and Keras's
    clipping and Adam square the entries before they are summed, so that a text
    tower would train differently there than on JAX and PyTorch.

    Args:
        towers: dict of str to Keras optimizer, e.g. `"image_tower"`,
            `"text_tower"`, `"rest"`. Without clipping of their own, and with
            the same `gradient_accumulation_steps`.
        assignment: list of `[variable path, key of towers]`, in the order of the
            model's trainable variables.
        clip_norm: float or None, the largest global norm. Defaults to `None`,
            no clipping.
        loss_scale_factor: float or None, as in `MultiOptimizer`.
        name: string. Defaults to `"tower_optimizer"`.

    Raises:
        ValueError: in `build`, if the variables are not those of `assignment`.

    Source: our choice.

    Example:

    ```python
    import keras
    from keras_itr.training.optimizers import TowerOptimizer

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = TowerOptimizer(
        {"rest": keras.optimizers.Adam(1e-3)},
        [[variable.path, "rest"] for variable in model.trainable_variables],
        clip_norm=2.0,
    )
    model.compile(optimizer, loss="mse")
    ```
    """

    def __init__(self, towers, assignment, clip_norm=None, loss_scale_factor=None, name="tower_optimizer"):
        super().__init__(self._optimizer_of, loss_scale_factor=loss_scale_factor, name=name)
        self.towers = towers
        self.assignment = assignment
        self.clip_norm = clip_norm

    def build(self, var_list):
        if self.built:
            return
        if [variable.path for variable in var_list] != [path for path, _ in self.assignment]:
            raise ValueError(
                f"This optimizer was made for {len(self.assignment)} given weights and is asked to train "
                f"{len(var_list)} that are not the same: freeze or unfreeze layers first, then make the optimizer."
            )
        self._tower_of = {id(variable): tower for variable, (_, tower) in zip(var_list, self.assignment, strict=True)}
        for optimizer in self.towers.values():
            # Biases, normalisation and temperatures keep their scale.
            optimizer.exclude_from_weight_decay(var_list=[v for v in var_list if len(v.shape) < 2])
        super().build(var_list)

    def _optimizer_of(self, variable):
        return self.towers[self._tower_of[id(variable)]]

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self.built:
            self.build(variables)
        grads = [_dense(grad, variable) for grad, variable in zip(grads, variables, strict=True)]
        if self.clip_norm is not None:
            grads = self._clip(grads, variables)
        super().apply(grads, variables)

    def _clip(self, grads, variables):
        present = [(grad, variable) for grad, variable in zip(grads, variables, strict=True) if grad is not None]
        steps = next(iter(self.towers.values())).gradient_accumulation_steps
        if not steps:
            scale = self._scale([grad for grad, _ in present])
        else:
            # An update uses (accumulator + gradient) / steps: when it is due, scale both.
            accumulators = [self._accumulator(variable) for _, variable in present]
            means = [(grad + total) / steps for (grad, _), total in zip(present, accumulators, strict=True)]
            due = ops.equal((self.iterations + 1) % steps, 0)
            scale = ops.where(due, self._scale(means), 1.0)
            for accumulator in accumulators:
                accumulator.assign(accumulator * scale)
        return [None if grad is None else grad * scale for grad in grads]

    def _scale(self, grads):
        norm = ops.sqrt(sum(ops.sum(ops.square(grad)) for grad in grads))
        return self.clip_norm / ops.maximum(norm, self.clip_norm)

    def _accumulator(self, variable):
        optimizer = self._optimizer_of(variable)
        return optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]

    def get_config(self):
        return {
            "towers": {name: keras.saving.serialize_keras_object(tower) for name, tower in self.towers.items()},
            "assignment": [[path, tower] for path, tower in self.assignment],
            "clip_norm": self.clip_norm,
            "loss_scale_factor": self.loss_scale_factor,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        towers = {
            name: keras.saving.deserialize_keras_object(tower, custom_objects=custom_objects)
            for name, tower in config["towers"].items()
        }
        return cls(**{**config, "towers": towers})


def _dense(grad, variable):
    # TensorFlow adds up the repeated rows of a sparse gradient on its way into an op such as reshape;
    # `ops.convert_to_tensor` would leave it sparse.
    return None if grad is None else ops.reshape(grad, variable.shape)


def build_optimizer(run, steps_per_epoch, model, first_step=0):
    """The optimizer of a recipe's `run` section, built for a model's weights.

    Weight decay is decoupled (both `adam` and `adamw`), uses the learning rate
    of the weight's tower, and leaves 0-d and 1-d weights alone. Epsilon is 1e-8
    and the betas 0.9 and 0.999, as in CUSA's official training.

    With `gradient_accumulation_steps` the weights move once in so many batches;
    schedules still count batches, because Keras passes them its count of `apply`
    calls, so epochs and warm-up keep their length. Accumulation adds no
    negatives: every batch has its own loss.

    Args:
        run: the `run` section of a `Recipe`.
        steps_per_epoch: int, batches in one epoch.
        model: a retriever whose weights exist. A weight belongs to a tower if
            it is one of `model.backbone.image_tower.trainable_variables`
            (`text_tower` likewise), else to `"rest"`.
        first_step: int, batches of the run before this optimizer begins; the
            schedule counts on from there. Defaults to `0`.

    Returns:
        A built `TowerOptimizer`. Its `optimizers` are named `image_tower`,
        `text_tower` and `rest` (only `rest` without `tower_learning_rates`).
        Under `mixed_float16`, `compile` wraps it in a `LossScaleOptimizer`.

    Raises:
        ValueError: if the model has no trainable weights yet.

    Example:

    ```python
    import keras
    from keras_itr.training.optimizers import build_optimizer
    from keras_itr.training.recipe import RunSection

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    run = RunSection(epochs=30, batch_size=128, learning_rate=5e-4, weight_decay=1e-4, clip_norm=2.0)
    model.compile(build_optimizer(run, steps_per_epoch=100, model=model), loss="mse")
    ```

    Reference: *Decoupled Weight Decay Regularization*, ICLR 2019.
    """
    variables = model.trainable_variables
    if not variables:
        raise ValueError("The model has no trainable weights: call it on one batch before making its optimizer.")
    rates = run.tower_learning_rates.model_dump() if run.tower_learning_rates else {}
    tower_of = {
        id(variable): tower for tower in rates for variable in getattr(model.backbone, tower).trainable_variables
    }
    groups = {}
    for variable in variables:
        groups.setdefault(tower_of.get(id(variable), "rest"), []).append(variable)
    towers = {
        name: _group_optimizer(run, build_schedule(run, steps_per_epoch, rates.get(name, 1.0), first_step), name, group)
        for name, group in groups.items()
    }
    assignment = [[variable.path, tower_of.get(id(variable), "rest")] for variable in variables]
    optimizer = TowerOptimizer(towers, assignment, run.clip_norm)
    optimizer.build(variables)
    return optimizer


def _group_optimizer(run, learning_rate, name, variables):
    # Keras's PyTorch optimizers fail on a group in which nothing decays, and AdamW insists on a decay.
    decays = run.weight_decay and any(len(variable.shape) >= 2 for variable in variables)
    return (_OPTIMIZERS[run.optimizer] if decays else keras.optimizers.Adam)(
        learning_rate=learning_rate,
        weight_decay=run.weight_decay if decays else None,
        epsilon=1e-8,
        gradient_accumulation_steps=run.gradient_accumulation_steps,
        name=name,
    )
