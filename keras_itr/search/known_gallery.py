from pathlib import Path

import numpy as np

from keras_itr.files import complete_replacement, read_rows
from keras_itr.search.gallery_index import GalleryIndex
from keras_itr.search.gallery_source import item_keys
from keras_itr.search.index_files import read_manifest

GALLERY = "gallery.json"


class KnownGallery:
    """What a folder that `index_gallery` wrote before knows of its items, for the next time.

    Args:
        directory: folder; if there is none, nothing is known.
        preset_digest: string, of the preset that will be used. Vectors of another one are not known.
        side: `"image"` or `"text"`, likewise.
        dtype: string, the type in which vectors will be stored, likewise.

    Attributes:
        ids: list of strings, the items of the index, in their order.
        keys: list of strings, what identifies them and their state.
        faults: dict of key to what is wrong with an item.
        description: dict, what the manifest says of the gallery; None without one that can be used.

    Raises:
        ValueError: if the folder holds something else than a gallery.

    Example: see `index_gallery`, which uses it.

    Source: our choice.
    """

    def __init__(self, directory, preset_digest, side, dtype="float32"):
        directory = Path(directory)
        self.index, self.local, self.description = None, None, None
        self.ids, self.keys, self.faults = [], [], {}
        complete_replacement(directory)
        if not (directory / GALLERY).is_file():
            if directory.exists() and (directory.is_file() or any(directory.iterdir())):
                raise ValueError(f"{directory}: holds something else than a gallery; choose another folder.")
        else:
            try:
                self._read(directory, (preset_digest, side, dtype))
            except (ValueError, OSError) as error:
                print(f"{error} Every item is embedded again.")
        self.rows = {key: row for row, key in enumerate(self.keys)}

    def features(self, key):
        """dict of the arrays of one item."""
        row = self.rows[key]
        if self.local is not None:
            return {name: rows[row] for name, rows in self.local.items()}
        return {"embedding": self.index.vectors(self.ids[row : row + 1])[0].astype("float32")}

    def discard(self):
        """Forget what the index holds outside of its folder."""
        if self.index is not None:
            self.index.discard()

    def _read(self, directory, wanted):
        manifest = read_manifest(directory, name=GALLERY)
        self.index = GalleryIndex.load(directory / "index")
        dtype = self.index.settings.get("dtype", "float32")
        if (manifest["preset_digest"], manifest["side"], dtype) != wanted:
            return
        marks = np.load(directory / "marks.npy", allow_pickle=False)
        self.description = {name: value for name, value in manifest.items() if name not in ("format", "files")}
        self.ids, self.faults = self.index.ids, manifest["faults"]
        self.keys = item_keys(self.ids, marks)
        if (directory / "features").is_dir():
            self.local = read_rows(directory / "features", f"{manifest['side']}_")
