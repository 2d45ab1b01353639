from keras_itr.evaluation import check_protocol, evaluate, report, save_report
from keras_itr.models.from_preset import from_preset
from keras_itr.training.builders import load_table, prepare_table, report_faults
from keras_itr.training.recipe import load_recipe
from keras_itr.training.registries import default_registries


def evaluate_preset(
    preset, recipe_path, split=None, overrides=(), data_dir=None, protocol="full", json_path=None, verbose=True
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

    Returns:
        dict of metrics.

    Example:

    ```python
    from keras_itr.training import evaluate_preset

    evaluate_preset("cusa_shapes", "recipes/cusa_shapes.yaml", split="unseen")
    ```
    """
    check_protocol(protocol)
    registries = default_registries()
    recipe = load_recipe(recipe_path, overrides, registries=registries)
    split = split or recipe.data.test or recipe.data.validation
    model = from_preset(preset, load_weights=True)
    table = load_table(recipe, split, registries, data_dir)
    table, faults = prepare_table(recipe, table, split, verbose=verbose)
    metrics = evaluate(model, table, protocol=protocol, verbose=verbose, rerank=True)
    if faults:
        metrics["skipped_images"] = len(faults)
    if json_path:
        save_report(metrics, json_path)
    if verbose:
        print(f"{preset} on {table.name}: {table.num_images} images, {table.num_captions} captions\n{report(metrics)}")
        report_faults(faults)
    return metrics
