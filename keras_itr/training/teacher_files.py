"""The files of CUSA's teachers that a recipe names, and the command that makes them."""

import os
import shlex

from keras_itr.data.file_pattern import FilePattern

# Encoders that anybody can have: a preset of keras-hub and a network of Keras, both downloaded when first used.
_ENCODERS = {"text": "all_minilm_l6_v2_en", "image": "MobileNetV2"}


def teacher_files(data, split, data_dir=None):
    """The teachers' files that a recipe's `data` section names.

    Args:
        data: the `data` section of a `Recipe`.
        split: string.
        data_dir: folder that `data.directory` is relative to.

    Returns:
        dict of `"text"` and `"image"` to `Path`, those of them that are one file.
    """
    arguments = data.arguments
    directory = os.path.join(data_dir or "", arguments.get("directory", ""))
    files = {}
    for side in _ENCODERS:
        pattern = arguments.get(f"teacher_{side}")
        if pattern is not None:
            pattern = FilePattern(f"teacher_{side}", pattern, directory, split)
            files.update({} if pattern.per_image else {side: pattern.path})
    return files


def teacher_remedy(recipe, recipe_path, overrides=(), data_dir=None):
    """One sentence with the command that makes the training teachers which are not there; None if none is missing.

    Args:
        recipe: a `Recipe`.
        recipe_path: where it was read from.
        overrides: sequence of `"dotted.key=value"` it was read with.
        data_dir: folder that `data.directory` is relative to.
    """
    files = teacher_files(recipe.data, recipe.data.train, data_dir)
    absent = [side for side, path in files.items() if not path.is_file()]
    if not absent:
        return None
    command = ["python", "tools/make_teachers.py", str(recipe_path)]
    command += ["--data_dir", str(data_dir)] if data_dir else []
    for override in overrides:
        command += ["--set", override] if override.startswith("data.") else []
    for side in absent:
        command += [f"--{side}_encoder", _ENCODERS[side]]
    needs_photos = "image" in absent and "images" not in recipe.data.arguments
    command += ["--images", "PHOTOS"] if needs_photos else []
    meaning = ", where PHOTOS is the folder of the photos" if needs_photos else ""
    return f"Teachers are made by: {shlex.join(command)}{meaning}."
