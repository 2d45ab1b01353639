"""What an export must pass before it counts as one. A gate that is not passed is an `ExportError`."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_itr.serving.requests import write_requests

ROOM = Path(__file__).parent
TOLERANCE = 1e-5
# A pairwise score sums over words and multiplies the rounding of both encoders by its scale: 9e-6 was seen.
_SCORES = 10
# Of vectors in half precision; random ones would be far below.
_LEAST_COSINE = 0.99
# The weights once, and the index of their names.
_SIZE_TOLERANCE, _SIZE_OF_NAMES = 0.02, 1 << 16


class ExportError(ValueError):
    """An export failed a gate, and was not left behind as a version.

    Example:

    ```python
    from keras_itr.serving import ExportError, export

    try:
        export(model, "exported/model")
    except ExportError as error:
        print(error)
    ```
    """


def check_export(directory, samples, weight_bytes, warmup, tolerance=TOLERANCE, python=sys.executable):
    """Run all gates over a SavedModel.

    1. Its weights are stored once: their file has the size of the weights that are used, within 2 %.
    2. Every operation is one of stock TensorFlow's, and none calls Python or needs XLA.
    3. It loads in a process of TensorFlow alone, with XLA disabled, and answers every signature in batches of 1, 3 and
       8 with awkward captions and images.
    4. The answers equal those of the Keras model.
    5. The warm-up requests parse with TensorFlow Serving's protos, and play.
    6. TensorFlow's C API loads it, and gives the same answer.

    Args:
        directory: folder of the SavedModel.
        samples: `Samples` of the model.
        weight_bytes: int, of the weights that the functions use.
        warmup: path of the file of warm-up requests.
        tolerance: float, largest difference to the Keras model relative to the largest value of an output, at
            least 1; ten times as much for the score of `score_pairs`; None for an export of another precision, whose
            cosines are reported.
        python: the interpreter of the clean process; one of another environment tests another TensorFlow.

    Returns:
        dict of what was measured.

    Raises:
        ExportError: with the gate that failed.

    Example:

    ```python
    import json
    from keras_itr.serving import check_export, make_samples

    with open("exported/model/1/assets.extra/model_card.json") as file:
        size = json.load(file)["gates"]["weight_bytes"]
    warmup = "exported/model/1/assets.extra/tf_serving_warmup_requests"
    check_export("exported/model/1", make_samples(model), size, warmup, python="other_environment/bin/python")
    ```
    """
    directory = Path(directory)
    size = _check_size(directory, weight_bytes)
    with tempfile.TemporaryDirectory() as work:
        checks, output = Path(work) / "checks", Path(work) / "answers.npz"
        batches = list(samples.batches())
        write_requests(checks, [batch[:2] for batch in batches])
        settings = {"directory": str(directory), "requests": [str(checks), str(warmup)], "output": str(output)}
        report = run_script("clean_process.py", settings, python)
        with np.load(output, allow_pickle=False) as stored:
            answers = {key: stored[key] for key in stored.files}
    compared = compare(batches, answers, samples, tolerance)
    report["c_api_difference"] = check_c_api(directory, samples, tolerance)
    return {**report, **compared, "variable_bytes": size, "weight_bytes": weight_bytes}


def compare(batches, answers, samples, tolerance):
    """The largest difference between the answers and the model's own outputs, and the lowest cosine of its vectors."""
    largest, lowest = 0.0, 1.0
    for number, (signature, _, rows) in enumerate(batches):
        for key, expected in samples.outputs[signature].items():
            answer, expected = answers[f"{number}/{key}"], np.asarray(expected)[rows]
            if answer.shape != expected.shape or not np.isfinite(answer.astype("float32")).all():
                raise ExportError(
                    f"{signature}: {key} has shape {answer.shape} or is not finite; {expected.shape} expected."
                )
            difference = _difference(answer, expected)
            factor = _SCORES if (signature, key) == ("score_pairs", "score") else 1
            if tolerance is not None and difference > factor * tolerance:
                raise ExportError(f"{signature}: {key} differs from the Keras model by {difference:.1e}.")
            largest = max(largest, difference)
            if key.endswith(("embedding", "uni_modal")):
                lowest = min(lowest, float((answer * expected).sum(axis=-1).min()))
    if lowest < _LEAST_COSINE:
        raise ExportError(
            f"vectors have a cosine of {lowest:.4f} with those of the Keras model, {_LEAST_COSINE} is needed."
        )
    return {"largest_difference": largest, "lowest_cosine": lowest}


def check_c_api(directory, samples, tolerance=TOLERANCE):
    """The largest difference of the default signature through TensorFlow's C API; None where there is no library."""
    library = _library()
    if library is None:
        return None
    inputs, outputs = _tensor_names(directory, "serving_default")
    rows = {key: np.asarray(value)[:3] for key, value in samples.requests["serving_default"].items()}
    settings = {
        "library": str(library),
        "directory": str(directory),
        "inputs": [{"name": inputs[key], **_flat(value)} for key, value in rows.items()],
        "output": outputs["text_embedding"],
    }
    answer = run_script("c_api.py", settings)
    expected = samples.outputs["serving_default"]["text_embedding"][:3]
    difference = _difference(np.reshape(answer["values"], answer["shape"]), expected)
    if tolerance is not None and difference > tolerance:
        raise ExportError(f"C API: text_embedding differs from the Keras model by {difference:.1e}.")
    return difference


def run_script(name, settings, python=sys.executable):
    """The JSON that a script of this folder prints in a process of its own; its `gate:` line is an `ExportError`."""
    # A script's own folder comes first on its path, where our `requests.py` would be taken for another library.
    with tempfile.TemporaryDirectory() as work:
        script, file = Path(work) / name, Path(work) / "settings.json"
        script.write_bytes((ROOM / name).read_bytes())
        file.write_text(json.dumps(settings))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        finished = subprocess.run([python, str(script), str(file)], capture_output=True, text=True, env=environment)
    if finished.returncode:
        faults = [line[6:] for line in finished.stderr.splitlines() if line.startswith("gate: ")]
        fault = faults[0] if faults else f"the process ended with {finished.returncode}: {finished.stderr[-600:]}"
        raise ExportError(f"the export was rejected: {fault}")
    return json.loads(finished.stdout.splitlines()[-1])


def _check_size(directory, weight_bytes):
    size = sum(file.stat().st_size for file in (directory / "variables").glob("*.data-*"))
    if abs(size - weight_bytes) > max(_SIZE_TOLERANCE * weight_bytes, _SIZE_OF_NAMES):
        raise ExportError(f"the weights take {size:,} bytes and have {weight_bytes:,}: they are not stored once.")
    return size


def _difference(answer, expected):
    answer, expected = answer.astype("float64"), expected.astype("float64")
    return float(np.abs(answer - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0)))


def _library():
    origin = importlib.util.find_spec("tensorflow").origin
    return next(Path(origin).parent.glob("libtensorflow_cc*"), None)


def _tensor_names(directory, signature):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    found = saved.meta_graphs[0].signature_def[signature]
    return ({key: info.name for key, info in part.items()} for part in (found.inputs, found.outputs))


def _flat(array):
    if array.dtype.kind == "O":
        values, dtype = [base64.b64encode(value).decode() for value in array.ravel()], "string"
    else:
        values, dtype = array.ravel().tolist(), str(array.dtype)
    return {"dtype": dtype, "shape": list(array.shape), "values": values}
