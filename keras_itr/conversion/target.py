"""Where a preset may be written: never over what is not a preset, nor over what it is made of."""

import json
import pathlib

REPORT = "conversion.json"


def check_target(target, inputs, overwrite):
    """Raises ValueError if a preset must not be written to `target`.

    Args:
        target: path of the folder to write.
        inputs: paths of what is read, files and folders; None and what is not there are passed over.
        overwrite: bool: whether a preset that is there may be replaced. Nothing else ever is.
    """
    path = pathlib.Path(target)
    for name in filter(None, inputs):
        given = pathlib.Path(name)
        if given.exists() and _overlap(given.resolve(), path.resolve()):
            raise ValueError(
                f"{target}: the preset is to be written to a folder of its own, and {name} is this folder, lies in it "
                "or holds it; choose another folder."
            )
    if overwrite and path.is_dir() and any(path.iterdir()) and not is_preset(path):
        raise ValueError(
            f"{target}: overwrite replaces a preset alone, and this folder holds no {REPORT} of a conversion and no "
            "config.json and task.json of this package; choose another folder, or empty this one yourself."
        )


def _overlap(one, other):
    return one == other or one in other.parents or other in one.parents


def is_preset(folder):
    """Whether a folder holds what `convert` writes, or a model that this package saved."""
    if {"source", "kind", "tensors"} <= _content(folder / REPORT).keys():
        return True
    task = str(_content(folder / "task.json").get("registered_name"))
    return (folder / "config.json").is_file() and task.startswith("keras_itr>")


def _content(path):
    """The dict in a JSON file, empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
