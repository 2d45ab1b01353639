import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from keras_itr.training.recipe_checks import check_components, first_error
from keras_itr.training.recipe_loading import RecipeError as RecipeError
from keras_itr.training.recipe_loading import dump, read_source


@dataclasses.dataclass(frozen=True)
class Registries:
    """The names that a recipe may use, each with the class or function behind it.

    Args:
        methods: dict of str to retriever class (`model.method`).
        image_towers: dict of str to layer class (`model.image_tower.type`).
        text_towers: dict of str to layer class (`model.text_tower.type`).
        plugins: dict of str to plug-in class (`model.plugins`).
        tokenizers: dict of str to tokenizer class (`model.tokenizer.type`).
        readers: dict of str to function (`data.source`); its `split` argument
            is given by the trainer, the rest by the recipe.
        image_converter: the class of `model.image_converter`.
    """

    methods: dict[str, Callable]
    image_towers: dict[str, Callable]
    text_towers: dict[str, Callable]
    plugins: dict[str, Callable]
    tokenizers: dict[str, Callable]
    readers: dict[str, Callable]
    image_converter: Callable


class _Section(pydantic.BaseModel):
    # Strict: "3" is not 3 and 3.0 is not an integer; a whole number is a fine float.
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Component(_Section):
    """A registered thing (`type`) and, as all other keys, the arguments of its constructor."""

    model_config = pydantic.ConfigDict(extra="allow")
    type: str

    @property
    def arguments(self):
        """dict of the constructor's arguments."""
        return dict(self.model_extra)


class TokenizerComponent(Component):
    """A tokenizer. `vocabulary` is a list, a file or `bert_uncased`; without it, one is made of the training
    captions."""

    min_count: PositiveInt = Field(1, description="rarer words do not enter a vocabulary made of the captions")
    max_size: PositiveInt | None = Field(None, description="size limit of a vocabulary made of the captions")


class ModelSection(_Section):
    """What is trained."""

    method: str
    embedding_dim: PositiveInt
    image_tower: Component
    text_tower: Component
    arguments: dict[str, Any] = Field({}, description="constructor arguments of the method's retriever")
    plugins: list[Component] = []
    tokenizer: TokenizerComponent | None = None
    image_converter: dict[str, Any] | None = None
    initial_weights: str | dict[Literal["image_tower", "text_tower"], str] | None = Field(
        None,
        description="both towers start from a converted preset, or a CLIP of keras-hub (name, handle, folder); or a "
        "preset for one of them, as in {text_tower: presets/minilm}",
    )


_Rate = Annotated[float, Field(ge=0, lt=1)]


class DataSection(_Section):
    """What it is trained on. Keys that are not listed here are arguments of the reader `source`."""

    model_config = pydantic.ConfigDict(extra="allow")
    source: str
    train: str = "train"
    validation: str = "val"
    test: str | None = "test"
    captions_per_image: PositiveInt | None = Field(
        None, description="captions drawn per image and epoch; null: an epoch shows every caption once"
    )
    random_shift: NonNegativeInt = Field(0, description="pixels by which training images are shifted at random")
    random_crop: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] | None = Field(
        None, description="smallest and largest share of a training photo's area in a random resized crop"
    )
    random_flip: bool = Field(False, description="mirror half of the training images; not where captions say left")
    region_dropout: _Rate = Field(0.0, description="share of the regions that a training example goes without")
    word_dropout: _Rate = Field(
        0.0, description="share of a training caption's words that are hidden (5 of 10), swapped (1) or deleted (4)"
    )
    second_view: bool = Field(
        False, description="a second view of each training example, its crop and augmentations drawn independently"
    )
    positives: list[Literal["join", "truncate"]] = Field(
        [],
        description="further true captions in training, one for each example: two captions of the image joined, or the "
        "first half of the own one; each mode equally often. Two captions need a tokenizer that takes 64 tokens",
    )
    shuffled_negatives: bool = Field(
        False, description="a false caption for each training example: the words of its own in another order"
    )
    on_error: Literal["raise", "skip"] = Field("raise", description="what to do about photos that cannot be decoded")
    cache: str | None = Field(None, description="folder, relative to the data folder, for decoded training photos")
    shorter_side: PositiveInt | None = Field(None, description="shrink larger training photos to this shorter side")
    origin: str | None = Field(None, description="where the data is found, and its terms; shown if it is missing")

    @pydantic.field_validator("random_crop")
    @classmethod
    def _shares(cls, value):
        if value and not value[0] <= value[1] <= 1:
            raise ValueError("must be two shares of the area, the smaller first, at most 1")
        return value

    @pydantic.field_validator("positives")
    @classmethod
    def _modes(cls, value):
        if len(set(value)) < len(value):
            raise ValueError(f"must name each mode once, got {value}")
        return value

    @property
    def arguments(self):
        """dict of the reader's arguments."""
        return dict(self.model_extra)


class TowerLearningRates(_Section):
    """Factors on the learning rate for the weights of the backbone's towers."""

    image_tower: PositiveFloat = 1.0
    text_tower: PositiveFloat = 1.0


