"""A checked recipe to the things it names: tables, preprocessor, model, pipeline."""

import inspect
import os

from keras_itr.data import RandomShift, RetrievalTable, TrainingPipeline
from keras_itr.models import DualEncoderBackbone
from keras_itr.models.encoding import side_columns
from keras_itr.preprocessing import RetrievalPreprocessor

TEACHER_TERMS = {"csa", "usa"}


def load_table(recipe, split, registries, data_dir=None):
    """The `RetrievalTable` of one split; a reader's `directory` is relative to `data_dir`."""
    reader = registries.readers[recipe.data.source]
    arguments = dict(recipe.data.arguments)
    if "directory" in arguments:
        arguments["directory"] = os.path.join(data_dir or "", arguments["directory"])
    return reader(split=split, **arguments)


def build_model(recipe, table, registries):
    """The recipe's retriever with fresh weights.

    Widths that follow from the data are taken from there: the feature widths
    from the table, the vocabulary from its captions, the image size from the
    image converter.

    Args:
        recipe: a `Recipe`.
        table: the training `RetrievalTable`.
        registries: a `Registries`.

    Returns:
        An `ImageTextRetriever`.
    """
    model = recipe.model
    tokenizer = _build_tokenizer(model.tokenizer, table, registries)
    converter = model.image_converter and registries.image_converter(**model.image_converter)
    image_tower = _build_tower(
        model.image_tower,
        registries.image_towers,
        feature_dim=_width(table.image_columns, "regions"),
        image_size=converter and converter.image_size,
    )
    text_tower = _build_tower(
        model.text_tower,
        registries.text_towers,
        feature_dim=_width(table.caption_columns, "text_features"),
        vocabulary_size=tokenizer and tokenizer.vocabulary_size(),
        sequence_length=tokenizer and tokenizer.sequence_length,
    )
    return registries.methods[model.method](
        DualEncoderBackbone(image_tower, text_tower, model.embedding_dim),
        preprocessor=RetrievalPreprocessor(tokenizer, converter) if tokenizer or converter else None,
        plugins=[registries.plugins[plugin.type](**plugin.arguments) for plugin in model.plugins],
        **model.arguments,
    )


def build_pipeline(recipe, model, table):
    """The training pipeline of `table`, with only the columns that `model` reads."""
    image_columns = side_columns(model.backbone.image_tower, table.image_columns)
    caption_columns = side_columns(model.backbone.text_tower, table.caption_columns)
    if TEACHER_TERMS & set(model.term_weights):
        for columns, source, key in (
            (image_columns, table.image_columns, "teacher_image"),
            (caption_columns, table.caption_columns, "teacher_text"),
        ):
            if key not in source:
                raise ValueError(f"{table.name}: soft-label alignment needs {key!r}; name its file as data.{key}.")
            columns[key] = source[key]
    used = RetrievalTable(
        image_columns, caption_columns, table.caption_to_image, table.image_ids, table.image_names, name=table.name
    )
    return TrainingPipeline(
        used,
        recipe.run.batch_size,
        model.preprocessor,
        seed=recipe.run.seed,
        captions_per_image=recipe.data.captions_per_image,
        augmentations=[RandomShift(recipe.data.random_shift)] if recipe.data.random_shift else [],
    )


def _build_tokenizer(component, table, registries):
    if component is None:
        return None
    cls, arguments = registries.tokenizers[component.type], component.arguments
    if "vocabulary" in arguments:
        return cls(**arguments)
    return cls.from_captions(table.captions, min_count=component.min_count, max_size=component.max_size, **arguments)


def _build_tower(component, registry, **derived):
    """A tower from its arguments in the recipe and those that follow from the data."""
    cls = registry[component.type]
    taken = inspect.signature(cls.__init__).parameters
    needed = {name: value for name, value in derived.items() if name in taken}
    for name, value in needed.items():
        if value is None:
            raise ValueError(f"{component.type} tower: {SOURCES[name]}")
    return cls(**component.arguments, **needed)


SOURCES = {
    "feature_dim": "the data has no features for it; choose another tower or name the features under data.",
    "image_size": "pixels need model.image_converter with an image_size.",
    "vocabulary_size": "words need model.tokenizer.",
    "sequence_length": "words need model.tokenizer.",
}


def _width(columns, key):
    return columns[key].shape[-1] if key in columns else None
