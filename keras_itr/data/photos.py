"""Photo files: which of them can be decoded, found out before anything is trained on them."""

import concurrent.futures
import functools
import os

from keras_itr.data.photo_cache import PhotoCache
from keras_itr.preprocessing.decoding import decode_image, explain_fault
from keras_itr.preprocessing.images import shrink_image
from keras_itr.progress import SlowBar

_AT_ONCE = 64  # photos decoded in one go: 64 of 640 x 480 are 60 MB


def prepare_photos(table, on_error="raise", cache=None, shorter_side=None, verbose=True):
    """Decode every photo of a table once, so that a broken file stops a run before its first step, not within it.

    Args:
        table: a `RetrievalTable`; without paths in its column `"images"` it is returned as it is.
        on_error: `"raise"` (default): the first broken photo is an error; `"skip"`: broken photos leave the table with
            their captions.
        cache: folder, or None (default). With a folder the decoded photos are kept there as uint8, and the column
            `"images"` of the result reads them from there; photos that are there already are not decoded again.
        shorter_side: int or None: larger photos are shrunk to this shorter side before they are kept. A
            `TrainingPipeline` with the same `shorter_side` makes the same pixels with and without a cache.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        `(table, faults)`: a `RetrievalTable`, and a dict of path to one line on what is wrong with it.

    Raises:
        ValueError: names the first broken photo and how many there are; or if none is left.

    Example:

    ```python
    from keras_itr.data import load_pairs, prepare_photos

    table, faults = prepare_photos(load_pairs("train", "my_data", "captions.tsv", images="photos"), on_error="skip")
    ```

    Source: our choice.
    """
    images = table.image_columns.get("images")
    if images is None or not isinstance(images[0], str):
        return table, {}
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
    paths = [str(path) for path in images]
    bar = SlowBar(len(paths), verbose)
    if cache is None:
        faults = _find_faults(paths, bar)
    else:
        name = table.name.replace(os.sep, "_")
        column = PhotoCache.build(paths, cache, name, decode_photos, shorter_side, bar)
        faults, table = column.faults, table.with_columns({"images": column})
    if not faults:
        return table, {}
    first = next(iter(faults.values()))
    if on_error == "raise":
        more = f" ({len(faults)} of {len(paths)} photos are broken)" if len(faults) > 1 else ""
        raise ValueError(f"{first}{more} Replace or remove it, or set on_error: skip.")
    if len(faults) == len(paths):
        raise ValueError(f"{table.name}: none of the {len(paths)} photos can be decoded; the first: {first}")
    kept = [row for row in range(len(paths)) if row not in faults]
    return table.select(kept), {paths[row]: fault for row, fault in faults.items()}


def _find_faults(paths, bar):
    """dict of row to what is wrong with that photo."""
    faults = {}
    for row, photo in enumerate(decode_photos(paths)):
        if isinstance(photo, str):
            faults[row] = photo
        bar.update(row + 1)
    return faults


def decode_photos(paths, shorter_side=None):
    """Decode photos on all cores, in order.

    Args:
        paths: list of strings.
        shorter_side: int or None, see `prepare_photos`.

    Yields:
        uint8 (H, W, 3) NumPy array, or a string that says what is wrong with the file.

    Example:

    ```python
    from keras_itr.data.photos import decode_photos

    [photo if isinstance(photo, str) else photo.shape for photo in decode_photos(["a.jpg", "b.png"])]
    ```
    """
    decode = functools.partial(_decode_one, _decoder(shorter_side))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(decode, paths[start : start + _AT_ONCE])


def _decode_one(decoder, path):
    import tensorflow as tf

    try:
        return decoder(path).numpy()
    except tf.errors.OpError as error:
        return explain_fault(path, error)


@functools.cache
def _decoder(shorter_side):
    import tensorflow as tf

    def decode(path):
        pixels = decode_image(tf.io.read_file(path))
        return pixels if shorter_side is None else shrink_image(pixels, shorter_side)

    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
