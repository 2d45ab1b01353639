"""A hierarchical similarity with the weights of an AsCL fixture, and random inputs of one."""

import numpy as np
from support import draw

from keras_itr.layers import HierarchicalSimilarity

PROJECTIONS = ("image_projection", "context_projection", "gate", "text_projection")
WEIGHTS = tuple(f"{layer}_{kind}" for kind in ("kernel", "bias") for layer in PROJECTIONS)
LAYER_SETTINGS = ("num_heads", "local_weight", "conditioning")


def similarity_of(case, settings):
    """The layer of a fixture; `variables_of` gives its variables in the order of `WEIGHTS`."""
    options = {name: settings[name] for name in LAYER_SETTINGS}
    layer = HierarchicalSimilarity(case["regions"].shape[-1], **options)
    layer.build(case["regions"].shape, case["words"].shape, case["image_global"].shape)
    for variable, name in zip(variables_of(layer), WEIGHTS, strict=True):
        variable.assign(case[name])
    return layer


def variables_of(layer):
    return [getattr(getattr(layer, name.rsplit("_", 1)[0]), name.rsplit("_", 1)[1]) for name in WEIGHTS]


def unit_regions(*shape, seed=0):
    """Random regions of length one."""
    regions = draw(*shape, seed=seed)
    return regions / np.linalg.norm(regions, axis=-1, keepdims=True)


def holes(*shape, seed=0, share=0.6):
    """A random mask with at least one valid position in every row."""
    mask = np.random.default_rng(seed).random(shape) < share
    mask[..., 1] |= ~mask.any(axis=-1)
    return mask
