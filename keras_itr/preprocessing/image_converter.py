import concurrent.futures
import difflib
import functools
import os
import pathlib

import keras
import keras_hub
import numpy as np

from keras_itr.preprocessing.decoding import decode_image, explain_fault
from keras_itr.preprocessing.images import INTERPOLATIONS, convert_image
from keras_itr.preprocessing.tensors import to_backend


@keras.saving.register_keras_serializable(package="keras_itr")
class RetrievalImageConverter(keras_hub.layers.ImageConverter):
    """Encoded images or uint8 pixels to the float32 pixels of a model.

    Core TensorFlow operations only: the same function runs eagerly, in `tf.data` and in an exported SavedModel.

    | input | what happens |
    |---|---|
    | string (B,) or scalar; `bytes` or a list of them | decoded by `decode_image`, converted by `convert_image` |
    | uint8 (B, H, W, 3) or (H, W, 3); list of uint8 (H, W, 3) of any sizes | converted by `convert_image` |
    | `str` path, list or NumPy array of them; eager calls only | the files are read, then as encoded images |
    | float32 (B, height, width, 3) or (height, width, 3) | **unchanged**: it is already converted |

    A second call therefore changes nothing. Output: float32 (B, height, width, 3), or (height, width, 3) for one image;
    under JAX and PyTorch an eager call returns a tensor of that backend.

    Args:
        image_size: `(height, width)` of the result.
        scale: Factor of pixels in 0..255, a number or three, one per channel; default 1/255.
        offset: Added after `scale`, a number or three; default 0. For a mean and deviation given in 0..1, `scale` is
            `1 / (255 * deviation)` and `offset` is `-mean / deviation`.
        interpolation: `"nearest"`, `"bilinear"`, `"bicubic"` (default), `"lanczos3"` or `"lanczos5"`.
        antialias: Whether to filter when shrinking; default True.
        crop_to_aspect_ratio: True (default) cuts the largest centred window, False stretches.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: A faulty argument, pixels that are neither uint8 nor float32, or float32 of another size.
        tf.errors.InvalidArgumentError: Bytes that are no image. In a list of items it is a ValueError that names the
            path, or the place in the list.

    Example:

    ```python
    import numpy as np
    from keras_itr.preprocessing import RetrievalImageConverter

    mean, deviation = np.array([0.481, 0.458, 0.408]), np.array([0.269, 0.261, 0.276])
    converter = RetrievalImageConverter(
        (224, 224), scale=(1 / (255 * deviation)).tolist(), offset=(-mean / deviation).tolist()
    )
    converter(np.zeros((2, 480, 640, 3), "uint8")).shape  # (2, 224, 224, 3)
    ```

    Source: bicubic, anti-aliased and centre-cropped as in OpenAI's CLIP; the rest is our choice.
    """

    def __init__(
        self,
        image_size,
        scale=1 / 255,
        offset=0.0,
        interpolation="bicubic",
        antialias=True,
        crop_to_aspect_ratio=True,
        **kwargs,
    ):
        _check_size(image_size)
        _check_interpolation(interpolation)
        super().__init__(
            image_size=tuple(image_size),
            scale=_per_channel(scale, "scale"),
            offset=_per_channel(offset, "offset"),
            interpolation=interpolation,
            antialias=antialias,
            crop_to_aspect_ratio=crop_to_aspect_ratio,
            data_format="channels_last",
            **kwargs,
        )

    def __call__(self, inputs):
        # `Layer.__call__` would bury the one line about a broken photo under the arguments of the call.
        return self.call(inputs)

    def call(self, inputs):
        import tensorflow as tf

        if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OSU":
            inputs = inputs.tolist()
        if _is_float32(inputs):
            self._check_converted(inputs)
            return inputs
        # On every machine the CPU makes the pixels, so that they are the same.
        with tf.device("CPU:0"):
            if isinstance(inputs, (list, tuple)):
                with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                    return to_backend(tf.stack(list(pool.map(self._convert_item, inputs, range(len(inputs))))))
            return to_backend(self._convert_one(inputs))

    def convert_pixels(self, pixels, crop_to_aspect_ratio=None):
        """uint8 (H, W, 3) or (B, H, W, 3) -> float32 of the model's size; TensorFlow operations only.

        `crop_to_aspect_ratio` replaces the converter's own: a random window is stretched, not cropped once more.
        """
        return convert_image(
            pixels,
            self.image_size,
            interpolation=self.interpolation,
            antialias=self.antialias,
            crop_to_aspect_ratio=self.crop_to_aspect_ratio if crop_to_aspect_ratio is None else crop_to_aspect_ratio,
            scale=self.scale,
            offset=self.offset,
        )

    def _convert_item(self, item, place):
        """An item of a list; a fault that names no file names the place."""
        import tensorflow as tf

        try:
            return self._convert_one(item)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"image {place} of the list is no readable JPEG, PNG, BMP or GIF, or is empty.") from error

    def _convert_one(self, item):
        """An item of a list, or everything there is to convert -> `tf.Tensor`."""
        import tensorflow as tf

        if isinstance(item, (str, pathlib.Path)):
            return self._convert_file(pathlib.Path(item))
        pixels = tf.convert_to_tensor(item)
        if pixels.dtype == tf.string:
            return self._convert_encoded(pixels)
        if pixels.dtype == tf.float32:
            self._check_converted(pixels)
            return pixels
        if pixels.dtype != tf.uint8 or pixels.shape.rank not in (3, 4) or pixels.shape[-1] not in (3, None):
            raise ValueError(
                f"Images must be encoded bytes or uint8 (B, H, W, 3), or float32 of size {self.image_size} already "
                f"converted; got {pixels.dtype.name} {pixels.shape}. Cast pixels in 0..255 to uint8."
            )
        return self.convert_pixels(pixels)

    def _convert_file(self, path):
        import tensorflow as tf

        try:
            return self._convert_encoded(tf.constant(path.read_bytes()))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"{explain_fault(path, error)} Replace or remove it.") from error

    def _convert_encoded(self, contents):
        import tensorflow as tf

        if contents.shape.rank:
            signature = tf.TensorSpec((*self.image_size, 3), tf.float32)
            return tf.map_fn(self._convert_encoded, contents, fn_output_signature=signature)
        if tf.executing_eagerly():
            # The same operations as one compiled function: several times faster than one by one.
            return self._decode_and_convert(contents)
        return self.convert_pixels(decode_image(contents))

    @functools.cached_property
    def _decode_and_convert(self):
        import tensorflow as tf

        return tf.function(
            lambda contents: self.convert_pixels(decode_image(contents)),
            input_signature=[tf.TensorSpec([], tf.string)],
        )

    def _check_converted(self, images):
        shape = tuple(images.shape)
        expected = (*self.image_size, 3)
        if len(shape) not in (3, 4) or any(a not in (None, b) for a, b in zip(shape[-3:], expected, strict=True)):
            raise ValueError(
                f"float32 images are taken as already converted and must be (B, {expected[0]}, {expected[1]}, 3); got "
                f"{shape}. Give raw pixels as uint8."
            )

    def get_config(self):
        config = super().get_config()
        # Two arguments of the parent that have no meaning here.
        del config["pad_to_aspect_ratio"], config["bounding_box_format"]
        return config


def _is_float32(images):
    return "float32" in str(getattr(images, "dtype", ""))


def _check_size(image_size):
    if (
        not isinstance(image_size, (list, tuple))
        or len(image_size) != 2
        or any(not isinstance(side, int) or side < 1 for side in image_size)
    ):
        raise ValueError(f"`image_size` must be two positive integers (height, width); got {image_size!r}.")


def _check_interpolation(interpolation):
    if interpolation not in INTERPOLATIONS:
        nearest = difflib.get_close_matches(str(interpolation), INTERPOLATIONS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"Unknown `interpolation` {interpolation!r}; choose one of {INTERPOLATIONS}. Did you mean {nearest!r}?"
        )


def _per_channel(value, name):
    """A number, or a list of three: what JSON gives back."""
    values = np.asarray(value, "float64")
    if values.shape not in ((), (3,)) or not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be a number or three numbers, one per channel; got {value!r}.")
    return values.tolist()
