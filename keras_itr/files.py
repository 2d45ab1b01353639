import contextlib
import os
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_itr.messages import one_line

try:
    import fcntl
except ImportError:  # Windows has other locks, and no TensorFlow of today.
    fcntl = None


@contextlib.contextmanager
def written_whole(path):
    """A path beside `path` to write to; it takes the place of `path` in one step when the block ends without an error.

    An interrupted run leaves the old file or the new one, never half of one.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        `Path` of the same suffix in the same folder.

    Raises:
        OSError: names `path`, if it or its folder cannot be written.

    Example:

    ```python
    from keras_itr.files import written_whole

    with written_whole("notes/a.txt") as aside:
        aside.write_text("whole or not at all")
    ```
    """
    # What a link points at is written, and the link stays; a device or a folder is nothing to replace.
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there and is no file; name a file to write.")
    aside = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if str(error.filename) not in map(str, (aside, *path.parents)):
            raise
        # The name that was asked for: nobody knows the one beside it.
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


@contextlib.contextmanager
def folder_written_whole(path, overwrite=False):
    """A new folder beside `path` to write into; it is renamed to `path` when the block ends without an error.

    Args:
        path: the folder to make; missing ones above it are made.
        overwrite: bool, default False: whether it may take the place of one that is there.

    Yields:
        `Path` of an empty folder beside it.

    Raises:
        ValueError: if `path` is there, is not empty and may not be overwritten.

    Example:

    ```python
    from keras_itr.files import folder_written_whole

    with folder_written_whole("notes") as aside:
        (aside / "a.txt").write_text("whole or not at all")
    ```
    """
    path = Path(path)
    complete_replacement(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not overwrite):
        raise ValueError(
            f"{path} is there already; choose another folder, or pass overwrite (--overwrite of a command) "
            "to replace it."
        )
    aside, old = _beside(path)
    with _lock(aside) as free:
        if not free:
            raise ValueError(f"{path} is being written by another process; wait until it is done.")
    for left in (aside, old):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with _lock(aside):
            yield aside
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def complete_replacement(path):
    """Finish what a kill between the two steps of `folder_written_whole` left: the new folder takes its place.

    Args:
        path: the folder. If it is there, or was never replaced, nothing happens.

    Example:

    ```python
    from keras_itr.files import complete_replacement

    complete_replacement("notes")
    ```
    """
    path = Path(path)
    aside, old = _beside(path)
    # The old one is moved away only when the new one is whole. While its writer lives, that is its own business.
    if not path.exists() and old.is_dir() and aside.is_dir():
        with _lock(aside) as free:
            if free:
                os.replace(aside, path)
                shutil.rmtree(old, ignore_errors=True)


def read_unreplaced(directory, read):
    """The result of `read()`, which reads several files of a folder: all before or all after it was replaced.

    Args:
        directory: the folder, which `folder_written_whole` may replace meanwhile.
        read: function without arguments; called again if it was.

    Raises:
        what `read` raises of a folder that stayed.

    Example:

    ```python
    from pathlib import Path
    from keras_itr.files import read_unreplaced

    read_unreplaced("notes", lambda: [path.read_text() for path in Path("notes").glob("*.txt")])
    ```
    """
    while True:
        before = _identity(directory)
        try:
            result = read()
        except (OSError, ValueError):
            if _identity(directory) == before:
                raise
            continue
        if _identity(directory) == before:
            return result


def _identity(directory):
    """What tells a folder from the one that takes its place; None if there is none."""
    try:
        state = os.stat(directory)
    except FileNotFoundError:
        return None
    # Numbers of files are used again: the time is that of the renaming.
    return state.st_dev, state.st_ino, state.st_ctime_ns


@contextlib.contextmanager
def _lock(folder):
    """Hold the lock of a folder that is there; yields whether it was free. It ends with the process at the latest."""
    if fcntl is None or not folder.is_dir():
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _beside(path):
    """Where a folder is written, and where the old one waits until it is."""
    return path.with_name(f".{path.name}.writing"), path.with_name(f".{path.name}.replaced")


def read_archive(path, names, remedy):
    """The arrays of an `.npz` that are called `names`, those of them that are there. Never a pickle.

    Args:
        path: path of the file.
        names: strings.
        remedy: string, the end of the message: what to do about a file that cannot be read.

    Returns:
        dict of arrays.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: names the file, if it is no archive of arrays or not whole.

    Example:

    ```python
    import numpy as np
    from keras_itr.files import read_archive

    np.savez("a.npz", rows=np.ones(3))
    read_archive("a.npz", ["rows", "ids"], "make it anew.")  # {"rows": ...}
    ```
    """
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ValueError("one array, not an archive of them")
            return {name: stored[name] for name in names if name in stored.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole .npz of arrays ({one_line(error)}); {remedy}") from error


class Rows:
    """Arrays of a known number of rows that arrive in batches: in memory, or in `.npy` files of a folder.

    The files are written aside and moved into place together when all rows are there.

    Args:
        count: int, rows of every array.
        directory: folder, made if need be; None for memory.
        prefix: string before the file names, so that several may share a folder.

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

    def __init__(self, count, directory=None, prefix=""):
        self.count = count
        self.prefix = prefix
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
            os.replace(self._aside(key), self.directory / f"{self.prefix}{key}.npy")
        return {key: _mapped(self.directory / f"{self.prefix}{key}.npy") for key in keys}

    def _empty(self, key, shape, dtype):
        if self.directory is None:
            return np.empty(shape, dtype)
        self.directory.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(self._aside(key), "w+", dtype, shape)

    def _aside(self, key):
        return self.directory / f".{self.prefix}{key}.writing.npy"


def read_rows(directory, prefix=""):
    """The arrays that `Rows` wrote into a folder under this prefix, as read-only memory maps by their names.

    Raises:
        ValueError: if there are none.
    """
    paths = sorted(Path(directory).glob(f"{prefix}*.npy"))
    if not paths:
        raise ValueError(f"{directory}: holds no {prefix}*.npy; encode with this directory first.")
    return {path.stem.removeprefix(prefix): _mapped(path) for path in paths}


def _mapped(path):
    return np.load(path, mmap_mode="r", allow_pickle=False)
