"""Pretrained image networks by name: those of `keras.applications` and those of keras-hub."""

import difflib
import os
import sys

import keras
import numpy as np

from keras_itr.messages import one_line


def build_image_network(name, image_size, arguments=None, weights=None):
    """Build a network that maps pixels to a feature map or to patch tokens.

    Args:
        name: a function of `keras.applications`, such as `"MobileNetV2"`, or a class of `keras_hub.models`, such as
            `"ViTBackbone"`; or a serialised keras-hub backbone.
        image_size: pair of ints, height and width.
        arguments: dict of further arguments of the function or class.
        weights: None (default): random. For an application: the path of a `.weights.h5` of the network with or without
            its classifier, or `"imagenet"`. For a keras-hub class: a preset name, handle or directory.

    Returns:
        A `keras.Model`: float32 `(B, H, W, 3)` to `(B, h, w, C)` or `(B, N, C)`.

    Raises:
        ValueError: for an unknown name, with the nearest one, or for weights that do not fit or cannot be had.
        FileNotFoundError: if the file of weights is not there.

    Example:

    ```python
    from keras_itr.layers import build_image_network

    build_image_network("MobileNetV2", (96, 96), {"alpha": 0.35}).output_shape  # (None, 3, 3, 1280)
    ```
    """
    if isinstance(name, dict):
        return keras.saving.deserialize_keras_object(name)
    if name in applications():
        return _application(name, image_size, arguments or {}, weights)
    import keras_hub

    cls = getattr(keras_hub.models, name, None) if name.endswith("Backbone") else None
    if cls is None:
        near = difflib.get_close_matches(name, applications(), 1, cutoff=0.4) or ["MobileNetV2"]
        raise ValueError(
            f"no image network is called {name!r}; did you mean {near[0]!r}? Allowed are the networks of "
            "keras.applications and the ...Backbone classes of keras_hub.models."
        )
    if weights is None:
        return cls(image_shape=(*image_size, 3), **(arguments or {}))
    try:
        return cls.from_preset(weights, image_shape=(*image_size, 3), **(arguments or {}))
    except Exception as error:  # whatever the hub's loaders raise, offline or for another class
        raise ValueError(f"the weights {weights!r} of {name} could not be had: {one_line(error)}") from error


def applications():
    """The names of the networks of `keras.applications`."""
    return [name for name in dir(keras.applications) if name[0].isupper()]


def pixel_scaling(name):
    """How a network of `keras.applications` wants its pixels.

    Args:
        name: such as `"MobileNetV2"`.

    Returns:
        `(scale, offset, is_bgr)`: the input is `pixels * scale + offset` for RGB pixels in 0..255, three numbers each;
        with `is_bgr` the channels are reversed after that. None for a network that is not of `keras.applications`.

    Example:

    ```python
    from keras_itr.layers.image_networks import pixel_scaling

    pixel_scaling("MobileNetV2")  # ([1 / 127.5] * 3, [-1.0] * 3, False)
    ```
    """
    if not isinstance(name, str) or name not in applications():
        return None
    preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
    # What the library does to black, white and red: all it does is linear, or exchanges channels.
    probes = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], "float32").reshape(3, 1, 1, 3)
    black, white, red = (
        np.asarray(preprocess(probes.copy(), data_format="channels_last")).reshape(3, 3).astype("float64")
    )
    is_bgr = bool(red[2] > black[2])
    order = slice(None, None, -1) if is_bgr else slice(None)
    return ((white - black) / 255)[order].tolist(), black[order].tolist(), is_bgr


def _application(name, image_size, arguments, weights):
    shape = {"include_top": False, "input_shape": (*image_size, 3)}
    function = getattr(keras.applications, name)
    if weights is None:
        return function(weights=None, **shape, **arguments)
    if weights != "imagenet" and not os.path.exists(weights):
        raise FileNotFoundError(f"{weights}: no such file of weights for {name}.")
    try:
        if weights == "imagenet":
            return function(weights="imagenet", **shape, **arguments)
        model = function(weights=None, **shape, **arguments)
        # Layers are found by their order, so that the file may hold the classifier as well.
        model.load_weights(weights)
        return model
    except Exception as error:  # URLError offline, ValueError for other shapes, OSError for what is no HDF5 file
        raise ValueError(f"the weights {weights!r} of {name} could not be had: {one_line(error)}") from error
