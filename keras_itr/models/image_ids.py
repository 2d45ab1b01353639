import numpy as np
from keras import ops


def checked_ids(ids):
    """`"image_id"` as an int32 tensor: the one form in which methods compare images.

    Ids beyond int32 lose their upper bits, those in a queue and those of a batch alike, so that equal ids stay equal.

    Args:
        ids: `(B,)` of any integer type, equal ids = the same image.

    Returns:
        `(B,)` int32 tensor.

    Raises:
        ValueError: for another shape or type; for a negative id, where the values can be seen (NumPy arrays and lists).

    Example:

    ```python
    from keras_itr.models.image_ids import checked_ids

    checked_ids([7, 7, 3])  # int32
    ```
    """
    ids = ids if hasattr(ids, "dtype") else np.asarray(ids)
    dtype = getattr(ids.dtype, "name", str(ids.dtype))
    if len(ids.shape) != 1 or "int" not in dtype:
        raise ValueError(
            f"'image_id' must be one integer per pair, shape (B,), received shape {tuple(ids.shape)} of {dtype}; "
            "number the images 0, 1, 2, ... and give a pair the number of its image."
        )
    if isinstance(ids, np.ndarray):
        if (ids < 0).any():
            raise ValueError(
                f"'image_id' must be 0 or more, received {ids.min()}; -1 marks an empty slot of a queue, "
                "so give every image a number of its own."
            )
        ids = ids.astype("int32")
    return ops.cast(ops.convert_to_tensor(ids), "int32")
