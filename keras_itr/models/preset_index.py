"""The presets that have a name: what they are, where their files lie, and how to come by weights that are missing."""

import json
import os
from pathlib import Path

import keras

PACKAGED = Path(__file__).parent.parent / "presets"
INDEX = PACKAGED / "index.json"


def read_index():
    """dict of name to what is known of a preset: its method, recipe, description, parameters, measured recalls."""
    return json.loads(INDEX.read_text(encoding="utf-8"))


def preset_home():
    """`Path` of the folder where weights of named presets are looked for first."""
    return Path(os.environ.get("KERAS_ITR_HOME", Path.home() / ".keras_itr")) / "presets"


def preset_directory(name):
    """`Path` of a named preset: the one under `preset_home()` if it has weights, else that of the package."""
    home = preset_home() / name
    return home if (home / "config.json").is_file() and has_weights(home) else PACKAGED / name


def has_weights(directory):
    """bool: whether a preset directory holds weights, in one file or in several."""
    return any(Path(directory).glob("model*.weights.*"))


def is_retriever(directory):
    """bool: whether a directory is a preset that a retriever of this package wrote."""
    task = Path(directory) / "task.json"
    if not task.is_file():
        return False
    return _registered_name(task).startswith("keras_itr>")


def saved_class(directory):
    """The class of the retriever that wrote a preset directory, see `is_retriever`."""
    return keras.saving.get_registered_object(_registered_name(Path(directory) / "task.json"))


def _registered_name(task):
    return str(json.loads(task.read_text(encoding="utf-8")).get("registered_name"))


def list_presets():
    """The presets by name.

    Returns:
        dict of name to one line: what it is, its method, its parameters (without
        momentum twins and queues, which are for training alone), and whether its
        weights are at hand.

    Example:

    ```python
    import keras_itr

    keras_itr.models.list_presets()["ascl_coco"]
    ```
    """
    return {
        name: f"{entry['description']} Method: {entry['method']}. Parameters: {entry['parameters']:,}. "
        f"Weights: {_weights(name)}."
        for name, entry in read_index().items()
    }


def preset_table():
    """`list_presets()` as a table of text, a line each: name, method, parameters, weights, description.

    Example: `print(keras_itr.models.preset_table())`
    """
    rows = [("name", "method", "parameters", "weights", "what it is")]
    for name, entry in read_index().items():
        parameters = f"{entry['parameters'] / 1e6:.2f} M"
        rows.append((name, entry["method"], parameters, _weights(name), entry["description"]))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def how_to_get_weights(source):
    """One line of commands that train or convert the weights of a preset; general advice for one without a name."""
    entry = read_index().get(source)
    if entry is None:
        return "pass load_weights=False for random ones, or a directory with weights."
    name = entry["recipe"].removesuffix(".yaml")
    train = " ".join([f"python tools/train.py recipes/{entry['recipe']}", *(f"--set {x}" for x in entry["overrides"])])
    place = preset_home() / source
    ways = [
        f"train them, in a clone of the project: {train} --data_dir DATA; then load runs/{name}/best, or copy that "
        f"folder to {place}"
    ]
    if entry["converts"]:
        ways.append(f"convert the authors' checkpoint: python tools/convert.py CHECKPOINT {place} --allow_pickle")
    return f"{'; or '.join(ways)}; or pass load_weights=False for random ones."


def _weights(name):
    return "yes" if has_weights(preset_directory(name)) else "no"
