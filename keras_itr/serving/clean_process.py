"""Load and run an export as a server does: in a process that knows TensorFlow alone, with XLA disabled.

`python clean_process.py SETTINGS`, a JSON file of `directory`, `requests` (files of `PredictionLog`s) and `output`: the
answers of the first requests file go there as `.npz`, `<number of the request>/<output>`. A fault is one line on the
error stream that begins with `gate:`, and the exit code 1.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

BLOCKED = ("keras", "keras_hub", "keras_itr", "tensorflow_text", "jax", "torch")
# Operations of stock TensorFlow that no export of ours holds, and why it must not.
REFUSED = {
    "PyFunc": "calls Python",
    "PyFuncStateless": "calls Python",
    "EagerPyFunc": "calls Python",
    "ReadFile": "reads files of the server",
    "WriteFile": "writes files of the server",
    "MutableHashTableV2": "grows with every request",
    "MutableDenseHashTableV2": "grows with every request",
    "XlaLaunch": "needs XLA",
    "XlaCallModule": "needs XLA",
}


def check_operations(directory):
    """The sorted names of all operations; raises unless a stock server runs them without XLA."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.framework import op_def_registry

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((Path(directory) / "saved_model.pb").read_bytes())
    names = set()
    for graph in saved.meta_graphs:
        library = graph.graph_def.library.function
        called = {function.signature.name for function in library}
        for function in library:
            if function.attr["_XlaMustCompile"].b:
                raise SystemExit(f"gate: function {function.signature.name} must be compiled by XLA; build it without.")
        for node in (*graph.graph_def.node, *(node for function in library for node in function.node_def)):
            if node.op in called:
                continue
            if node.op in REFUSED or node.op.startswith("Xla"):
                raise SystemExit(f"gate: operation {node.op} ({node.name}) {REFUSED.get(node.op, 'needs XLA')}.")
            if op_def_registry.get(node.op) is None:
                raise SystemExit(f"gate: operation {node.op} ({node.name}) is none of stock TensorFlow's.")
            if node.attr["_XlaMustCompile"].b:
                raise SystemExit(f"gate: {node.name} must be compiled by XLA; build it without.")
            names.add(node.op)
    return sorted(names)


def disable_xla(tensorflow):
    """What TensorFlow Serving does when it starts."""
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        path = Path(tensorflow.__file__).parent / name
        if path.exists():
            ctypes.CDLL(str(path))._ZN10tensorflow21DisableXlaCompilationEv()
            return True
    return False


def replay(module, path, tensorflow):
    """Run all requests of a file; yields the dict of outputs of each, as NumPy arrays."""
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tensorflow.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {key: tensorflow.constant(tensorflow.make_ndarray(value)) for key, value in request.inputs.items()}
        outputs = module.signatures[request.model_spec.signature_name](**inputs)
        yield {key: value.numpy() for key, value in outputs.items()}


def main(settings):
    sys.modules.update(dict.fromkeys(BLOCKED))
    import numpy as np
    import tensorflow as tf

    operations = check_operations(settings["directory"])
    xla_disabled = disable_xla(tf)
    try:
        started = time.perf_counter()
        module = tf.saved_model.load(settings["directory"])
        seconds, answers, counts = time.perf_counter() - started, {}, []
        for path in settings["requests"]:
            results = list(replay(module, path, tf))
            counts.append(len(results))
            if path == settings["requests"][0]:
                answers = {f"{number}/{key}": x for number, row in enumerate(results) for key, x in row.items()}
    except Exception as error:
        raise SystemExit(f"gate: {type(error).__name__}: {' '.join(str(error).split())[:600]}") from error
    np.savez(settings["output"], **answers)
    report = {"operations": operations, "xla_disabled": xla_disabled, "load_seconds": seconds, "requests": counts}
    print(json.dumps({**report, "tensorflow": tf.__version__}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
