import inspect
import itertools
import json
from pathlib import Path

import numpy as np

from keras_itr.files import complete_replacement, folder_written_whole, read_unreplaced
from keras_itr.messages import one_line
from keras_itr.search.exact_engine import ExactEngine
from keras_itr.search.faiss_engine import FaissEngine
from keras_itr.search.index_checks import checked_ids, checked_queries, checked_vectors
from keras_itr.search.index_files import MANIFEST, read_manifest, write_manifest
from keras_itr.search.milvus_engine import MilvusEngine
from keras_itr.search.sampling import evenly, share_found
from keras_itr.search.two_stage import check_length

ENGINES = {"exact": ExactEngine, "faiss": FaissEngine, "milvus": MilvusEngine}


class GalleryIndex:
    """Vectors under the ids of what they stand for, searched by dot product.

    Scores are products of the vectors as they are given: nothing is normalised here. `embed_images` and `embed_texts`
    give unit vectors, whose product is the cosine.

    | engine | what it does | settings |
    |---|---|---|
    | `"exact"` | looks at every vector, in blocks; after `load` the vectors stay on disk | `dtype` |
    | `"faiss"` | `IVF,SQ8` above a size, see `FaissEngine` | `dtype`, `approximate_above`, `lists`, `probes` |
    | `"milvus"` | a Milvus file or server, see `MilvusEngine` | `uri`, `collection`, `overwrite`, `index_type`, ... |

    `"faiss"` and `"milvus"` need `pip install "keras-itr[search]"`. An index is of one thread, as lists and dicts are;
    an index on disk may be loaded while another process saves it.

    Args:
        dim: int, width of the vectors; None (default) takes that of the first ones.
        engine: string, default `"exact"`.
        **settings: of the engine, such as `dtype="float16"`.

    Attributes:
        notes: dict that JSON can hold, saved with the index: what it was made of.
        recall: what `measure_recall` found last, or None.

    Raises:
        ValueError: for an unknown engine or setting.
        ImportError: if the engine is not installed.

    Example:

    ```python
    import numpy as np
    from keras_itr.search import GalleryIndex

    index = GalleryIndex()
    index.add(["cat.jpg", "dog.jpg"], np.eye(2, dtype="float32"))
    ids, scores = index.search(np.array([[0.1, 0.9]], "float32"), k=1)  # [["dog.jpg"]], [[0.9]]
    index.save("gallery")
    GalleryIndex.load("gallery")
    ```

    Source: our choice.
    """

    def __init__(self, dim=None, engine="exact", **settings):
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}; engines are {', '.join(ENGINES)}.")
        known = [name for name in inspect.signature(ENGINES[engine]).parameters if name != "dim"]
        for name in settings:
            if name not in known:
                raise ValueError(f"engine {engine!r} has no setting {name!r}; its settings are {', '.join(known)}.")
        self.engine_name = engine
        self.notes = {}
        self.recall = None
        self._settings = settings
        self._engine = None
        self.dim = None
        if dim is not None:
            self._start(check_length(dim, "dim"))
        self._ids, self._rows = [], {}  # id by row, None where it was deleted; row by id
        self._alive = np.empty(0, bool)

    def __len__(self):
        return len(self._rows)

    def __contains__(self, item):
        return item in self._rows

    @property
    def ids(self):
        """list of the ids, in the order in which they were added."""
        return list(self._rows)

    @property
    def settings(self):
        """dict of the engine's settings."""
        return self._settings if self._engine is None else self._engine.settings

    def add(self, ids, vectors, replace=False):
        """Add items.

        Args:
            ids: sequence of distinct ints or of distinct strings, such as file names.
            vectors: float array `(N, D)`, one row per id.
            replace: bool, default False: whether an id that is there takes the new vector. It then counts as added
                now, for the order of equal scores.

        Raises:
            ValueError: for an id that is there already or stands twice, ids of another kind, a vector of another
                width, or a number that is not finite in the type of the vectors.
        """
        ids = checked_ids(ids, self._first_id())
        vectors = checked_vectors(vectors, self.dim, self.settings.get("dtype", "float32"), ids)
        there = [item for item in ids if item in self._rows]
        if there and not replace:
            raise ValueError(f"id {there[0]!r} is in the index already; delete it first, or pass replace=True.")
        if self._engine is None:
            self._start(vectors.shape[1])
        self.delete(there)
        if ids:
            self._engine.add(vectors)
        self._rows.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids)), strict=True))
        self._ids += ids
        self._alive = np.concatenate([self._alive, np.ones(len(ids), bool)])
        self.recall = None

    def delete(self, ids):
        """Delete items.

        Args:
            ids: sequence of ids.

        Raises:
            ValueError: names an id that is not there; then nothing is deleted.
        """
        rows = self._rows_of(ids)
        if not len(rows):
            return
        self._engine.delete(rows)
        self._alive[rows] = False
        for row in rows:
            del self._rows[self._ids[row]]
            self._ids[row] = None
        self.recall = None

    def search(self, queries, k):
        """The items of the highest scores.

        Args:
            queries: float array `(Q, D)`.
            k: int of at least 1; more than there are items is all of them.

        Returns:
            pair of `(Q, K)` arrays: ids, int64 or strings, best first, and float32 scores. Of equal scores the item
            that was added first comes first. `K` is 0 if the index is empty.

        Raises:
            ValueError: if `k` is below 1, or queries have another width or a number that is not finite.
        """
        rows, scores = self._search(queries, k, self._engine and self._engine.search)
        ids = [[self._ids[row] for row in of_query] for of_query in rows.tolist()]
        kind = np.str_ if isinstance([*self._first_id(), 0][0], str) else np.int64
        return np.array(ids, kind).reshape(rows.shape), scores

    def vectors(self, ids):
        """The vectors of items, as they are stored: `(N, D)`, float32 or float16."""
        return self._engine.vectors(self._rows_of(ids))

    def measure_recall(self, queries=None, k=10, sample=256):
        """How many of the `k` best items the engine finds, against exact search, in percent.

        Args:
            queries: float array `(Q, D)`, such as the vectors of captions; None (default) takes items of the index,
                evenly, each without itself. An index of images answers texts less well than images: measure with
                what will be asked.
            k: int, default 10.
            sample: int, queries used at most, default 256.

        Returns:
            dict with `"recall"`, `"k"`, `"queries"`, how many were used, and `"of"`, `"own vectors"` or
            `"given queries"`. It is kept as `recall`, and saved with the index.

        Raises:
            ValueError: for an index of fewer than two items, or an engine without the vectors.
        """
        if len(self) < 2:
            raise ValueError(f"recall needs at least two items, the index holds {len(self)}.")
        own = queries is None
        chosen = evenly(len(self) if own else len(queries), sample)
        rows = np.flatnonzero(self._alive)[chosen] if own else np.full(len(chosen), -1)
        queries = self._engine.vectors(rows) if own else np.asarray(queries)[chosen]
        k = min(check_length(k), len(self) - own)
        # An item finds itself: one more is asked for, and it is left out.
        found, best = (
            self._search(queries, k + own, how)[0] for how in (self._engine.search, self._engine.exact_search)
        )
        of = "own vectors" if own else "given queries"
        self.recall = {"recall": share_found(found, best, rows, k), "k": k, "queries": len(queries), "of": of}
        return self.recall

    def save(self, directory):
        """Write the index into a folder, whole or not at all; an index that is there is replaced.

        The recall of an approximate engine is measured first, if it is not known.

        Args:
            directory: folder, made if need be.

        Raises:
            ValueError: if the folder holds something else than an index.
        """
        directory = Path(directory)
        engine = self._engine
        if engine is not None and engine.approximate and self.recall is None and len(self) > 1:
            self.measure_recall()
        ids = [item for item in self._ids if item is not None or (engine and not engine.renumbers)]
        description = {
            "count": len(self),
            "dim": self.dim,
            "engine": self.engine_name,
            "settings": self.settings,
            "recall": self.recall,
            "notes": self.notes,
        }
        with folder_written_whole(directory, overwrite=(directory / MANIFEST).is_file()) as aside:
            (aside / "ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
            if engine is not None:
                engine.save(aside, np.flatnonzero(self._alive))
            write_manifest(aside, description)

    @classmethod
    def load(cls, directory, verify=True, **settings):
        """The index that `save` wrote; vectors stay on disk until they are looked at.

        Args:
            directory: the folder.
            verify: bool, default True: compare the checksum of every file, which reads all of it once. False looks at
                the sizes alone.
            **settings: of the engine in place of the saved ones, such as `probes=64`.

        Raises:
            FileNotFoundError: if there is no index.
            ValueError: names the file that is missing, damaged or cut short.
        """
        directory = Path(directory)
        complete_replacement(directory)
        return read_unreplaced(directory, lambda: cls._read(directory, verify, settings))

    @classmethod
    def _read(cls, directory, verify, settings):
        manifest = read_manifest(directory, verify)
        index = cls(manifest["dim"], manifest["engine"], **{**manifest["settings"], **settings})
        index.notes, index.recall = manifest["notes"], manifest["recall"]
        index._ids = json.loads((directory / "ids.json").read_text(encoding="utf-8"))
        index._rows = {item: row for row, item in enumerate(index._ids) if item is not None}
        index._alive = np.array([item is not None for item in index._ids], bool)
        if index._engine is not None:
            try:
                index._engine.load(directory, np.flatnonzero(index._alive))
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{directory}: {one_line(error)}") from error
        return index

    def discard(self):
        """Remove what the index holds outside of its folder: the collection in Milvus. Then it is of no use."""
        if self._engine is not None:
            self._engine.discard()

    def _first_id(self):
        return list(itertools.islice(self._rows, 1))

    def _rows_of(self, ids):
        ids = checked_ids(ids, self._first_id())
        absent = [item for item in ids if item not in self._rows]
        if absent:
            raise ValueError(f"id {absent[0]!r} is not in the index, which holds {len(self)} items.")
        return np.array([self._rows[item] for item in ids], np.int64)

    def _start(self, dim):
        self._engine = ENGINES[self.engine_name](dim, **self._settings)
        self.dim = dim

    def _search(self, queries, k, search):
        """`(Q, K)` rows and scores of `search`, the engine's own or the exact one."""
        k = min(check_length(k), len(self))
        queries = checked_queries(queries, self.dim)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), "float32")
        return search(queries, k, None if self._alive.all() else self._alive)
