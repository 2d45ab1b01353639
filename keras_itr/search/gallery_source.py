import dataclasses
import os
from pathlib import Path

import numpy as np

from keras_itr.data.extraction import content_digest, digest
from keras_itr.data.feature_extraction import photos_of
from keras_itr.data.missing_data import missing_file
from keras_itr.data.pairs import read_column
from keras_itr.data.text_files import read_lines
from keras_itr.hub_handles import is_handle
from keras_itr.models.preset_index import preset_directory, read_index


@dataclasses.dataclass(frozen=True)
class GallerySource:
    """What a gallery is made of: the photos of a folder, or the captions of a file.

    A photo is known by its name in the folder, its size and its time of change: a file of the same three is taken for
    the same photo. A caption is known by its text; one that stands in the file several times is one item.

    Attributes:
        side: `"image"` or `"text"`.
        names: list of distinct strings, ids of the items: names of photos in the folder, sorted, or captions, in the
            order of the file.
        inputs: list of strings, paths of the photos, or captions.
        marks: int64 `(N, 2)`, size and time of change of the photos in nanoseconds; zeros for captions.

    Example:

    ```python
    from keras_itr.search.gallery_source import GallerySource

    GallerySource.read("photos").names[:3]
    ```

    Source: our choice.
    """

    side: str
    names: list
    inputs: list
    marks: np.ndarray

    @classmethod
    def read(cls, source, column="caption"):
        """List a folder of photos, or the captions of a `.txt`, a line each, or of a column of a `.csv` or `.tsv`.

        Raises:
            FileNotFoundError: if there is no such folder or file, with the nearest name.
            ValueError: if it is another kind of file, or holds nothing.
        """
        source = Path(source)
        if source.is_dir():
            names, paths = photos_of(source)
            for name in names:
                if not name.isascii() and name != name.encode(errors="replace").decode():
                    raise ValueError(f"{source}: the name {name!r} is not UTF-8; rename the photo.")
            states = [os.stat(path) for path in paths]
            marks = np.array([(state.st_size, state.st_mtime_ns) for state in states], np.int64)
            return cls("image", names, paths, marks)
        captions = list(dict.fromkeys(_captions(source, column)))
        return cls("text", captions, captions, np.zeros((len(captions), 2), np.int64))


def _captions(source, column):
    if not source.is_file():
        raise FileNotFoundError(missing_file(source))
    if source.suffix == ".txt":
        return [line.strip() for _, line in read_lines(source)]
    if source.suffix not in (".csv", ".tsv"):
        raise ValueError(
            f"{source}: must be a folder of photos, or captions: .txt, one a line, or .csv or .tsv with a column."
        )
    captions = read_column(source, column)
    if not captions:
        raise ValueError(f"{source}: the column {column!r} holds no caption.")
    return captions


def item_keys(names, marks):
    """list of strings, what tells each item from others and from its earlier self.

    Args:
        names: list of strings.
        marks: int `(N, 2)`, size and time of change.
    """
    return [f"{name} {size} {time}" for name, (size, time) in zip(names, marks.tolist(), strict=True)]


def preset_identity(preset):
    """`(name, digest)` of a preset: what to load it by from anywhere, and a digest of all its files.

    Args:
        preset: name, directory or hub handle, as for `from_preset`. A handle is its own digest.

    Raises:
        FileNotFoundError: if it is none of these.
    """
    preset = str(preset)
    if is_handle(preset):
        return preset, preset
    directory = preset_directory(preset) if preset in read_index() else Path(preset)
    if not directory.is_dir():
        from keras_itr.models import from_preset

        from_preset(preset)  # raises, and names the nearest
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    content = digest(f"{path.relative_to(directory).as_posix()} {content_digest(path)}" for path in files)
    return preset if preset in read_index() else str(directory.resolve()), content
