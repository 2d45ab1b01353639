"""Tiny models of the methods with momentum, and what their tests read out of them."""

import functools

import keras
import numpy as np
from loss_support import unit
from support import draw

from keras_itr.layers import RecurrentTextTower, RegionTower
from keras_itr.models import AAI, CODER, DualEncoderBackbone

FUSION = {"fusion_layers": 1, "fusion_heads": 2, "fusion_hidden_dim": 8, "fusion_intermediate_dim": 16}
GRAPH = {"embeddings": draw(5, 3, seed=9), "propagation": np.eye(5) + 0.1}
UNIFORMS = np.linspace(0.05, 0.95, 8).astype("float32")
# Of the batch's own images and of others; three of twelve slots stay empty.
QUEUE_IDS = np.array([0, 1, *range(20, 27)])


def word_backbone():
    return DualEncoderBackbone(RegionTower(12, 8), RecurrentTextTower(20, 8, word_dim=6))


def word_data(count=8, seed=0):
    """Two captions an image, two to five words between a start and an end token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 8, count)
    token_ids = np.where(np.arange(7) < lengths[:, None], rng.integers(4, 20, (count, 7)), 0)
    token_ids[:, 0] = 2
    token_ids[np.arange(count), lengths - 1] = 3
    return {
        "regions": np.repeat(draw(count // 2, 4, 12, seed=seed), 2, axis=0),
        "region_mask": np.repeat(np.arange(4) < rng.integers(1, 5, (count // 2, 1)), 2, axis=0),
        "token_ids": token_ids.astype("int32"),
        "padding_mask": token_ids != 0,
        "image_id": np.arange(count, dtype="int32") // 2,
    }


def two_views(count=8):
    """`word_data` and a second view of everything."""
    other = word_data(count, seed=5)
    return {**word_data(count), **{f"{key}_view2": other[key] for key in other if key != "image_id"}}


def first_views(data):
    """What the momentum branch reads, under the names of the first view."""
    return {**data, **{key.removesuffix("_view2"): value for key, value in data.items() if key.endswith("_view2")}}


def make_aai(backbone=None, **arguments):
    return AAI(backbone or word_backbone(), **{"queue_size": 12, "fusion_dropout": 0.0, **FUSION, **arguments})


def make_coder(backbone=None, graph=None, **arguments):
    arguments = {"queue_size": 12, "num_prototypes": 4, **arguments}
    return CODER(backbone or word_backbone(), GRAPH if graph is None else graph, **arguments)


def twins(model):
    return [layer for layer in model.training_only_layers() if hasattr(layer, "update")]


def queues(model):
    return [layer for layer in model.training_only_layers() if hasattr(layer, "enqueue")]


def lasting(model):
    """The weights that a preset keeps: no twin, no queue, no switch."""
    left_out = {id(weight) for layer in model.training_only_layers() for weight in layer.weights}
    return [weight for weight in model.weights if id(weight) not in left_out]


def copy_weights(source, target):
    for old, new in zip(lasting(source), lasting(target), strict=True):
        new.assign(array(old))
    for twin in twins(target):
        twin.reset()


def set_apart(model, scale=0.1):
    """Twins that are not their encoders, and queues with entries: a state in the middle of a training."""
    for place, twin in enumerate(twins(model)):
        for index, weight in enumerate(twin.weights):
            if len(weight.shape) and "moving" not in weight.path:
                weight.assign(array(weight) + scale * draw(*weight.shape, seed=100 * place + index))
    for place, queue in enumerate(queues(model)):
        queue.enqueue(unit(9, queue.dim, seed=3 + place), QUEUE_IDS)
    return model


def give_uniforms(model, uniforms=UNIFORMS):
    """AAI draws its negatives by these numbers, in both directions."""
    model.sampler.call = functools.partial(model.sampler.call, uniforms=keras.ops.convert_to_tensor(uniforms))


def hold_statistics(model):
    """The batch normalisation of the image tower stops to follow its batches."""
    model.backbone.image_tower.normalization.momentum = 1.0


def tensors(data):
    return {key: keras.ops.convert_to_tensor(value) for key, value in data.items()}


def array(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(x)))


def arrays(variables):
    return [array(variable) for variable in variables]


def normalised(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def features_and_terms(model, data, training=False):
    """Online features in inference mode, and the objectives, as NumPy arrays."""
    data = tensors(data)
    features = model(data)
    terms = model.objectives(features["image"], features["text"], data, training=training)
    return (
        {side: {key: array(value) for key, value in part.items()} for side, part in features.items()},
        {key: float(array(value)) for key, value in terms.items()},
    )
