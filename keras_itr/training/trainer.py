import csv
import json
import os
import platform
import shutil
from pathlib import Path

import keras
import numpy as np

from keras_itr.evaluation import evaluate, report, save_report
from keras_itr.models.from_preset import from_preset
from keras_itr.training import smoke as smoke_run
from keras_itr.training.builders import (
    build_model,
    build_pipeline,
    load_table,
    prepare_table,
    report_faults,
    with_files,
)
from keras_itr.training.objective_warmup import ObjectiveWarmup
from keras_itr.training.optimizers import build_optimizer
from keras_itr.training.recipe import RecipeError, load_recipe
from keras_itr.training.recipe_loading import nearest
from keras_itr.training.registries import default_registries
from keras_itr.training.resume import ResumeState
from keras_itr.training.retrieval_validation import MONITORS, RetrievalValidation
from keras_itr.training.teacher_files import teacher_remedy


def train(path, overrides=(), data_dir=None, run_dir=None, smoke=False, overwrite=False, verbose=True):
    """Train a recipe to the end and evaluate its best model.

    The run directory holds `recipe.yaml` (resolved), `versions.json`,
    `history.csv`, `state.npz` (to resume), `best/` (a preset, chosen on the
    validation split) and `metrics.json` (of the test split). A run that was
    interrupted goes on where it stopped when it is started again, and ends as
    if it had never stopped.

    Args:
        path: path of a recipe.
        overrides: sequence of `"dotted.key=value"`.
        data_dir: folder that the recipe's `data.directory` is relative to.
        run_dir: folder of the run; None is `runs/<recipe name>`.
        smoke: bool, default False: two steps of two pairs with tiny towers on
            generated stand-in data, whatever the recipe needs.
        overwrite: bool, default False: start anew in a folder that holds a run.
        verbose: bool, progress bars and the report.

    Returns:
        dict of the metrics of the best model on the test split (on the validation
        split where the recipe names no test split).

    Raises:
        RecipeError, ValueError, FileNotFoundError: with one line, before work
            starts, if recipe, data or folder do not do.

    Example:

    ```python
    from keras_itr.training import train

    train("recipes/cusa_shapes.yaml", overrides=["run.epochs=2"], run_dir="runs/quick")
    ```
    """
    registries = default_registries()
    recipe = load_recipe(path, overrides, registries=registries)
    folder = Path(run_dir or f"runs/{Path(path).stem}{'-smoke' if smoke else ''}")
    if smoke:
        recipe = smoke_run.smoke_recipe(recipe, registries)
    overwrite = overwrite or (smoke and run_dir is None)
    _check_folder(folder, overwrite)
    _check_run(recipe)
    resolved, missing = with_files(recipe, data_dir)
    remedy = teacher_remedy(recipe, path, overrides, data_dir)
    tables = _load_tables(recipe, registries, data_dir, smoke, missing, remedy)
    _check_monitor(recipe, tables["validation"])
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(recipe.run.mixed_precision or "float32")
        keras.utils.set_random_seed(recipe.run.seed)
        model = build_model(resolved, tables["train"], registries)
        # What does not fit is found before the photos are decoded.
        _check_warmup(recipe, model)
        _check_stages(recipe, model)
        build_pipeline(recipe, model, tables["train"])
        tables, faults = _prepare_tables(recipe, tables, data_dir, verbose)
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        position = _fit(model, recipe, tables, folder, smoke, verbose)
    finally:
        keras.config.set_dtype_policy(policy)
    split = "test" if "test" in tables else "validation"
    metrics = evaluate(from_preset(folder / "best", load_weights=True), tables[split], verbose=verbose, rerank=True)
    if faults[split]:
        metrics["skipped_images"] = len(faults[split])
    save_report(metrics, folder / "metrics.json")
    if verbose:
        table = tables[split]
        print(
            f"\n{folder / 'best'} (best epoch by validation: {position['best_epoch']}) on {table.name}: "
            f"{table.num_images} images, {table.num_captions} captions\n{report(metrics)}"
        )
        report_faults({path: fault for broken in faults.values() for path, fault in broken.items()})
    return metrics


def _load_tables(recipe, registries, data_dir, smoke, missing, remedy):
    """The tables of the recipe's splits by their role, as their files say."""
    if smoke:
        table = smoke_run.smoke_table()
        return {role: table for role in _splits(recipe)}
    return {
        role: load_table(recipe, split, registries, data_dir, role == "train", missing, remedy)
        for role, split in _splits(recipe).items()
    }


def _prepare_tables(recipe, tables, data_dir, verbose):
    """The tables with photos that can be decoded, and what is wrong with the others, both by role."""
    prepared, faults = {}, {}
    for role, split in _splits(recipe).items():
        prepared[role], faults[role] = prepare_table(
            recipe, tables[role], split, data_dir, training=role == "train", verbose=verbose
        )
    return prepared, faults


def _splits(recipe):
    roles = {"train": recipe.data.train, "validation": recipe.data.validation, "test": recipe.data.test}
    return {role: split for role, split in roles.items() if split}


