"""Rows of features out of photos or captions, written batch by batch so that a killed run goes on where it was."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from keras_itr.files import written_whole
from keras_itr.progress import SlowBar


def write_rows(path, items, names, encode, settings, batch_size=32, dtype="float16", verbose=True):
    """Encode items into a memory-mapped `.npy`, one row each, with their names beside it.

    While it grows, the file is called `<stem>.partial.npy`, and `<stem>.partial.json` says how many rows are done: a
    run that was killed goes on with the next batch and ends with the same bytes as one that was not. A file that is
    complete, of the same items and settings, is left as it is.

    Args:
        path: the `.npy` to write; `<stem>_ids.txt` beside it gets the names, and `<stem>.json` the settings.
        items: sequence of what `encode` takes.
        names: list of distinct strings, one per item; or None for rows that are known by their order.
        encode: function of a list of items to a float array `(B, ...)`.
        settings: dict that JSON can hold: what the rows depend on. Another one starts anew.
        batch_size: int, default 32. Part of the settings, because the last bits of a row may depend on it.
        dtype: `"float16"` (default) or `"float32"`.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        The memory-mapped array `(N, ...)`.

    Raises:
        ValueError: if there is no item, a name stands twice, or a row holds a number that is not finite.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.extraction import write_rows

    write_rows("lengths.npy", ["a", "bb"], ["x", "y"], lambda batch: np.array([[len(i)] for i in batch]), {})
    ```

    Our choice.
    """
    path = Path(path)
    if path.suffix != ".npy" or batch_size < 1:
        raise ValueError(f"{path}: must end with .npy, and batch_size must be at least 1, got {batch_size}.")
    if not len(items) or (names is not None and len(set(names)) != len(items)):
        raise ValueError(f"{path}: needs at least one item and one name of its own for each, got {len(items)} items.")
    finished = finished_rows(path, names, settings, batch_size, dtype)
    if finished is not None:
        return finished
    settings = _settings(names, settings, batch_size, dtype)
    label = names or [f"item {row}" for row in range(len(items))]
    partial, progress = path.with_suffix(".partial.npy"), path.with_suffix(".partial.json")
    state = _read(progress)
    done = state.get("done", 0) if state.get("settings") == settings and partial.exists() else 0
    rows = np.load(partial, mmap_mode="r+", allow_pickle=False) if done else None
    path.parent.mkdir(parents=True, exist_ok=True)
    bar = SlowBar(len(items), verbose)
    for start in range(done, len(items), batch_size):
        batch = np.asarray(encode(items[start : start + batch_size]))
        finite = np.isfinite(batch.astype(dtype)).reshape(len(batch), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{path}: {label[start + int(np.argmin(finite))]} gives a number that {dtype} cannot hold."
            )
        if rows is None:
            shape = (len(items), *batch.shape[1:])
            rows = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        rows[start : start + len(batch)] = batch
        rows.flush()
        _write(progress, {"settings": settings, "done": start + len(batch)})
        bar.update(start + len(batch))
    # Names and settings must never stand beside rows of another run, wherever a kill falls.
    path.unlink(missing_ok=True)
    if names is not None:
        with written_whole(path.with_name(f"{path.stem}_ids.txt")) as aside:
            aside.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    _write(path.with_suffix(".json"), {"settings": settings})
    os.replace(partial, path)
    progress.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def finished_rows(path, names, settings, batch_size=32, dtype="float16"):
    """The array that `write_rows` would leave as it is, memory-mapped, or None. Arguments as there."""
    path = Path(path)
    if path.exists() and _read(path.with_suffix(".json")).get("settings") == _settings(
        names, settings, batch_size, dtype
    ):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return None


def fit_pca(rows, dim, path, block_size=256):
    """Fit a PCA on rows of features and keep it as a `.npz` that `GridFeatures` reads.

    Args:
        rows: float array `(N, C)` or `(N, cells, C)`; memory-mapped ones are read block by block.
        dim: int, components kept.
        path: the `.npz` to write: `"mean"` `(C,)`, `"components"` `(C, dim)`, both float32, and `"explained"`, the
            share of the variance.
        block_size: int, rows (of one image) read at a time, default 256: 42 MB of 16 cells and 1,280 numbers.

    Raises:
        ValueError: if `dim` exceeds the width, or the number of rows less one.

    Example:

    ```python
    import numpy as np
    from keras_itr.data.extraction import fit_pca

    fit_pca(np.random.normal(size=(100, 4, 16)), 8, "pca.npz")
    ```

    Reference: principal components by the eigenvectors of the covariance; the largest entry of each is made positive,
    so that signs do not depend on the library (our choice).
    """
    width = rows.shape[-1]
    count = int(np.prod(rows.shape[:-1]))
    check_pca(dim, count, width)

    def blocks():
        for start in range(0, len(rows), block_size):
            yield np.asarray(rows[start : start + block_size], "float64").reshape(-1, width)

    mean = sum(block.sum(axis=0) for block in blocks()) / count
    centred = (block - mean for block in blocks())
    variances, vectors = np.linalg.eigh(sum(block.T @ block for block in centred))
    components = vectors[:, ::-1][:, :dim]
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(dim)])
    explained = variances[::-1][:dim].sum() / variances.sum()
    with written_whole(path) as aside, open(aside, "wb") as file:
        np.savez(file, mean=mean.astype("float32"), components=components.astype("float32"), explained=explained)


def check_pca(dim, count, width):
    """Raises a `ValueError` unless `count` rows of `width` numbers have a PCA of `dim` components."""
    if not 1 <= dim <= min(width, count - 1):
        raise ValueError(
            f"a PCA of {count} rows of width {width} has 1 to {min(width, count - 1)} components, not {dim}."
        )


def _settings(names, settings, batch_size, dtype):
    return {**settings, "names": digest(names or ()), "batch_size": batch_size, "dtype": dtype}


def digest(lines):
    """SHA-256 of a sequence of strings: what tells one list of photos or captions from another."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_digest(source):
    """What identifies a file, or the files of a folder, by content; a name that is neither identifies itself."""
    path = Path(source)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if path.is_dir():
        return digest(f"{file.name} {content_digest(file)}" for file in sorted(path.iterdir()) if file.is_file())
    return str(source)


def _read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(path, content):
    with written_whole(path) as aside:
        aside.write_text(json.dumps(content), encoding="utf-8")
