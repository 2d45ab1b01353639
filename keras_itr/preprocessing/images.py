"""Encoded images to pixels, in core TensorFlow operations: one function for `tf.data`, eager calls and serving."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")


def decode_image(contents):
    """Decodes one JPEG, PNG, BMP or GIF (its first frame) to three channels.

    Grey becomes three equal channels, and an alpha channel is dropped, not blended. The orientation tag of a JPEG is
    not applied.

    Args:
        contents: Scalar string `tf.Tensor`, or `bytes`.

    Returns:
        uint8 (H, W, 3) `tf.Tensor`.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are none of these formats, or are damaged.

    Example:

    ```python
    import tensorflow as tf
    from keras_itr.preprocessing import decode_image

    red = tf.io.encode_png(tf.constant([[[255, 0, 0, 128]]], tf.uint8))
    decode_image(red)  # [[[255, 0, 0]]]
    ```
    """
    import tensorflow as tf

    def decode_bitmap():
        # Bitmaps decode only to the number of channels that they have: 1, 3 or 4.
        image = tf.io.decode_bmp(contents, channels=0)
        return tf.gather(image, tf.where(tf.shape(image)[-1] < 3, [0, 0, 0], [0, 1, 2]), axis=-1)

    def decode_other():
        return tf.io.decode_image(contents, channels=3, expand_animations=False)

    with tf.device("CPU:0"):
        is_bitmap = tf.strings.substr(contents, 0, 2) == b"BM"
        return tf.ensure_shape(tf.cond(is_bitmap, decode_bitmap, decode_other), [None, None, 3])


def convert_image(
    image, size, interpolation="bicubic", antialias=True, crop_to_aspect_ratio=True, scale=1 / 255, offset=0.0
):
    """Resizes pixels and normalises them: `resized * scale + offset`.

    Integer pixels are rounded and kept in 0..255 after the resize, as image libraries do, so that pixels stored as
    uint8 at the target size give the same result. The resize is TensorFlow's, with half-pixel centres; its bicubic
    filter is close to that of PIL, not equal to it.

    Args:
        image: (H, W, 3) or (B, H, W, 3) tensor or array, uint8 or float, in 0..255.
        size: `(height, width)` of the result.
        interpolation: One of `INTERPOLATIONS`; default `"bicubic"`.
        antialias: Whether to widen the filter when an image shrinks; default True. `"nearest"` ignores it.
        crop_to_aspect_ratio: True (default): first the largest centred window with the aspect ratio of `size` is cut
            out; False: the image is stretched.
        scale: Number or three numbers, one per channel; default 1/255.
        offset: Number or three numbers; default 0.

    Returns:
        float32 (height, width, 3) or (B, height, width, 3) `tf.Tensor`.

    Example:

    ```python
    import numpy as np
    from keras_itr.preprocessing import convert_image

    pixels = np.full((480, 640, 3), 255, "uint8")
    convert_image(pixels, (224, 224)).shape  # (224, 224, 3), all ones
    ```

    Source: resize and centre crop as in OpenAI's CLIP, the crop taken first (our choice).
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        image = tf.convert_to_tensor(image)
        is_integer = image.dtype.is_integer
        if crop_to_aspect_ratio:
            image = _crop_to_aspect_ratio(image, *size)
        image = tf.cast(tf.image.resize(image, size, method=interpolation, antialias=antialias), tf.float32)
        if is_integer:
            image = tf.clip_by_value(tf.round(image), 0.0, 255.0)
        return image * tf.constant(scale, tf.float32) + tf.constant(offset, tf.float32)


def _crop_to_aspect_ratio(image, target_height, target_width):
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(image)[-3:-1])
    crop_height = tf.clip_by_value(width * target_height // target_width, 1, height)
    crop_width = tf.clip_by_value(height * target_width // target_height, 1, width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return image[..., top : top + crop_height, left : left + crop_width, :]