def _fit(model, recipe, tables, folder, smoke, verbose):
    run = recipe.run
    pipeline = build_pipeline(recipe, model, tables["train"])
    steps = smoke_run.STEPS if smoke else pipeline.steps_per_epoch
    position = {"epoch": 0, "step": 0}
    sizes = ", ".join(f"{table.num_images}/{table.num_captions}" for table in tables.values())
    identity = {"recipe": recipe.hash(), "backend": keras.backend.backend(), "images/captions": sizes}
    state = ResumeState(folder / "state.npz", position, identity, run.checkpoint_steps, run.seed)
    state.set_model(model)
    resumed = state.read()
    _compile_as_saved(model, run, steps, position)
    _prepare_folder(folder, recipe, position["epoch"] if resumed else 0)
    if resumed and verbose:
        print(f"{folder}: goes on at epoch {position['epoch'] + 1}, step {position['step'] + 1}.")
    callbacks = [
        RetrievalValidation(
            tables["validation"],
            folder / "best",
            position,
            run.epochs,
            run.monitor,
            run.validation_every,
            run.patience,
        ),
        keras.callbacks.CSVLogger(str(folder / "history.csv"), append=True),
        *([keras.callbacks.TensorBoard(str(folder / "tensorboard"))] if run.tensorboard else []),
        state,
        *([ObjectiveWarmup(run.objective_warmup_epochs)] if run.objective_warmup_epochs else []),
    ]
    for stage, first_epoch, stage_end in _stages(run):
        if position["epoch"] >= stage_end:
            continue
        if first_epoch and position["epoch"] == first_epoch and not position["step"]:
            # The state before belongs to the optimizer of another stage, and its best model is not trained in this one.
            state.restore()
            for name in ("best", "best_epoch", "waited"):
                position.pop(name, None)
            model.set_training_stage(stage)
            model.compile(optimizer=build_optimizer(run, steps, model, first_epoch * steps))
        # A run that stopped inside an epoch first finishes that epoch.
        for last_epoch in sorted({position["epoch"] + 1, stage_end}) if position["step"] else (stage_end,):
            first = position["epoch"] * steps + position["step"]
            if position["epoch"] >= last_epoch or _stopped(position, run):
                continue
            model.fit(
                pipeline.dataset(first, last_epoch * steps),
                steps_per_epoch=steps - position["step"],
                initial_epoch=position["epoch"],
                epochs=last_epoch,
                callbacks=callbacks,
                shuffle=False,
                verbose="auto" if verbose else 0,
            )
    return position


def _compile_as_saved(model, run, steps, position):
    """In the stage of the last batch, whose optimizer the state holds; a run that begins is in its first stage."""
    at = max(position["epoch"] - (not position["step"]), 0)
    stage, first_epoch = next((stage, first) for stage, first, end in _stages(run) if at < end)
    if stage is not None:
        model.set_training_stage(stage)
    model.compile(optimizer=build_optimizer(run, steps, model, first_epoch * steps))


def _stages(run):
    """`(stage, first epoch, end)` of each training stage; one stage called None where the recipe has none."""
    ends = np.cumsum([stage.epochs for stage in run.stages]).tolist()
    if not ends:
        return [(None, 0, run.epochs)]
    return list(zip([stage.stage for stage in run.stages], [0, *ends], ends, strict=False))


def _stopped(position, run):
    return bool(run.patience) and position.get("waited", 0) >= run.patience


def _prepare_folder(folder, recipe, epochs_done):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n", encoding="utf-8")
    history = folder / "history.csv"
    if history.exists():
        # A row may have been written after the last state was saved.
        with open(history, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        with open(history, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows[:1] + [row for row in rows[1:] if int(row[0]) < epochs_done])


def _versions():
    from importlib import metadata

    packages = ("keras-itr", "keras", "keras-hub", "tensorflow", "jax", "torch", "numpy")
    installed = {}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"backend": keras.backend.backend(), "python": platform.python_version(), **installed}


def _check_folder(folder, overwrite):
    """A folder that holds something else than a run is never touched, a finished run only with `overwrite`."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder}: is a file; choose another --run_dir.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "versions.json").exists():
        raise RecipeError(f"{folder}: holds files, but no run; choose another --run_dir.")
    if (folder / "metrics.json").exists() and not overwrite:
        raise RecipeError(f"{folder}: this run is finished; choose another --run_dir, or start anew with --overwrite.")


def _check_monitor(recipe, validation):
    if recipe.run.monitor.startswith("checked_") and validation.relevance is None:
        raise RecipeError(
            f"run.monitor: {recipe.run.monitor!r} needs data whose whole truth is known, and {validation.name} is not; "
            f"use {recipe.run.monitor.removeprefix('checked_')!r}."
        )


def _check_warmup(recipe, model):
    if recipe.run.objective_warmup_epochs and not hasattr(model, "warmup"):
        raise RecipeError(f"run.objective_warmup_epochs: {recipe.model.method!r} has no warm-up; remove the key.")


def _check_stages(recipe, model):
    if not recipe.run.stages:
        return
    if not hasattr(model, "set_training_stage"):
        raise RecipeError(f"run.stages: {recipe.model.method!r} has no training stages; remove the key.")
    if recipe.run.patience:
        raise RecipeError("run.patience: a run of stages has fixed lengths; remove the key, or run.stages.")
    for stage in recipe.run.stages:
        if stage.stage not in model.training_stages:
            near = nearest(stage.stage, model.training_stages)
            raise RecipeError(f"run.stages: unknown stage {stage.stage!r}; {near}")


def _check_run(recipe):
    """What the schema cannot know, before any work."""
    if recipe.run.monitor not in MONITORS:
        raise RecipeError(f"run.monitor: unknown metric; {nearest(recipe.run.monitor, MONITORS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and keras.backend.backend() == "torch":
        raise RecipeError(
            "WORLD_SIZE > 1: training on several devices is not supported with the torch backend; "
            "use KERAS_BACKEND=jax, whose batch is global."
        )
    if recipe.run.tensorboard:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise RecipeError('run.tensorboard: needs tensorboard; pip install "keras-itr[tensorboard]".') from None
