"""The border between Python, the active Keras backend and the TensorFlow string and image operations."""


def to_strings(texts):
    """`str`, `bytes`, or a list, array or tensor of them -> string `tf.Tensor` of the same shape."""
    import tensorflow as tf

    try:
        return tf.convert_to_tensor(texts, tf.string)
    except (TypeError, ValueError) as error:
        given = getattr(texts, "dtype", None) or type(texts).__name__
        raise TypeError(
            f"Text must be str, bytes, or a list, array or tensor of them without gaps; got {given}. "
            "Convert it to strings first."
        ) from error


def to_backend(tensor):
    """Eager `tf.Tensor` -> tensor of the active backend; inside a TensorFlow graph it stays as it is."""
    import keras
    import tensorflow as tf

    if not tf.executing_eagerly() or keras.backend.backend() == "tensorflow":
        return tensor
    # A copy, because PyTorch cannot hold the read-only memory of a TensorFlow tensor.
    return keras.ops.convert_to_tensor(tensor.numpy().copy())
