from keras_itr.data.hashing import hash64


def draw_per_example(keys, stream, shape):
    """Uniform draws in [0, 1) for every example, as functions of its key alone.

    Args:
        keys: `(B, 2)` int64, one pair per example.
        stream: string that names the draws: streams are independent of each
            other, and of what is drawn with the keys themselves.
        shape: tuple of ints, the draws of one example.

    Returns:
        float64 TF tensor `(B, *shape)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.augmentation import draw_per_example

    draw_per_example(np.array([[5, 7]], "int64"), "dice", (3,)).shape  # (1, 3)
    ```

    Our choice.
    """
    import tensorflow as tf

    keys = tf.bitwise.bitwise_xor(keys, int(hash64(stream).view("int64")))
    return tf.map_fn(
        lambda key: tf.random.stateless_uniform(shape, key, dtype=tf.float64, alg="philox"),
        keys,
        fn_output_signature=tf.TensorSpec(shape, tf.float64),
    )


class RandomShift:
    """Shift images by a few pixels, keyed per example; the border is repeated.

    Args:
        pixels: int, the largest shift along either axis, default 4.

    Call arguments:
        batch: dict with `"images"` `(B, H, W, 3)`, a TF tensor.
        keys: `(B, 2)` int64, one pair per example.

    Returns:
        The dict with shifted images of the same shape and dtype.

    Example:

    ```python
    from keras_itr.data import RandomShift, TrainingPipeline, load_shapes

    TrainingPipeline(load_shapes("train", num_scenes=20), batch_size=8, augmentations=[RandomShift(4)])
    ```

    Our choice.
    """

    changes = ("images",)

    def __init__(self, pixels=4):
        self.pixels = pixels

    def __call__(self, batch, keys):
        import tensorflow as tf

        images = batch["images"]
        height, width, pixels = images.shape[1], images.shape[2], self.pixels
        draws = tf.map_fn(
            lambda key: tf.random.stateless_uniform([2], key, 0, 2 * pixels + 1, tf.int32, alg="philox"),
            keys,
            fn_output_signature=tf.int32,
        )
        # Two gathers with clipped indices: the pixels beyond the border repeat it.
        rows = tf.clip_by_value(tf.range(height)[None] + draws[:, :1] - pixels, 0, height - 1)
        columns = tf.clip_by_value(tf.range(width)[None] + draws[:, 1:] - pixels, 0, width - 1)
        shifted = tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
        return {**batch, "images": shifted}


class RandomFlip:
    """Mirror half of the images, left to right, keyed per example.

    Captions that say "left" or "right" become false of a mirrored image; leave it out for such data.

    Call arguments:
        batch: dict with `"images"` `(B, H, W, 3)`, a TF tensor.
        keys: `(B, 2)` int64, one pair per example.

    Returns:
        The dict with images of the same shape and dtype.

    Example:

    ```python
    from keras_itr.data import RandomFlip, TrainingPipeline, load_shapes

    TrainingPipeline(load_shapes("train", num_scenes=20), batch_size=8, augmentations=[RandomFlip()])
    ```

    Our choice.
    """

    changes = ("images",)

    def __call__(self, batch, keys):
        import tensorflow as tf

        # The pair the other way round: a draw of its own, independent of the crop and the shift.
        draws = tf.map_fn(
            lambda key: tf.random.stateless_uniform([], key, alg="philox"),
            keys[:, ::-1],
            fn_output_signature=tf.float32,
        )
        images = batch["images"]
        mirrored = tf.where(draws[:, None, None, None] < 0.5, tf.reverse(images, [2]), images)
        return {**batch, "images": mirrored}