class _Schedule(_Section):
    warmup_steps: NonNegativeInt = Field(0, description="batches of linear warm-up")
    warmup_epochs: NonNegativeInt = Field(0, description="the same in epochs; set one of the two")

    @pydantic.model_validator(mode="after")
    def _one_warmup(self):
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("set one of warmup_steps and warmup_epochs, not both")
        return self


class ConstantSchedule(_Schedule):
    """One learning rate, perhaps after a warm-up."""

    type: Literal["constant"] = "constant"


class CosineSchedule(_Schedule):
    """Half a cosine from `learning_rate` to `final` over all epochs."""

    type: Literal["cosine"]
    per: Literal["step", "epoch"] = "epoch"
    final: NonNegativeFloat = 1e-6


class StepSchedule(_Schedule):
    """The learning rate times `decay` every `decay_epochs` epochs."""

    type: Literal["step"]
    decay_epochs: PositiveInt
    decay: PositiveFloat = 0.1


class TrainingStage(_Section):
    """Some epochs of one training stage of a method that has them."""

    stage: str
    epochs: PositiveInt


class RunSection(_Section):
    """How it is trained."""

    epochs: PositiveInt
    stages: list[TrainingStage] = Field(
        [], description="TGDT: stages (local, global, joint) one after the other, each with an optimizer of its own"
    )
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    tower_learning_rates: TowerLearningRates | None = None
    schedule: ConstantSchedule | CosineSchedule | StepSchedule = Field(ConstantSchedule(), discriminator="type")
    objective_warmup_epochs: NonNegativeInt = Field(
        0, description="first epochs in which VSE-infinity takes all negatives, CODER its term inside the batch alone"
    )
    optimizer: Literal["adamw", "adam"] = "adamw"
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled, on weights of two and more dimensions")
    clip_norm: PositiveFloat | None = Field(None, description="largest global norm of the gradients")
    # Accumulation adds no negatives: every batch of batch_size has its own loss, so a contrastive
    # method sees batch_size - 1 negatives whatever is set here.
    gradient_accumulation_steps: Annotated[int, Field(ge=2)] | None = None
    mixed_precision: Literal["mixed_bfloat16", "mixed_float16"] | None = None
    seed: NonNegativeInt = 0
    patience: PositiveInt | None = Field(None, description="validations without a better monitor before the end")
    monitor: str = "rsum"
    validation_every: PositiveInt = Field(1, description="epochs")
    checkpoint_steps: PositiveInt | None = Field(
        None, description="batches between two resume states; there is always one at the end of an epoch"
    )
    tensorboard: bool = False

    @pydantic.model_validator(mode="after")
    def _all_epochs_staged(self):
        staged = sum(stage.epochs for stage in self.stages)
        if self.stages and staged != self.epochs:
            raise ValueError(f"the epochs of its stages add up to {staged}, not to epochs: {self.epochs}")
        return self


class Recipe(_Section):
    """A whole training run in one strict, immutable object. Made by `load_recipe`.

    Attributes: `model`, `data` and `run`, the sections of the file with every
    default filled in.
    """

    model: ModelSection
    data: DataSection
    run: RunSection

    def to_dict(self):
        """Nested dict of plain values, every default written out."""
        return self.model_dump()

    def to_yaml(self):
        """YAML text of the resolved recipe (no `extends`); it loads to an equal recipe."""
        return dump(self.to_dict())

    def hash(self):
        """12 hex digits of the SHA-256 of the resolved content: equal for equal recipes."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_FIELDS = {
    (): Recipe.model_fields,
    ("model",): ModelSection.model_fields,
    ("run",): RunSection.model_fields,
    ("run", "tower_learning_rates"): TowerLearningRates.model_fields,
    ("run", "schedule", "constant"): ConstantSchedule.model_fields,
    ("run", "schedule", "cosine"): CosineSchedule.model_fields,
    ("run", "schedule", "step"): StepSchedule.model_fields,
}


def load_recipe(path, overrides=(), *, registries):
    """Reads and checks a recipe.

    Every key is checked before anything is built: the sections against their
    types, `type`, `method` and `source` against the registries, and the
    arguments of each against its signature (name, presence, and type where an
    annotation or a default tells it). An unquoted number such as
    `1e-4` is a number, unlike in YAML 1.1; a quoted one is text.

    Args:
        path: path of a YAML file with the keys `model`, `data` and `run`, and
            perhaps `extends` (one other file, relative to this one; merged
            mapping by mapping, this file wins; another `type` or `source`
            replaces the inherited mapping whole).
        overrides: sequence of `"dotted.key=value"`, applied last, in order.
        registries: a `Registries`.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: with one line, e.g.
            `recipes/x.yaml:12: run.epocks: unknown key; did you mean 'epochs'?`

    Example:

    ```python
    from keras_itr.training import default_registries, load_recipe

    recipe = load_recipe("recipes/cusa_shapes.yaml", ["run.epochs=3"], registries=default_registries())
    recipe.run.epochs, recipe.model.method  # (3, "cusa")
    ```

    Source: our choice.
    """
    source = read_source(path, overrides)
    try:
        recipe = Recipe.model_validate(source.values)
    except pydantic.ValidationError as error:
        raise first_error(error, source, _FIELDS) from None
    check_components(recipe, registries, source)
    return recipe
