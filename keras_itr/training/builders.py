"""A checked recipe to the things it names: tables, preprocessor, model, pipeline."""

import os

from keras_itr.data import (
    AsymmetryPositives,
    ConceptGraph,
    RandomFlip,
    RandomShift,
    RegionDropout,
    RetrievalTable,
    ShuffleWords,
    TrainingPipeline,
    WordDropout,
    prepare_photos,
)
from keras_itr.data.missing_data import MissingData
from keras_itr.models import DualEncoderBackbone
from keras_itr.models.encoding import side_columns
from keras_itr.models.initial_weights import load_initial_weights
from keras_itr.preprocessing import RetrievalPreprocessor
from keras_itr.preprocessing.bert_vocabulary import BERT_UNCASED
from keras_itr.training.recipe_checks import parameters_of
from keras_itr.training.recipe_loading import RecipeError

TEACHER_TERMS = {"csa", "usa"}
MODEL_FILES = (
    ("image_tower", "pca"),
    ("image_tower", "weights"),
    ("text_tower", "weights"),
    ("tokenizer", "vocabulary"),
)


def with_files(recipe, data_dir=None):
    """The recipe with the files that its model starts from as paths, and which of them are missing.

    These are the `weights` and `pca` of a tower, the `vocabulary` of a tokenizer and the `graph` of a method. Weights
    are a path if they end in `.h5` or have a `/`; other names, and handles such as `hf://...`, are left to the library
    that knows them. The vocabulary `bert_uncased` comes with the package.

    Args:
        recipe: a `Recipe`.
        data_dir: folder that relative paths start from.

    Returns:
        `(recipe, missing)`; `missing` is a list of one line for each file or folder that is not there.
    """
    sections, missing = {}, []
    for section, key in MODEL_FILES:
        component = sections.get(section, getattr(recipe.model, section))
        value = component and component.arguments.get(key)
        if not _is_path(key, value):
            continue
        path = os.path.join(data_dir or "", value)
        sections[section] = component.model_copy(update={key: path})
        is_folder = key == "weights" and not value.endswith(".h5")
        if not (os.path.isdir if is_folder else os.path.isfile)(path):
            kind = "folder" if is_folder else "file"
            missing.append(f"{path}: no such {kind}; model.{section}.{key} names it, relative to --data_dir.")
    graph = recipe.model.arguments.get("graph")
    if graph is not None:
        path = os.path.join(data_dir or "", graph)
        sections["arguments"] = {**recipe.model.arguments, "graph": path}
        if not os.path.isfile(path):
            missing.append(f"{path}: no such file; model.arguments.graph names it, relative to --data_dir.")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=sections)}), missing


def _is_path(key, value):
    if not isinstance(value, str) or (key == "vocabulary" and value == BERT_UNCASED):
        return False  # numbers, a list of words, or what comes with the package
    if key == "weights":
        return value.endswith(".h5") or ("/" in value and "://" not in value)
    return True


def load_table(recipe, split, registries, data_dir=None, training=False, missing=(), remedy=None):
    """One split of a recipe's data.

    Args:
        recipe: a `Recipe`.
        split: string.
        registries: a `Registries`.
        data_dir: folder that `data.directory` is relative to.
        training: bool: teachers are read.
        missing: lines about further files that are not there; named together with what this table lacks.
        remedy: string, what to do about them, if that is known.

    Returns:
        A `RetrievalTable`.

    Raises:
        MissingData: names all files that are not there, `remedy` and `data.origin`.
        ValueError: with one line, if the data do not do.
    """
    data = recipe.data
    reader = registries.readers[data.source]
    arguments = dict(data.arguments)
    if "directory" in arguments:
        arguments["directory"] = os.path.join(data_dir or "", arguments["directory"])
    if not training:
        # Targets of training alone: validation and test do without their files.
        arguments = {key: value for key, value in arguments.items() if not key.startswith("teacher_")}
    missing = list(missing)
    try:
        table = reader(split=split, **arguments)
    except MissingData as error:
        missing.insert(0, str(error))
    if missing:
        raise MissingData(" ".join(filter(None, [*missing, remedy, data.origin])))
    return table


def prepare_table(recipe, table, split, data_dir=None, training=False, verbose=True):
    """A table whose photos can all be decoded.

    Args:
        recipe: a `Recipe`.
        table: the `RetrievalTable` of `split`.
        split: string, for the line of counts.
        data_dir: folder that `data.cache` is relative to.
        training: bool: the photos may come from the cache.
        verbose: bool, a line of counts, and a progress bar on work over two seconds.

    Returns:
        `(table, faults)`, see `keras_itr.data.prepare_photos`.
    """
    data = recipe.data
    cache = os.path.join(data_dir or "", data.cache) if training and data.cache else None
    table, faults = prepare_photos(table, data.on_error, cache, data.shorter_side, verbose)
    if verbose:
        left_out = f"; {len(faults)} broken photos left out" if faults else ""
        print(f"{split}: {table.summary()}{left_out}")
    return table, faults


