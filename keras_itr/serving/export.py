import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_itr.files import folder_written_whole
from keras_itr.models.from_preset import from_preset
from keras_itr.preprocessing.decoding import MAX_PIXELS
from keras_itr.serving.deployment import write_deployment
from keras_itr.serving.gates import TOLERANCE, ExportError, check_export
from keras_itr.serving.model_card import describe, write_card
from keras_itr.serving.openvino_export import write_openvino
from keras_itr.serving.requests import write_requests
from keras_itr.serving.samples import make_samples
from keras_itr.serving.signatures import MAX_BYTES, ServedFunctions

PRECISIONS = {"float32": None, "bfloat16": "mixed_bfloat16"}
WARMUP = "assets.extra/tf_serving_warmup_requests"
CARD = "assets.extra/model_card.json"
_WARMUP_SIZES = (1, 8)
# The images that every export is tried with are that large.
_LEAST = {"max_pixels": 1 << 14, "max_bytes": 1 << 15}


def export(
    model,
    directory,
    version=1,
    precision="float32",
    also=(),
    source=None,
    max_pixels=MAX_PIXELS,
    max_bytes=MAX_BYTES,
    overwrite=False,
    verbose=True,
):
    """Export a retriever for TensorFlow Serving: captions and image bytes in, vectors and scores out.

    A versioned SavedModel with the signatures of `ServedFunctions`, and what runs it: `model.config`,
    `batching.config`, `serve.sh` (Docker), `kubernetes.yaml`, `client.py` (gRPC and REST) and `README.md`. The version
    holds warm-up requests and `model_card.json`. It is written aside, goes through the gates of `check_export`, and
    takes its place when it has passed them all.

    Exports are made under the TensorFlow backend: under another one the model is saved, and a process with TensorFlow
    goes on from there.

    Args:
        model: an `ImageTextRetriever` with weights.
        directory: folder of all versions; its name is the model's name in the server.
        version: int of at least 1.
        precision: `"float32"` (default), or `"bfloat16"`: computed in bfloat16 with float32 weights and unit vectors
            in float32. It is no faster without hardware for it; the cosine that it costs is printed.
        also: sequence of further formats: `"openvino"` writes the two encoders, of token ids and of pixels, into
            `<directory>/openvino/<version>` (extra `openvino`).
        source: where the model came from, a preset's name or folder, for the card.
        max_pixels: int, largest image the server decodes, refused by its header otherwise; default 100 million.
        max_bytes: int, largest encoded image, default 32 MB.
        overwrite: bool, default False: whether the version may be there already.
        verbose: bool, default True: the signatures and what the gates measured.

    Returns:
        dict, the model card.

    Raises:
        ValueError: if the model has no weights, the version is there already, or an argument is wrong.
        ExportError: with the gate that was not passed; nothing is left behind as a version.

    Example:

    ```python
    import keras_itr

    model = keras_itr.models.from_preset("cusa_shapes")
    keras_itr.serving.export(model, "exported/cusa_shapes")
    ```

    Source: the layout of TensorFlow Serving; signatures, gates and limits are our choice.
    """
    also = (also,) if isinstance(also, str) else tuple(also)
    settings = ExportSettings(version, precision, also, source and str(source), max_pixels, max_bytes, overwrite)
    directory = Path(directory).absolute()
    model.require_weights("export")
    _check_precision(model)
    settings.check(directory)
    if keras.backend.backend() == "tensorflow":
        card = write_export(model, directory, make_samples(model), settings, "tensorflow")
    else:
        card = _in_tensorflow(model, directory, settings)
    if verbose:
        print(summary(card, directory))
    return card


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """The settings of an export, which pass from one process to another."""

    version: int
    precision: str
    also: tuple
    source: str | None
    max_pixels: int
    max_bytes: int
    overwrite: bool

    def check(self, directory):
        """Raise a ValueError or ImportError for what would fail after minutes."""
        if isinstance(self.version, bool) or not isinstance(self.version, int) or not 1 <= self.version < 1 << 63:
            raise ValueError(f"version must be an integer of at least 1, received {self.version!r}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", directory.name):
            raise ValueError(
                f"the last folder of {directory} is the model's name in the server: letters of English, digits, "
                "'_', '-' and '.', the first a letter or digit."
            )
        if directory.is_file():
            raise ValueError(f"{directory} is a file; name a folder.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, received {self.precision!r}.")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}.")
        for other in self.also:
            if other != "openvino":
                raise ValueError(f"also must name 'openvino', received {other!r}.")
            if importlib.util.find_spec(other) is None:
                raise ImportError('openvino is not installed: pip install "keras-itr[openvino]".')
        if (directory / str(self.version)).exists() and not self.overwrite:
            raise ValueError(f"{directory / str(self.version)} is there already; name another version, or overwrite.")


