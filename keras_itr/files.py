import contextlib
import os
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def written_whole(path):
    """A path beside `path` to write to; it takes the place of `path` in one step when the block ends without an error.

    An interrupted run leaves the old file or the new one, never half of one.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        `Path` of the same suffix in the same folder.

    Example:

    ```python
    from keras_itr.files import written_whole

    with written_whole("notes/a.txt") as aside:
        aside.write_text("whole or not at all")
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


class Rows:
    """Arrays of a known number of rows that arrive in batches: in memory, or in `.npy` files of a folder.

    The files are written aside and moved into place together when all rows are there.

    Args:
        count: int, rows of every array.
        directory: folder, made if need be; None for memory.

    Example:

    ```python
    import numpy as np
    from keras_itr.files import Rows

    rows = Rows(3)
    rows.write(0, {"a": np.ones((2, 5))})
    rows.write(2, {"a": np.zeros((1, 5))})
    rows.done()["a"].shape  # (3, 5)
    ```
    """

    def __init__(self, count, directory=None):
        self.count = count
        self.directory = None if directory is None else Path(directory)
        self.arrays = {}

    def write(self, start, batch):
        """Put a dict of arrays `(n, ...)` at the rows from `start` on."""
        if not self.arrays:
            self.arrays = {
                key: self._empty(key, (self.count, *rows.shape[1:]), rows.dtype) for key, rows in batch.items()
            }
        for key, rows in batch.items():
            self.arrays[key][start : start + len(rows)] = rows

    def done(self):
        """The dict of arrays; those of files are read-only memory maps."""
        if self.directory is None:
            return self.arrays
        keys = list(self.arrays)
        for array in self.arrays.values():
            array.flush()
        self.arrays = {}
        for key in keys:
            os.replace(self._aside(key), self.directory / f"{key}.npy")
        return {key: np.load(self.directory / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in keys}

    def _empty(self, key, shape, dtype):
        if self.directory is None:
            return np.empty(shape, dtype)
        self.directory.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(self._aside(key), "w+", dtype, shape)

    def _aside(self, key):
        return self.directory / f".{key}.writing.npy"
