"""Requests as TensorFlow Serving records them: to warm a server up, and to check an export with."""

from keras_itr.files import written_whole

# TensorFlow Serving refuses to start with more.
MAX_WARMUP_REQUESTS = 1000


def write_requests(path, requests, name="default"):
    """Write requests as a TFRecord file of `PredictionLog`s.

    Args:
        path: the file, such as `assets.extra/tf_serving_warmup_requests`.
        requests: iterable of `(signature, inputs)`, `inputs` a dict of input name to array, strings as objects.
        name: string, the model's name in the requests.

    Returns:
        int, how many were written.

    Example:

    ```python
    import numpy as np
    from keras_itr.serving.requests import write_requests

    write_requests("requests", [("embed_text", {"text": np.array([b"a dog"], object)})])
    ```

    Source: the format of TensorFlow Serving's SavedModel warmup.
    """
    import tensorflow as tf

    count = 0
    with written_whole(path) as aside, tf.io.TFRecordWriter(str(aside)) as writer:
        for signature, inputs in requests:
            writer.write(_record(signature, inputs, name).SerializeToString())
            count += 1
    return count


def _record(signature, inputs, name):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    record = prediction_log_pb2.PredictionLog()
    request = record.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return record
