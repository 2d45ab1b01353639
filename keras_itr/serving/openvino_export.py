"""The two encoders of a retriever in OpenVINO's format, for processors whose bfloat16 is fast."""

import tempfile

import numpy as np

from keras_itr.messages import one_line
from keras_itr.models.encoding import COMPANIONS
from keras_itr.serving.signatures import signature_name

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def write_openvino(model, samples, directory):
    """Write `image.xml` and `text.xml`, from a tower's inputs to unit vectors, and compare them with the model.

    OpenVINO knows no strings and decodes no images: the model's preprocessor makes pixels and token ids, as in
    training. Which precision computes is chosen when a file is loaded, see `load_openvino`.

    Args:
        model: an `ImageTextRetriever` under the TensorFlow backend.
        samples: its `Samples`.
        directory: `Path` of a folder to write into.

    Returns:
        dict of side to dict of precision to the lowest cosine with the model's own vectors.
    """
    import openvino
    import tensorflow as tf

    cosines = {}
    for side in ("image", "text"):
        inputs = encoder_inputs(model, side, getattr(samples, side))
        with tempfile.TemporaryDirectory() as work:
            tf.saved_model.save(*_dense_module(model, side, inputs, work))
            converted = openvino.convert_model(work)
        path = directory / f"{side}.xml"
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        expected = samples.outputs[f"embed_{signature_name(model, side)}"][f"{side}_embedding"]
        cosines[side] = {precision: _lowest_cosine(path, precision, inputs, expected) for precision in PRECISIONS}
    return cosines


def load_openvino(path, precision="bfloat16", threads=None):
    """An encoder of `write_openvino`.

    Args:
        path: `image.xml` or `text.xml`.
        precision: `"bfloat16"` (default) or `"float32"`, what it computes in.
        threads: int, or None for all cores.

    Returns:
        function of a dict of a tower's inputs, NumPy arrays, to float32 unit vectors `(B, D)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.serving import load_openvino

    encode = load_openvino("exported/clip/openvino/1/text.xml")
    inputs = model.preprocessor({"text": ["two dogs on a beach"]})
    encode({key: np.asarray(value) for key, value in inputs.items()})
    ```
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    names = [next(iter(port.get_names())) for port in compiled.inputs]

    def encode(inputs):
        found = [next(key for key in inputs if name.partition(":")[0].endswith(key)) for name in names]
        vectors = compiled([np.ascontiguousarray(inputs[key]) for key in found])[0]
        # Unit rows in float32, whatever came before.
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    return encode


def _lowest_cosine(path, precision, inputs, expected):
    try:
        return float((load_openvino(path, precision)(inputs) * expected).sum(-1).min())
    except RuntimeError as error:
        raise ValueError(
            f"OpenVINO cannot run the {path.stem} encoder; loops such as those of a recurrent layer, in pooling 'gpo' "
            f"too, are beyond it. Export without it. ({one_line(error, 200)})"
        ) from error


def encoder_inputs(model, side, raw):
    """The inputs of a side's tower as NumPy arrays, out of raw items or ready ones."""
    prepared = raw if model.preprocessor is None else model.preprocessor(raw)
    tower = getattr(model.backbone, f"{side}_tower")
    keys = (tower.input_key, *COMPANIONS[side])
    return {key: np.asarray(prepared[key]) for key in keys if key in prepared}


def _dense_module(model, side, inputs, directory):
    """The arguments of `tf.saved_model.save` for one encoder."""
    import tensorflow as tf

    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype, name=key) for key, x in inputs.items()]
    encode = model.encode_images if side == "image" else model.encode_texts

    def call(*tensors):
        return {"embedding": encode(dict(zip(inputs, tensors, strict=True)), training=False)["embedding"]}

    traced = tf.function(call, input_signature=specs, autograph=False, jit_compile=False).get_concrete_function()
    module = tf.Module()
    module.weights = list(traced.variables)
    return module, directory, {"serving_default": traced}