def write_export(model, directory, samples, settings, compared_with):
    """`export` under the TensorFlow backend, of a model whose answers to the samples are known.

    Args:
        model, directory: as for `export`.
        samples: `Samples` of the model.
        settings: `ExportSettings`.
        compared_with: string, the backend that gave the samples' answers.

    Returns:
        dict, the model card.
    """
    import tensorflow as tf

    exact = settings.precision == "float32"
    served = model if exact else in_precision(model, PRECISIONS[settings.precision])
    functions = ServedFunctions(served, settings.max_pixels, settings.max_bytes)
    module = functions.module()
    others, version = {}, str(settings.version)
    # Both folders take their places when all gates are passed, or neither.
    with contextlib.ExitStack() as stack:
        if "openvino" in settings.also:
            place = folder_written_whole(directory / "openvino" / version, overwrite=settings.overwrite)
            others["openvino"] = write_openvino(model, samples, stack.enter_context(place))
        aside = stack.enter_context(folder_written_whole(directory / version, overwrite=settings.overwrite))
        tf.saved_model.save(module, str(aside), signatures=functions.functions)
        # A request of each signature and size, of the first rows.
        warmup = [batch[:2] for batch in samples.batches(_WARMUP_SIZES) if batch[2].start == 0]
        write_requests(aside / WARMUP, warmup, directory.name)
        weight_bytes = sum(weight.dtype.size * weight.shape.num_elements() for weight in module.weights)
        measured = check_export(aside, samples, weight_bytes, aside / WARMUP, TOLERANCE if exact else None)
        card = {
            "name": directory.name,
            **dataclasses.asdict(settings),
            **describe(model, functions, samples, settings.source),
            "compared_with": compared_with,
            # Of a running server to the answers of the card, which are the Keras model's.
            "tolerance": max(1e-4, 2 * measured["largest_difference"]),
            "gates": measured,
            **others,
        }
        write_card(card, aside / CARD)
    write_deployment(card, directory)
    return card


def _check_precision(model):
    """Refuse a model that computes in another precision than float32: the export's is chosen by an argument."""
    names = sorted({layer.compute_dtype for layer in model._flatten_layers()} - {"float32"})
    if names:
        raise ValueError(
            f"the model computes in {', '.join(names)}; load it with dtype='float32', and choose the precision of the "
            "export by precision='bfloat16'."
        )


def in_precision(model, policy):
    """A retriever of the same class and weights whose layers compute by another dtype policy."""
    with tempfile.TemporaryDirectory() as work:
        model.save_to_preset(work)
        return type(model).from_preset(work, dtype=policy)


def summary(card, directory):
    """A few lines on an export: its signatures, what the gates measured, and how to go on."""
    gates = card["gates"]
    lines = [f"{directory}/{card['version']}: {card['method']}, {card['parameters']:,} parameters, {card['precision']}"]
    for name, signature in card["signatures"].items():
        sides = (
            ", ".join(f"{key} {spec['dtype']} {spec['shape']}" for key, spec in part.items())
            for part in (signature["inputs"], signature["outputs"])
        )
        lines.append(f"  {name}: {' -> '.join(sides)}")
    lines += [f"  note: {note}" for note in card["notes"]]
    lines.append(
        f"all gates passed: {len(gates['operations'])} stock operations, {sum(gates['requests'])} requests, "
        f"largest difference to the Keras model {gates['largest_difference']:.1e}, lowest cosine "
        f"{gates['lowest_cosine']:.7f}; XLA {'disabled' if gates['xla_disabled'] else 'could not be disabled'}"
    )
    for side, precisions in card.get("openvino", {}).items():
        lines.append(f"openvino {side}: " + ", ".join(f"{key} lowest cosine {x:.7f}" for key, x in precisions.items()))
    lines.append(f"serve it: sh {directory}/serve.sh; ask it: python {directory}/client.py --help")
    return "\n".join(lines)


def _in_tensorflow(model, directory, settings):
    """Save the model and its answers, and export in a process with the TensorFlow backend."""
    samples = make_samples(model)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        model.save_to_preset(work / "preset")
        answers = {f"{name}/{key}": x for name, part in samples.outputs.items() for key, x in part.items()}
        np.savez(work / "answers.npz", **{key: np.asarray(value) for key, value in answers.items()})
        job = {"directory": str(directory), "backend": keras.backend.backend(), **dataclasses.asdict(settings)}
        (work / "job.json").write_text(json.dumps(job))
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "keras_itr.serving.export_process", str(work)]
        finished = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    if finished.returncode:
        faults = [line[7:] for line in finished.stderr.splitlines() if line.startswith("error: ")]
        raise ExportError(faults[0] if faults else f"the TensorFlow process failed: {finished.stderr[-1500:]}")
    return json.loads((directory / str(settings.version) / CARD).read_text(encoding="utf-8"))


def export_saved(work):
    """The other half of `export` under another backend: read what it saved in the folder `work`, and export."""
    work = Path(work)
    job = json.loads((work / "job.json").read_text())
    directory, backend = Path(job.pop("directory")), job.pop("backend")
    model = from_preset(work / "preset", load_weights=True)
    samples = make_samples(model)
    with np.load(work / "answers.npz", allow_pickle=False) as stored:
        outputs = {name: {key: stored[f"{name}/{key}"] for key in part} for name, part in samples.outputs.items()}
    # Equality is asked for with the model as it was trained.
    samples = dataclasses.replace(samples, outputs=outputs)
    write_export(model, directory, samples, ExportSettings(**job), backend)
