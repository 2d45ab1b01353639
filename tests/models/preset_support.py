"""Named presets in sizes that build in a second, and inputs for them."""

import json
import shutil

import numpy as np

from keras_itr.data import load_shapes
from keras_itr.models.preset_index import PACKAGED, read_index
from keras_itr.training.smoke import TINY

RECIPES = PACKAGED.parent.parent / "recipes"
TRAINED = [name for name, entry in read_index().items() if entry["test"]]
ARCHITECTURES = [name for name, entry in read_index().items() if not entry["test"]]
CAPTIONS = ["Two dogs, one BLACK.", "a café"]


def small_preset(name, directory):
    """A copy of an architecture preset with the sizes of a smoke run; vocabulary, regions and graph stay."""
    shutil.copytree(PACKAGED / name, directory)
    for file in ("config.json", "task.json"):
        config = json.loads((directory / file).read_text())
        (directory / file).write_text(json.dumps(_small(config)))
    return directory


def _small(value, key=None):
    if isinstance(value, dict):
        return {key: _small(item, key) for key, item in value.items()}
    return TINY[key] if isinstance(value, int) and TINY.get(key) else value


def two_images(model):
    if model.backbone.image_tower.input_key == "images":
        return list(load_shapes("test", num_scenes=2).image_columns["images"])
    boxes = np.tile(np.array([0.1, 0.2, 0.6, 0.8], "float32"), (2, 36, 1))
    return {"regions": np.random.default_rng(0).normal(size=(2, 36, 2048)).astype("float32"), "region_boxes": boxes}
