import dataclasses
import functools
import time
from pathlib import Path

import numpy as np

from keras_itr.data.feature_extraction import SUFFIXES
from keras_itr.data.missing_data import missing_file
from keras_itr.files import complete_replacement, read_rows, read_unreplaced
from keras_itr.search.gallery_index import GalleryIndex
from keras_itr.search.gallery_source import preset_identity
from keras_itr.search.index_files import read_manifest
from keras_itr.search.known_gallery import GALLERY
from keras_itr.search.two_stage import check_length


@dataclasses.dataclass(frozen=True)
class Found:
    """What `Gallery.search` found.

    Attributes:
        query: string, the caption, or the path of the photo.
        query_side: `"text"` or `"image"`.
        side: what the items are, `"image"` or `"text"`.
        ids: list of strings, best first: names of photos in the gallery's folder, or captions.
        scores: float32 `(K,)`.
        reranked: bool, whether a second stage gave order and scores.
        source: `Path` of the folder of photos, or of the file of captions.
        seconds: dict of what it took: `"load"`, once for a gallery, `"encode"`, `"search"`, `"rerank"`.
    """

    query: str
    query_side: str
    side: str
    ids: list
    scores: np.ndarray
    reranked: bool
    source: Path
    seconds: dict


class Gallery:
    """A gallery that `index_gallery` wrote, and the model that it was written with: captions and photos to search by.

    A gallery of photos or of captions is searched by a caption or by a photo. What is of the same kind as the gallery
    is compared by the same vectors, those made for image-text search: `embed_images(cross_modal=False)` and a
    `GalleryIndex` of your own are better where a method has such vectors. A method with a second stage then orders a
    shortlist of its own length by its local features, where query and gallery are of two kinds.

    Args:
        directory: the folder.
        preset: name, directory or handle of the preset; None (default) takes the one it was made with, from where it
            was. It must be the same, file by file.
        verify: bool, default True: compare the checksum of every file, which reads all of them once. False looks at
            the sizes alone.
        **settings: of the engine in place of the saved ones, such as `probes=64`.

    Raises:
        FileNotFoundError: if there is no gallery, or its preset is gone.
        ValueError: names a file that is damaged; or if the preset is another one, or has changed since.

    Example:

    ```python
    from keras_itr.search import Gallery

    gallery = Gallery("gallery")
    found = gallery.search("a dog on grass", k=5)
    print(found.ids, found.scores)
    gallery.search("my_photo.jpg").ids  # photos that resemble it
    ```

    Source: our choice; the second stage is `TwoStageSearch`.
    """

    def __init__(self, directory, preset=None, verify=True, **settings):
        started = time.perf_counter()
        self.directory = Path(directory)
        complete_replacement(self.directory)
        self.manifest, self.index, self._local = read_unreplaced(self.directory, lambda: self._read(verify, settings))
        self.side = self.manifest["side"]
        self.source = Path(self.manifest["source"])
        self.preset = self._checked_preset(preset)
        self.seconds = time.perf_counter() - started

    @functools.cached_property
    def model(self):
        """The retriever, loaded at the first search."""
        from keras_itr.models import from_preset

        return from_preset(self.preset, load_weights=True)

    def search(self, query, k=10, rerank=True, query_side=None):
        """The best items for one caption or photo.

        Args:
            query: string: the path of a photo if it ends as photos do, `.jpg` and so on, else a caption. Or a `Path`.
            k: int, default 10; more than the gallery is the gallery.
            rerank: bool, default True: use the method's second stage, if it has one and query and gallery are of two
                kinds.
            query_side: `"text"` or `"image"`, what the query is; None (default) tells by how it ends.

        Returns:
            A `Found`.

        Raises:
            FileNotFoundError: for the path of a photo that is not there.
            ValueError: for a photo that cannot be decoded, an empty caption, or `k` below 1.
        """
        query_side, query = _kind(query, query_side)
        check_length(k)
        marks = [time.perf_counter()]
        rerank = rerank and self.model.second_stage and query_side != self.side
        marks.append(time.perf_counter())
        features = self._encoded(query, query_side, rerank)
        marks.append(time.perf_counter())
        length = max(k, self._shortlist(query_side)) if rerank else k
        ids, scores = (rows[0] for rows in self.index.search(features["embedding"], length))
        marks.append(time.perf_counter())
        if rerank:
            ids, scores = self._reranked(features, ids, query_side)
        marks.append(time.perf_counter())
        seconds = dict(zip(("load", "encode", "search", "rerank"), np.diff(marks).tolist(), strict=True))
        seconds["load"] += self.seconds
        ids = ids[:k].tolist()
        return Found(query, query_side, self.side, ids, scores[:k], rerank, self.source, seconds)

    def _read(self, verify, settings):
        manifest = read_manifest(self.directory, verify, GALLERY)
        index = GalleryIndex.load(self.directory / "index", verify, **settings)
        features = self.directory / "features"
        return manifest, index, read_rows(features, f"{manifest['side']}_") if features.is_dir() else {}

    def _checked_preset(self, preset):
        made_with = self.manifest["preset"]
        try:
            name, content = preset_identity(made_with if preset is None else preset)
        except ValueError as error:
            if preset is not None:
                raise
            raise FileNotFoundError(
                f"{self.directory}: was made with the preset {made_with}, which is not there any more; pass preset, "
                "where it is now."
            ) from error
        if content != self.manifest["preset_digest"]:
            what = "has changed since" if preset is None else f"is not {name}"
            raise ValueError(
                f"{self.directory}: was made with the preset {made_with}, which {what}; its vectors do not fit those "
                "of another one. Index anew, or pass the preset it was made with."
            )
        return name

    @functools.cached_property
    def _two_stages(self):
        from keras_itr.search.two_stage_search import TwoStageSearch

        return TwoStageSearch(self.model, verbose=False)

    @functools.cached_property
    def _rows(self):
        return {item: row for row, item in enumerate(self.index.ids)}

    def _shortlist(self, query_side):
        both = self._two_stages
        return both.top_k_image_to_text if query_side == "image" else both.top_k_text_to_image

    def _encoded(self, query, query_side, local):
        from keras_itr.models.encoding import run_encoder

        what = "features" if local else "embedding"
        return run_encoder(self.model, query_side, what, [query], verbose=False)

    def _reranked(self, features, ids, query_side):
        # In the order of the gallery, so that of equals the first stays ahead; no more than the shortlist is read.
        rows = np.sort([self._rows[item] for item in ids.tolist()])
        candidates = {name: np.asarray(local[rows]) for name, local in self._local.items()}
        ranking = self._two_stages.order_shortlists(features, candidates, np.arange(len(rows))[None], query_side)
        names = self.index.ids
        return np.array([names[row] for row in rows[ranking.ids[0]]], np.str_), ranking.scores[0]


def _kind(query, side):
    """`"image"` or `"text"`, and the query as a string."""
    if side not in (None, "image", "text"):
        raise ValueError(f"query_side must be 'image', 'text' or None, received {side!r}.")
    text = str(query).strip()
    if side == "image" or (side is None and (isinstance(query, Path) or text.lower().endswith(SUFFIXES))):
        if not Path(query).is_file():
            raise FileNotFoundError(f"{missing_file(query)} What ends with {', '.join(SUFFIXES)} is taken for a photo.")
        return "image", str(query)
    if not text:
        raise ValueError("the query is empty; give a caption, or the path of a photo.")
    return "text", text
