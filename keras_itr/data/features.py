from pathlib import Path

import numpy as np

from keras_itr.data.missing_data import MissingData, missing_file
from keras_itr.data.text_files import read_text
from keras_itr.progress import SlowBar

CHUNK = 1024


def read_features(path, rows=None, rank=None, names=None):
    """A `.npy` of features, memory-mapped, by row or by id, checked once.

    By row: row `i` belongs to item `i`. By id: if `<stem>_ids.txt` (one id a
    line) lies beside the file and `names` are given, row `i` is the one whose id
    is `names[i]`. Never a pickle.

    Args:
        path: path of a `.npy` of numbers or bools, any width.
        rows: int, number of items expected; None takes what is there.
        rank: int, number of axes expected; None takes what is there.
        names: list of ids to look up.

    Returns:
        An array, or a `RowsById` view, sliceable by row.

    Raises:
        MissingData: with the nearest name in the folder.
        ValueError: for a wrong number of rows or axes, a missing id, or a number
            that is not finite; the message names the file and the row or id.

    Example:

    ```python
    teacher = read_features("dev_teacher_image.npy", rows=1000)
    teacher[[3, 1]].shape  # (2, 384)
    ```
    """
    path = Path(path)
    array = open_features(path)
    if rank is not None and array.ndim != rank:
        raise ValueError(f"{path}: expected {rank} axes, found shape {array.shape}.")
    _check_finite(path, array)
    if ids_file(path).exists():
        if names is None:
            raise ValueError(
                f"{ids_file(path)}: rows by id need the items' names; add the names file or remove the ids."
            )
        return RowsById(array, _look_up(path, array, names))
    if rows is not None and len(array) != rows:
        raise ValueError(f"{path}: {len(array)} rows for {rows} items.")
    return array


def open_features(path):
    """A `.npy` as a memory map, its numbers unread.

    Raises:
        MissingData: with the nearest name in the folder.
        ValueError: if it is no `.npy` of numbers with at least one axis.
    """
    if not Path(path).is_file():
        raise MissingData(missing_file(path))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a plain .npy array ({error}).") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: is an archive; one file for all is a .npy, one per image has {{name}} or {{stem}}.")
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise ValueError(f"{path}: rows of numbers are needed, found {array.dtype} of shape {array.shape}.")
    return array


def ids_file(path):
    """Where the ids of a file's rows lie, if it has any."""
    path = Path(path)
    return path.with_name(f"{path.stem}_ids.txt")


class RowsById:
    """A memory-mapped array seen through a row index, so that a look-up by id copies nothing.

    Args:
        array: array `(M, ...)`.
        index: int array `(N,)`, the row of every item.
    """

    def __init__(self, array, index):
        self.array, self.index = array, np.asarray(index)
        self.shape, self.dtype, self.ndim = (len(index), *array.shape[1:]), array.dtype, array.ndim
        self.encoded = getattr(array, "encoded", False)  # see PhotoCache

    def __len__(self):
        return len(self.index)

    def __getitem__(self, rows):
        return self.array[self.index[rows]]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array[self.index], dtype)


def _look_up(path, array, names):
    file = ids_file(path)
    ids = read_text(file).removesuffix("\n").split("\n")
    if len(ids) != len(array):
        raise ValueError(f"{file}: {len(ids)} ids for the {len(array)} rows of {path.name}.")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{file}: an id stands twice; every row needs its own.")
    row_of = {name: row for row, name in enumerate(ids)}
    missing = [name for name in names if name not in row_of]
    if missing:
        raise ValueError(f"{path}: no row for id {missing[0]!r} in {file.name} ({len(missing)} missing in all).")
    return [row_of[name] for name in names]


def _check_finite(path, array):
    if array.dtype.kind != "f":
        return
    bar = SlowBar(len(array))
    for start in range(0, len(array), CHUNK):
        finite = np.isfinite(array[start : start + CHUNK]).reshape(len(array[start : start + CHUNK]), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"{path}: row {start + int(np.argmin(finite))} holds a number that is not finite.")
        bar.update(start + len(finite))
