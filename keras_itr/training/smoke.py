"""Any recipe in seconds: the same keys, tiny towers, generated stand-in data, two steps."""

import numpy as np

from keras_itr.data import RetrievalTable, load_shapes
from keras_itr.data.hashing import hash64
from keras_itr.training.recipe_checks import parameters_of

STEPS, BATCH_SIZE, IMAGES, WIDTH, REGIONS = 2, 2, 6, 12, 5
# Sizes, by the name they have in any tower or method.
TINY = {
    "embedding_dim": 8,
    "hidden_dim": 8,
    "word_dim": 8,
    "intermediate_dim": 16,
    "num_layers": 1,
    "trainable_layers": 1,
    "num_heads": 2,
    "position_dim": 8,
    "queue_size": 8,
    "num_prototypes": 4,
    "fusion_layers": 1,
    "fusion_heads": 2,
    "fusion_hidden_dim": 8,
    "fusion_intermediate_dim": 16,
    "rerank_top_k": 2,
    "top_k_image_to_text": 2,
    "top_k_text_to_image": 2,
    "local_layers": 1,
    "global_layers": 1,
    # What is read from files elsewhere, and what belongs to a map of another size.
    "weights": None,
    "pca": None,
    "grid": None,
}


def smoke_recipe(recipe, registries):
    """The recipe with tiny sizes and two steps of two pairs; nothing else changes."""
    model, run = recipe.model, recipe.run
    towers = {}
    for side, registry in (("image_tower", registries.image_towers), ("text_tower", registries.text_towers)):
        tower = getattr(model, side)
        sizes = _tiny(registry[tower.type], tower.arguments)
        towers[side] = tower.model_copy(update={**tower.arguments, **sizes})
    arguments = {**model.arguments, **_tiny(registries.methods[model.method], model.arguments)}
    # A graph is made of the stand-in captions.
    arguments.pop("graph", None)
    converter = model.image_converter and {**model.image_converter, "image_size": [64, 64]}
    return recipe.model_copy(
        update={
            "model": model.model_copy(
                update={
                    **towers,
                    "embedding_dim": TINY["embedding_dim"],
                    "arguments": arguments,
                    "tokenizer": _without_file(model.tokenizer),
                    "image_converter": converter,
                    "initial_weights": None,
                }
            ),
            "run": run.model_copy(update={**_epochs(run), "batch_size": BATCH_SIZE, "checkpoint_steps": 1}),
        }
    )


def smoke_table():
    """Six generated images with captions, and every column that a recipe's data could have."""
    shapes = load_shapes("train", num_scenes=IMAGES)
    captions = shapes.num_captions
    return RetrievalTable(
        {
            "images": shapes.image_columns["images"],
            "regions": _noise("regions", IMAGES, REGIONS, WIDTH),
            "region_boxes": np.tile(np.array([0.1, 0.2, 0.6, 0.8], "float32"), (IMAGES, REGIONS, 1)),
            "teacher_image": _noise("teacher_image", IMAGES, WIDTH),
        },
        {
            "text": shapes.captions,
            "text_features": _noise("text_features", captions, WIDTH),
            "teacher_text": _noise("teacher_text", captions, WIDTH),
        },
        shapes.caption_to_image,
        name="smoke",
    )


def _epochs(run):
    """One epoch, or one of each training stage."""
    stages = [stage.model_copy(update={"epochs": 1}) for stage in run.stages]
    return {"epochs": len(stages) or 1, "stages": stages}


def _tiny(cls, arguments):
    known = parameters_of(cls)
    sizes = {name: size for name, size in TINY.items() if name in known}
    if "filters" in known:
        # The last ones are local features, which some methods compare with embeddings.
        sizes["filters"] = [*[4] * (len(arguments.get("filters", (0, 0))) - 1), TINY["embedding_dim"]]
    return sizes


def _without_file(tokenizer):
    """The tokenizer with a vocabulary of the captions in place of one from a file."""
    if tokenizer is None or not isinstance(tokenizer.arguments.get("vocabulary"), str):
        return tokenizer
    return tokenizer.model_copy(update={"vocabulary": None})


def _noise(name, *shape):
    bits = hash64("smoke", name, np.arange(int(np.prod(shape))))
    return (bits.astype("float64") / 2**63 - 1).astype("float32").reshape(shape)
