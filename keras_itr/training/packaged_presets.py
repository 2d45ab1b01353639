"""The presets that come with the package, made from their recipes."""

import inspect
import json
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_itr.data import ConceptGraph, RetrievalTable, load_shapes
from keras_itr.evaluation import evaluate
from keras_itr.files import folder_written_whole, written_whole
from keras_itr.models.from_preset import from_preset
from keras_itr.models.preset_index import INDEX, PACKAGED, has_weights, read_index
from keras_itr.training.builders import build_model
from keras_itr.training.recipe import RecipeError, load_recipe
from keras_itr.training.recipe_checks import parameters_of
from keras_itr.training.registries import default_registries

# Of bottom-up attention, which every recipe of region features for Flickr30K and COCO reads.
_REGIONS = (36, 2048)
# Few enough that the slowest pairwise score is seconds.
_TEST_SCENES = 200
_NEW = {"method": None, "recipe": None, "overrides": [], "converts": False, "parameters": 0, "test": None}
_RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def make_presets(
    names=(), run=None, recipes="recipes", overrides=(), description=None, directory=PACKAGED, verbose=True
):
    """Make named presets anew from their recipes, and write what was counted and measured into the index.

    An architecture preset is the recipe's model without weights: configuration
    and tokenizer. A trained one is the best model of a run of the recipe, its
    weights stored as float16; without `run` one that is there is measured anew.

    Args:
        names: sequence of names, which are those of their recipes; none: all of
            the index.
        run: run directory of the one trained preset named, or None.
        recipes: folder of the recipes.
        overrides: sequence of `"dotted.key=value"` that the run was started with.
        description: one line about a preset that is not in the index yet.
        directory: folder of the presets and of `index.json`, default the package's.
        verbose: bool, a line per preset.

    Raises:
        ValueError: for a name that is not in the index and has no description,
            for several names with one `run`, or for a run of another recipe.

    Example:

    ```python
    from keras_itr.training.packaged_presets import make_presets

    make_presets(["ascl_coco"])
    make_presets(["cusa_shapes"], run="runs/cusa_shapes")
    ```
    """
    index = read_index()
    names = list(names) or list(index)
    if (run and len(names) != 1) or (overrides and not run):
        raise ValueError(f"a run is that of one preset, and overrides are those of a run; received {', '.join(names)}.")
    unknown = [name for name in names if name not in index]
    if unknown and not description:
        raise ValueError(f"{', '.join(unknown)}: not in {INDEX}; name one that is, or add it with a description.")
    for name in names:
        entry = index.setdefault(name, {"description": description, **_NEW, "recipe": f"{name}.yaml"})
        if run:
            entry["overrides"] = list(overrides)
        recipe = load_recipe(Path(recipes) / entry["recipe"], entry["overrides"], registries=default_registries())
        model = _make_preset(recipe, run, Path(directory) / name)
        entry["method"], entry["parameters"] = recipe.model.method, count_parameters(model)
        entry["test"] = measure_preset(model) if has_weights(Path(directory) / name) else None
        _write_index(index, Path(directory) / INDEX.name)
        if verbose:
            print(f"{name}: {entry['parameters']:,} parameters, {entry['test'] or 'no weights'}")


def _make_preset(recipe, run, target):
    """The model of a preset, after its directory was written if need be."""
    if run:
        _take_run(recipe, Path(run), target)
    if has_weights(target):
        return from_preset(target, load_weights=True)
    # Layers are numbered through a process: a preset does not depend on what was built before it.
    keras.utils.clear_session()
    model = build_architecture(recipe)
    _save_architecture(model, target)
    return model


def build_architecture(recipe):
    """The retriever of a recipe with random weights, built without its data.

    What follows from the data is that of the data the recipe is for: regions of
    width 2048, and for CODER the sizes of the graph that `ConceptGraph.from_captions`
    makes by default, whose content comes with trained weights or as `graph=`.

    Args:
        recipe: a `Recipe`.

    Returns:
        An `ImageTextRetriever`.

    Raises:
        ValueError: for a recipe of the shapes set, whose vocabulary is made of captions.

    Example:

    ```python
    from keras_itr.training import default_registries, load_recipe
    from keras_itr.training.packaged_presets import build_architecture

    build_architecture(load_recipe("recipes/clip_coco.yaml", registries=default_registries()))
    ```
    """
    registries, model = default_registries(), recipe.model
    if recipe.data.source == "shapes":
        raise ValueError("a preset of the shapes set has a vocabulary out of its data: name the run it comes from.")
    changes = {"initial_weights": None}
    for side in ("image_tower", "text_tower"):
        tower = getattr(model, side)
        files = {key: None for key in ("weights", "pca") if key in tower.arguments}
        changes[side] = tower.model_copy(update=files)
    if "graph" in parameters_of(registries.methods[model.method]):
        changes["arguments"] = {**model.arguments, "graph": _graph_size()}
    table = RetrievalTable(
        {"images": np.zeros((1, 8, 8, 3), "uint8"), "regions": np.zeros((1, *_REGIONS), "float32")},
        {"text": ["a caption"]},
        np.zeros(1, "int64"),
    )
    return build_model(recipe.model_copy(update={"model": model.model_copy(update=changes)}), table, registries)


def count_parameters(model):
    """int: the numbers that a preset of the model holds: all weights but those of momentum twins and queues."""
    training_only = {id(weight) for layer in model.training_only_layers() for weight in layer.weights}
    return sum(int(np.prod(weight.shape)) for weight in model.weights if id(weight) not in training_only)


def measure_preset(model):
    """Recalls of a `*_shapes` model on the first 200 held-out test scenes: dict of percent, see `evaluate`."""
    metrics = evaluate(model, load_shapes("test", num_scenes=_TEST_SCENES), verbose=False)
    return {name: round(metrics[name], 4) for name in _RECALLS}


def _graph_size():
    defaults = inspect.signature(ConceptGraph.from_captions).parameters
    concepts = defaults["num_concepts"].default
    return [concepts, min(concepts, defaults["embedding_dim"].default)]


def _save_architecture(model, target):
    with folder_written_whole(target, overwrite=True) as aside:
        model.save_to_preset(aside)
        # The date of a file without weights says nothing.
        for file in (*aside.glob("*.weights.*"), aside / "metadata.json"):
            file.unlink()


def _take_run(recipe, run, target):
    trained = load_recipe(run / "recipe.yaml", registries=default_registries())
    if trained.hash() != recipe.hash():
        raise RecipeError(f"{run}: a run of another recipe; name what it was started with, as --set KEY=VALUE.")
    with folder_written_whole(target, overwrite=True) as aside:
        shutil.copytree(run / "best", aside, dirs_exist_ok=True)
        for file in aside.glob("*.weights.h5"):
            _store_as_float16(file)


def _store_as_float16(path):
    """Rewrite a file of weights with float16 in the place of float32; loading turns it back."""

    def copy(name, item):
        if isinstance(item, h5py.Group):
            copied = target.require_group(name)
        else:
            value = item[()]
            copied = target.create_dataset(name, data=value.astype("float16") if value.dtype == "float32" else value)
        copied.attrs.update(item.attrs)

    with written_whole(path) as aside, h5py.File(path) as source, h5py.File(aside, "w") as target:
        target.attrs.update(source.attrs)
        source.visititems(copy)


def _write_index(index, path):
    # Those with weights come first.
    index = dict(sorted(index.items(), key=lambda item: item[1]["test"] is None))
    with written_whole(path) as aside:
        aside.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
