"""Pixels to what a model reads, in core TensorFlow operations: one function for `tf.data`, eager calls and serving."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")


def convert_image(
    image, size, interpolation="bicubic", antialias=True, crop_to_aspect_ratio=True, scale=1 / 255, offset=0.0
):
    """Resizes pixels and normalises them: `resized * scale + offset`.

    Integer pixels are rounded and kept in 0..255 after the resize, as image libraries do, so that pixels stored as
    uint8 at the target size give the same result. The resize is TensorFlow's, with half-pixel centres and antialias. It
    is close to Pillow's, not equal to it: of 200 photos of COCO at 224 x 224 and 336 x 336, the same window in both,

    | interpolation | values that are equal | mean difference, of 255 | off by more than 1 | largest |
    |---|---|---|---|---|
    | `"bilinear"` | 81 to 84 % | 0.16 to 0.19 | none | 1 |
    | `"bicubic"` | 82 to 83 % | 0.17 to 0.18 | 0.03 % | 13 |
    | `"lanczos3"` | 81 to 82 % | 0.18 to 0.19 | 0.07 % | 21 |

    A pipeline that resizes first and crops then (OpenAI's CLIP) rounds the window in other places: its pixels are
    shifted by a fraction of one against ours, which is a mean difference of 3 levels.

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


def shrink_image(image, shorter_side, interpolation="bicubic"):
    """Resizes uint8 pixels so that the shorter side has `shorter_side`; an image that is smaller stays as it is.

    Args:
        image: uint8 (H, W, 3) tensor or array.
        shorter_side: Integer, in pixels.
        interpolation: One of `INTERPOLATIONS`; default `"bicubic"`, always with antialias.

    Returns:
        uint8 (H', W', 3) `tf.Tensor`.

    Example:

    ```python
    import numpy as np
    from keras_itr.preprocessing.images import shrink_image

    shrink_image(np.zeros((480, 640, 3), "uint8"), 240).shape  # (240, 320, 3)
    ```

    Source: our choice.
    """
    import tensorflow as tf

    def shrink():
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        target = tf.cast(tf.round(sides * shorter_side / tf.reduce_min(sides)), tf.int32)
        return tf.cast(convert_image(image, target, interpolation, crop_to_aspect_ratio=False, scale=1.0), tf.uint8)

    with tf.device("CPU:0"):
        image = tf.convert_to_tensor(image)
        return tf.cond(tf.reduce_min(tf.shape(image)[:2]) > shorter_side, shrink, lambda: image)


def random_window(image, key, area=(0.6, 1.0), aspect_ratio=(3 / 4, 4 / 3)):
    """A window of random size and place, the first half of a random resized crop.

    The share of the area is uniform, the logarithm of width / height is uniform; the first of ten draws that fits into
    the image is taken, and the whole image where none does.

    Args:
        image: (H, W, 3) tensor or array.
        key: int64 (2,); equal keys give equal windows.
        area: Smallest and largest share of the image's area; default (0.6, 1.0).
        aspect_ratio: Smallest and largest width / height; default (3/4, 4/3).

    Returns:
        (h, w, 3) `tf.Tensor` of the image's dtype.

    Example:

    ```python
    import numpy as np
    from keras_itr.preprocessing.images import random_window

    random_window(np.zeros((480, 640, 3), "uint8"), key=(0, 1)).shape
    ```

    Reference: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6; ten draws as in torchvision. Area
    0.6 to 1.0 as in Chen et al., VSE-infinity, CVPR 2021.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        image = tf.convert_to_tensor(image)
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        draws = tf.random.stateless_uniform([12, 2], key, alg="philox")
        shares = area[0] + (area[1] - area[0]) * draws[:10, 0]
        low, high = (tf.math.log(float(ratio)) for ratio in aspect_ratio)
        ratios = tf.exp(low + (high - low) * draws[:10, 1])
        pixels = shares * tf.reduce_prod(sides)
        candidates = tf.round(tf.stack([tf.sqrt(pixels / ratios), tf.sqrt(pixels * ratios)], axis=1))
        fits = tf.reduce_all((candidates <= sides) & (candidates >= 1), axis=1)
        window = tf.where(tf.reduce_any(fits), candidates[tf.argmax(fits)], sides)
        top, left = tf.unstack(tf.cast(draws[10] * (sides - window + 1), tf.int32))
        height, width = tf.unstack(tf.cast(window, tf.int32))
        return image[top : top + height, left : left + width]