def report_faults(faults):
    """Print what is wrong with the photos that were left out, a line each."""
    if faults:
        print(f"{len(faults)} broken photos were left out:", *faults.values(), sep="\n  ")


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
    converter = _build_converter(model, registries)
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
    backbone = DualEncoderBackbone(image_tower, text_tower, model.embedding_dim)
    if isinstance(model.initial_weights, str):
        load_initial_weights(backbone, model.initial_weights)
    else:
        for tower, preset in (model.initial_weights or {}).items():
            load_initial_weights(backbone, preset, sides=(tower.removesuffix("_tower"),))
    method, arguments = registries.methods[model.method], dict(model.arguments)
    if "graph" in parameters_of(method) and arguments.get("graph") is None:
        arguments["graph"] = ConceptGraph.from_captions(table.captions)
    if "image_global_dim" in parameters_of(method) and "image_global" in table.image_columns:
        arguments.setdefault("image_global_dim", _width(table.image_columns, "image_global"))
    return method(
        backbone,
        preprocessor=RetrievalPreprocessor(tokenizer, converter) if tokenizer or converter else None,
        plugins=[registries.plugins[plugin.type](**plugin.arguments) for plugin in model.plugins],
        **arguments,
    )


def build_pipeline(recipe, model, table):
    """The training pipeline of `table`, with only the columns that `model` reads."""
    image_columns = side_columns(model.backbone.image_tower, table.image_columns)
    caption_columns = side_columns(model.backbone.text_tower, table.caption_columns)
    if model.backbone.image_tower.takes_global_row:
        # An error here, where none of the work has begun, if there are neither boxes nor a grid.
        model.backbone.image_tower.boxes_of({key: column[:1] for key, column in image_columns.items()})
    if TEACHER_TERMS & set(model.term_weights):
        for columns, source, key in (
            (image_columns, table.image_columns, "teacher_image"),
            (caption_columns, table.caption_columns, "teacher_text"),
        ):
            if key not in source:
                raise ValueError(
                    f"{table.name}: soft-label alignment needs {key!r}; name its file as data.{key}, "
                    "and tools/make_teachers.py writes it."
                )
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
        augmentations=_build_augmentations(recipe.data, model, recipe.run.seed),
        random_crop=recipe.data.random_crop,
        shorter_side=recipe.data.shorter_side,
        second_view=recipe.data.second_view,
        positives=_build_positives(recipe.data, model, recipe.run.seed),
    )


def _build_positives(data, model, seed):
    """The maker of further positive captions that a recipe's `data` section asks for, or None."""
    if not data.positives:
        return None
    _read_tokenizer(model, "positives", "[]")
    return AsymmetryPositives(data.positives, seed=seed)


def _build_augmentations(data, model, seed):
    """The augmentations that a recipe's `data` section asks for."""
    augmentations = []
    if data.random_shift:
        augmentations.append(RandomShift(data.random_shift))
    if data.random_flip:
        augmentations.append(RandomFlip())
    if data.region_dropout:
        if model.backbone.image_tower.input_key != "regions":
            raise RecipeError("data.region_dropout: the image tower reads no regions; set it to 0.")
        augmentations.append(RegionDropout(data.region_dropout))
    # Before words are dropped: negatives are made of the whole caption.
    if data.shuffled_negatives:
        augmentations.append(ShuffleWords(_read_tokenizer(model, "shuffled_negatives", "false"), seed))
    if data.word_dropout:
        augmentations.append(WordDropout(_read_tokenizer(model, "word_dropout", "0"), data.word_dropout))
    return augmentations


def _read_tokenizer(model, key, off):
    """The tokenizer whose tokens the text tower reads; without one, `data.<key>` is an error that `off` mends."""
    tokenizer = getattr(model.preprocessor, "tokenizer", None)
    if tokenizer is None or model.backbone.text_tower.input_key != "token_ids":
        raise RecipeError(f"data.{key}: needs model.tokenizer and a text tower that reads its tokens; set it to {off}.")
    return tokenizer


def _build_tokenizer(component, table, registries):
    if component is None:
        return None
    cls, arguments = registries.tokenizers[component.type], component.arguments
    vocabulary = arguments.pop("vocabulary", None)
    if _is_path("vocabulary", vocabulary):
        tokenizer = cls(**arguments)
        tokenizer.load_vocabulary(vocabulary)
        return tokenizer
    if vocabulary is not None:
        return cls(vocabulary, **arguments)
    if not hasattr(cls, "from_captions"):
        return cls(**arguments)
    limit = {} if component.max_size is None else {"max_size": component.max_size}
    return cls.from_captions(table.captions, min_count=component.min_count, **limit, **arguments)


def _build_converter(model, registries):
    """The image converter; a pretrained network tells the scaling of its pixels where the recipe does not."""
    if model.image_converter is None:
        return None
    tower = registries.image_towers[model.image_tower.type]
    # A class, or one of its constructors.
    defaults = getattr(getattr(tower, "__self__", tower), "converter_defaults", None)
    scaling = defaults(model.image_tower.arguments) if defaults else {}
    return registries.image_converter(**{**scaling, **model.image_converter})


def _build_tower(component, registry, **derived):
    """A tower from its arguments in the recipe and those that follow from the data."""
    cls = registry[component.type]
    taken = parameters_of(cls)
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
