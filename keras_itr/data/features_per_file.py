import zipfile
import zlib

import numpy as np

from keras_itr.progress import SlowBar

# The array's name in an archive: ours, and those of public region features (bottom-up attention and its kin).
FEATURE_KEYS = ("features", "feat", "x")


class FeaturesPerFile:
    """One `.npy` or `.npz` per image, read a batch of rows at a time.

    Every file is read and checked once when the column is made, and again when
    a batch asks for it; nothing is kept in memory. Images with fewer regions
    than others are filled up with zeros; `mask` says which regions are real.

    Args:
        paths: list of `N` paths that are known to exist.
        read: function of a path that returns an array. Defaults to
            `read_features_file`.
        rank: int, axes of one array: 2 (default) for regions `(R, D)`, 1 for a
            vector `(D,)`.
        max_rows: int, regions per image: of more, the first are taken. Defaults
            to the largest number there is.

    Attributes:
        shape: `(N, R, D)`, or `(N, D)` for rank 1.
        dtype: the floating type that holds them all.
        lengths: int `(N,)`, regions in every file, before anything is cut.

    Raises:
        ValueError: names the file, if it is no array of numbers, has no region,
            another width than the first, or holds a number that is not finite.

    Example:

    ```python
    regions = FeaturesPerFile(["features/one.npz", "features/two.npz"])
    regions[[1, 0]].shape, regions.mask.shape  # ((2, 36, 2048), (2, 36))
    ```
    """

    def __init__(self, paths, read=None, rank=2, max_rows=None):
        self.paths, self.read = list(paths), read or read_features_file
        self.lengths = np.zeros(len(self.paths), int)
        self.dtype, width = np.dtype("float16"), None
        bar = SlowBar(len(self.paths))
        for row, path in enumerate(self.paths):
            array = self.read(path)
            width = width or array.shape[-1:]
            self._check(path, array, rank, width)
            self.dtype = np.result_type(self.dtype, array.dtype)
            self.lengths[row] = len(array)
            bar.update(row + 1)
        most = (max_rows or int(self.lengths.max()),) if rank == 2 else ()
        self.shape, self.ndim = (len(self.paths), *most, *width), 1 + rank

    @property
    def mask(self):
        """bool `(N, R)`, True where a region is real."""
        return np.arange(self.shape[1]) < self.lengths[:, None]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        batch = np.zeros((*rows.shape, *self.shape[1:]), self.dtype)
        for place in np.ndindex(rows.shape):
            array = self.read(self.paths[rows[place]])[: self.shape[1]]
            batch[place][: len(array)] = array
        return batch

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def _check(self, path, array, rank, width):
        if array.ndim != rank:
            raise ValueError(f"{path}: expected {rank} axes, found shape {array.shape}.")
        if not array.size:
            raise ValueError(f"{path}: holds no numbers, shape {array.shape}; leave the image out.")
        if array.shape[-1:] != width:
            raise ValueError(f"{path}: width {array.shape[-1]}, but {self.paths[0]} has {width[0]}.")
        finite = np.isfinite(array)
        if not finite.all():
            raise ValueError(f"{path}: row {np.argwhere(~finite)[0][0]} holds a number that is not finite.")


def read_features_file(path):
    """The features of one image, `(R, D)` or `(D,)`: a `.npy`, or `features`, `feat` or `x` of a `.npz`.

    Raises:
        ValueError: names the file, if it holds no such array of floats, or its
            `num_bbox` says that rows and columns are the wrong way round.
    """
    features, extras = read_array(path, FEATURE_KEYS, ("num_bbox",))
    if features.dtype.kind != "f":
        raise ValueError(f"{path}: features must be floats, found {features.dtype}.")
    if "num_bbox" in extras and features.ndim == 2 and len(features) != int(extras["num_bbox"]):
        raise ValueError(
            f"{path}: shape {features.shape} for num_bbox={int(extras['num_bbox'])}; one row per region is needed: "
            "transpose it."
        )
    return features


def read_array(path, keys, extras=()):
    """A `.npy`, or the first of `keys` in a `.npz` with those of `extras` that are there. Never a pickle.

    Returns:
        `(array, dict of extra arrays)`.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return stored, {}
            # Arrays of an archive are read when asked for: a pickled one beside ours is never touched.
            key = next((key for key in keys if key in stored.files), None)
            if key is not None:
                return stored[key], {extra: stored[extra] for extra in extras if extra in stored.files}
            held = ", ".join(stored.files) or "nothing"
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a plain .npy or .npz array ({error}).") from error
    raise ValueError(f"{path}: no array {' or '.join(map(repr, keys))} in the archive; it holds {held}.")
