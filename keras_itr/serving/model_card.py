"""What an export says about itself: `model_card.json`, and the same to read as `README.md`."""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np

import keras_itr
from keras_itr.files import written_whole
from keras_itr.models.preset_index import preset_directory, read_index


def describe(model, functions, samples, source):
    """What a model card says of a model, a dict that JSON can hold.

    Args:
        model: the `ImageTextRetriever`.
        functions: its `ServedFunctions`.
        samples: its `Samples`.
        source: string, a preset's name or folder, or None.

    Returns:
        dict.
    """
    import tensorflow as tf

    return {
        "method": type(model).__name__,
        "score": "dot product of the vectors" if not model.second_stage else "second stage, see score_pairs",
        "parameters": int(sum(np.prod(weight.shape) for weight in functions.module().weights)),
        **_training(source),
        "keras_itr": keras_itr.__version__,
        "tensorflow": tf.__version__,
        "image": _image_rules(model),
        "text": _text_rules(model),
        "signatures": {name: _signature(functions, name) for name in functions.functions},
        "notes": _notes(functions),
        "self_check": _self_check(samples),
    }


def write_card(card, path):
    """Write a model card as JSON."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def signature_table(card):
    """The signatures of a card as a Markdown table."""
    rows = ["| signature | inputs | outputs |", "|---|---|---|"]
    for name, signature in card["signatures"].items():
        cells = (
            "<br>".join(f"`{key}` {spec['dtype']} {_shape(spec['shape'])}" for key, spec in part.items())
            for part in (signature["inputs"], signature["outputs"])
        )
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _shape(shape):
    return f"({', '.join('?' if size is None else str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def _signature(functions, name):
    return {
        "inputs": {key: _spec(spec) for key, spec in functions.inputs[name].items()},
        "outputs": {key: _spec(x) for key, x in functions.functions[name].structured_outputs.items()},
    }


def _spec(spec):
    return {"dtype": spec.dtype.name, "shape": [None, *spec.shape.as_list()[1:]]}


def _notes(functions):
    notes = []
    if functions.image_name == "regions":
        notes.append(
            "the model reads features of image regions, not photos: embed_regions stands in place of embed_image, and "
            "whoever asks brings the features. keras_itr.models.with_grid_features makes a model of photos of it."
        )
    if functions.text_name == "text_features":
        notes.append("the model reads ready sentence vectors: embed_text_features stands in place of embed_text.")
    if functions.text_name == "tokens":
        notes.append("the model has no tokenizer: embed_tokens stands in place of embed_text.")
    return notes


def _image_rules(model):
    converter = getattr(model.preprocessor, "image_converter", None)
    if converter is None:
        return None
    keys = ("image_size", "interpolation", "antialias", "crop_to_aspect_ratio", "scale", "offset")
    return {key: getattr(converter, key) for key in keys}


def _text_rules(model):
    tokenizer = getattr(model.preprocessor, "tokenizer", None)
    if tokenizer is None:
        return None
    digest = hashlib.sha256("\n".join(tokenizer.get_vocabulary()).encode()).hexdigest()
    return {
        "tokenizer": type(tokenizer).__name__,
        "sequence_length": tokenizer.sequence_length,
        "vocabulary_size": tokenizer.vocabulary_size(),
        "vocabulary_sha256": digest,
    }


def _training(source):
    """Recipe and metrics, as far as the preset's index or the run folder around it know them."""
    if source is None:
        return {"recipe": None, "recipe_sha256": None, "metrics": None}
    entry, run = read_index().get(source), Path(source).parent
    if entry is not None:
        card = {"recipe": entry["recipe"], "metrics": entry["test"]}
        return {**card, "recipe_sha256": None, "preset_directory": str(preset_directory(source).name)}
    recipe, metrics = run / "recipe.yaml", run / "metrics.json"
    if not (Path(source) / "config.json").is_file() or not recipe.is_file():
        return {"recipe": None, "recipe_sha256": None, "metrics": None}
    return {
        "recipe": run.name,
        "recipe_sha256": hashlib.sha256(recipe.read_bytes()).hexdigest(),
        "metrics": json.loads(metrics.read_text()) if metrics.is_file() else None,
    }


def _self_check(samples):
    """A request of either side and its answer: what a client can ask a running server."""
    checks = {}
    for signature in [name for name in samples.requests if name.startswith("embed_") and "uni_modal" not in name]:
        inputs = {key: _json(np.asarray(column)[:1]) for key, column in samples.requests[signature].items()}
        outputs = {key: np.asarray(x)[:1].tolist() for key, x in samples.outputs[signature].items()}
        checks[signature] = {"inputs": inputs, "outputs": outputs}
    return checks


def _json(array):
    """Values as TensorFlow Serving's REST interface takes them: bytes as base64."""
    if array.dtype.kind != "O":
        return array.tolist()
    return [{"b64": base64.b64encode(value).decode()} for value in array]
