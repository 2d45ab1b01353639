from keras_itr.evaluation import (
    check_protocol,
    evaluate,
    plot_sweep,
    report,
    save_report,
    sweep_k,
    sweep_report,
)
from keras_itr.evaluation.sweep import check_plot, parse_lengths
from keras_itr.models.from_preset import from_preset
from keras_itr.training.builders import load_table, prepare_table, report_faults
from keras_itr.training.recipe import load_recipe
from keras_itr.training.registries import default_registries


def evaluate_preset(
    preset,
    recipe_path,
    split=None,
    overrides=(),
    data_dir=None,
    protocol="full",
    json_path=None,
    verbose=True,
    by_length=False,
):
    """Evaluate a preset with weights on the data of a recipe.

    Args:
        preset: name, directory or hub handle; missing weights are an error.
        recipe_path: path of a recipe; its `data` section is read.
        split: string; None is the recipe's test split, or its validation split
            where it names no test split.
        overrides: sequence of `"dotted.key=value"`.
        data_dir: folder that the recipe's `data.directory` is relative to.
        protocol: see `keras_itr.evaluation.evaluate`.
        json_path: where to write the metrics, or None.
        verbose: bool, progress bars and the report.
        by_length: bool, default False: also the recalls of short, middle and long captions.

    Returns:
        dict of metrics.

    Example:

    ```python
    from keras_itr.training import evaluate_preset

    evaluate_preset("cusa_shapes", "recipes/cusa_shapes.yaml", split="unseen")
    ```
    """
    check_protocol(protocol)
    model, table, faults = _model_and_table(preset, recipe_path, split, overrides, data_dir, verbose)
    metrics = evaluate(model, table, protocol=protocol, verbose=verbose, rerank=True, by_length=by_length)
    if faults:
        metrics["skipped_images"] = len(faults)
    if json_path:
        save_report(metrics, json_path)
    if verbose:
        folds = f", the mean of five folds of {table.num_images // 5} images" if protocol == "coco_1k" else ""
        print(
            f"{preset} on {table.name}: {table.num_images} images, {table.num_captions} captions, protocol "
            f"{protocol}{folds}\n{report(metrics)}"
        )
        report_faults(faults)
    return metrics


def sweep_preset(preset, recipe_path, lengths=None, split=None, overrides=(), data_dir=None, plot=None, verbose=True):
    """Two-stage search of a preset at several lengths of the shortlist, see `keras_itr.evaluation.sweep_k`.

    Args:
        preset, recipe_path, split, overrides, data_dir, verbose: as for `evaluate_preset`.
        lengths: string such as `"10,20/40,50/100"`, captions of an image and images of a caption; None takes the
            method's own lengths alone.
        plot: where to write a picture, or None.

    Returns:
        list of dicts of `sweep_k`.

    Example:

    ```python
    from keras_itr.training import sweep_preset

    sweep_preset("runs/tgdt_flickr8k/best", "recipes/tgdt_flickr8k.yaml", "10,20/40,50/100", data_dir="data")
    ```
    """
    lengths = lengths and parse_lengths(lengths)
    if plot:
        check_plot(plot)
    model, table, faults = _model_and_table(preset, recipe_path, split, overrides, data_dir, verbose)
    if not model.second_stage:
        raise ValueError(f"{preset}: {type(model).__name__} has no second stage whose shortlists could be swept.")
    rows = sweep_k(model, table, lengths or [model.shortlist_lengths()], verbose=verbose)
    if verbose:
        print(f"{preset} on {table.name}: {table.num_images} images, {table.num_captions} captions")
        print(sweep_report(rows))
        report_faults(faults)
    if plot:
        plot_sweep(rows, plot, f"{type(model).__name__} on {table.name}")
    return rows


def _model_and_table(preset, recipe_path, split, overrides, data_dir, verbose):
    registries = default_registries()
    recipe = load_recipe(recipe_path, overrides, registries=registries)
    split = split or recipe.data.test or recipe.data.validation
    model = from_preset(preset, load_weights=True)
    table = load_table(recipe, split, registries, data_dir)
    return model, *prepare_table(recipe, table, split, verbose=verbose)
