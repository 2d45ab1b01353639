import json
import os
import struct
from pathlib import Path

import numpy as np

from keras_itr.files import written_whole

PHOTOS_PER_SHARD = 1000  # 1,000 photos of 341 x 256 are 260 MB


class PhotoCache:
    """Decoded photos in a few large files, for training where decoding is the limit.

    A shard is `<name>-00000.npy`, 1-d uint8: one uncompressed bitmap after the other, so that a photo out of the cache
    takes the same way through the pipeline as an encoded one and has the same pixels. Beside it `<name>-00000.json`
    says which photos it holds, how they were shrunk, and the size and the time of each file: a photo that changed is
    decoded again. Shards are written aside and moved into place, the JSON last; an interrupted build goes on with the
    next shard.

    Indexing with rows gives an object array of `bytes`.

    Attributes:
        faults: dict of row to what is wrong with that photo; such a row must not be read.

    Example: see `keras_itr.data.prepare_photos`.

    Our choice.
    """

    encoded = True  # the column holds the contents of files, not their paths

    def __init__(self, shards):
        self.arrays, self.places, self.faults = [], [], {}
        for number, (array, index) in enumerate(shards):
            self.arrays.append(array)
            ends = np.cumsum(index["bytes"]).tolist()
            for row, fault in index["faults"]:
                self.faults[len(self.places) + row] = fault
            self.places += [(number, end - size, end) for end, size in zip(ends, index["bytes"], strict=True)]
        self.shape, self.dtype, self.ndim = (len(self.places),), np.dtype(object), 1

    @classmethod
    def build(cls, paths, directory, name, decode, shorter_side=None, bar=None):
        """Open the cache of these photos, and decode those that are not in it yet.

        Args:
            paths: list of strings.
            directory: folder of the cache; made if it is not there.
            name: string, the files' prefix.
            decode: function of `(paths, shorter_side)` that yields uint8 (H, W, 3), or a string for a broken photo.
            shorter_side: int or None, given to `decode`.
            bar: a `SlowBar`, or None.

        Returns:
            A `PhotoCache`, one row per path.

        Raises:
            OSError: if the folder cannot be written.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        shards = []
        for number, start in enumerate(range(0, len(paths), PHOTOS_PER_SHARD)):
            part = paths[start : start + PHOTOS_PER_SHARD]
            stem = directory / f"{name}-{number:05d}"
            photos = {"shorter_side": shorter_side, "files": [_identity(path) for path in part]}
            shards.append(_read_shard(stem, photos) or _write_shard(stem, photos, decode(part, shorter_side)))
            if bar:
                bar.update(start + len(part))
        return cls(shards)

    def __len__(self):
        return len(self.places)

    def __getitem__(self, rows):
        if np.ndim(rows) == 0 and not isinstance(rows, slice):
            return self._contents(rows)
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        contents = np.empty(len(chosen), object)
        contents[:] = [self._contents(row) for row in chosen]
        return contents

    def _contents(self, row):
        if int(row) in self.faults:
            raise ValueError(self.faults[int(row)])
        number, start, end = self.places[row]
        return self.arrays[number][start:end].tobytes()


def _read_shard(stem, photos):
    """`(array, index)` of a shard that holds just these photos as they are now, or None."""
    if not (stem.with_suffix(".json").exists() and stem.with_suffix(".npy").exists()):
        return None
    try:
        index = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        array = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        return (array, index) if index["photos"] == photos and len(array) == sum(index["bytes"]) else None
    except (ValueError, KeyError, TypeError):
        return None  # damaged: decoded again


def _write_shard(stem, photos, decoded):
    bitmaps, faults = [], []
    for row, photo in enumerate(decoded):
        is_broken = isinstance(photo, str)
        faults += [[row, photo]] if is_broken else []
        bitmaps.append(b"" if is_broken else _bitmap(photo))
    index = {"photos": photos, "bytes": [len(bitmap) for bitmap in bitmaps], "faults": faults}
    # While the pixels are replaced there is no JSON to vouch for them.
    stem.with_suffix(".json").unlink(missing_ok=True)
    with written_whole(stem.with_suffix(".npy")) as aside:
        np.save(aside, np.frombuffer(b"".join(bitmaps), np.uint8))
    with written_whole(stem.with_suffix(".json")) as aside:
        aside.write_text(json.dumps(index), encoding="utf-8")
    return np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False), index


def _identity(path):
    try:
        status = os.stat(path)
    except OSError:
        return [path, -1, -1]
    return [path, status.st_size, status.st_mtime_ns]


def _bitmap(pixels):
    """uint8 (H, W, 3) -> the bytes of an uncompressed BMP file, rows from the top."""
    height, width, _ = pixels.shape
    rows = np.pad(pixels[..., ::-1].reshape(height, -1), ((0, 0), (0, -3 * width % 4)))
    header = struct.pack("<2sIHHI", b"BM", 54 + rows.size, 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, rows.size, 0, 0, 0, 0) + rows.tobytes()
