import numpy as np

from keras_itr.search.exact_engine import ExactEngine
from keras_itr.search.nearest import best_first, pair_products
from keras_itr.search.sampling import evenly
from keras_itr.search.two_stage import check_length, highest

_BLOCK = 1 << 16  # rows handed over at a time


class FaissEngine:
    """The engine of a `GalleryIndex` that looks at a part of the gallery, by FAISS: `IVF,SQ8`.

    The vectors are sorted into lists around centres, and of a query only the lists of the `probes` nearest centres are
    searched, in codes of one byte a number. What comes out of it is scored once more with the vectors themselves, so
    that scores and their order are exact, and only items outside of those lists are missed. A query whose lists hold
    too few items is answered by exact search.

    Up to `approximate_above` items it is exact search. Above, the centres are found at the first search, or when the
    index is saved, and anew when the gallery has become twice as large.

    Args:
        dim: int, width of the vectors.
        dtype: of the vectors beside the codes, `"float32"` (default) or `"float16"`.
        approximate_above: int, default 100,000.
        lists: int, number of lists; None (default): twice the root of the number of items.
        probes: int, lists searched for each query, default 16. More find more, and take longer.

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if a number is below 1.

    Example: see `GalleryIndex`, which uses it.

    Reference: Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, PAMI 2011, for the inverted
    lists; https://github.com/facebookresearch/faiss.
    """

    renumbers = True

    def __init__(self, dim, dtype="float32", approximate_above=100_000, lists=None, probes=16):
        _faiss()
        self.exact = ExactEngine(dim, dtype)
        self.dim = dim
        self.approximate_above = check_length(approximate_above, "approximate_above", least=0)
        self.lists = None if lists is None else check_length(lists, "lists")
        self.probes = check_length(probes, "probes")
        self.index, self.trained_with, self.coded = None, 0, 0

    @property
    def settings(self):
        return {
            **self.exact.settings,
            "approximate_above": self.approximate_above,
            "lists": self.lists,
            "probes": self.probes,
        }

    @property
    def approximate(self):
        return len(self.exact.store) > self.approximate_above

    def add(self, vectors):
        self.exact.add(vectors)

    def delete(self, rows):
        if self.index is not None:
            self.index.remove_ids(rows[rows < self.coded])

    def search(self, queries, k, alive):
        if not self.approximate:
            return self.exact.search(queries, k, alive)
        self._prepare(alive)
        self.index.nprobe = min(self.probes, self.index.nlist)
        # More than asked for: the codes may have put an item a few places back.
        rows = np.sort(self.index.search(queries, 2 * k + 16)[1], axis=1)
        scores = pair_products(queries, self.exact.store, np.maximum(rows, 0))
        scores[rows < 0] = -np.inf
        kept = highest(scores, k)
        rows, scores = best_first(*(np.take_along_axis(part, kept, axis=1) for part in (rows, scores)))
        short = np.isneginf(scores[:, -1])
        if short.any():
            rows[short], scores[short] = self.exact.search(queries[short], k, alive)
        return rows, scores

    def exact_search(self, queries, k, alive):
        return self.exact.search(queries, k, alive)

    def vectors(self, rows):
        return self.exact.vectors(rows)

    def save(self, directory, rows):
        self.exact.save(directory, rows)
        if not self.approximate:
            return
        alive = np.zeros(len(self.exact.store), bool)
        alive[rows] = True
        self._prepare(alive)
        faiss, index = _faiss(), self.index
        if not alive.all():
            # The centres stay, the codes get the new numbers.
            index = faiss.clone_index(index)
            index.reset()
            self._fill(index, rows, np.arange(len(rows)))
        faiss.write_index(index, str(directory / "index.faiss"))

    def load(self, directory, rows):
        self.exact.load(directory, rows)
        path = directory / "index.faiss"
        if path.exists():
            self.index = _faiss().read_index(str(path))
            self.coded = self.trained_with = len(self.exact.store)

    def discard(self):
        """Nothing lies outside of the folder."""

    def _prepare(self, alive):
        """Find centres if there are none, or too few; give codes to what was added since."""
        count = len(self.exact.store)
        if self.index is None or count > 2 * self.trained_with:
            self.index, self.trained_with, self.coded = self._trained(count), count, 0
        if self.coded < count:
            rows = np.arange(self.coded, count)
            rows = rows if alive is None else rows[alive[self.coded :]]
            self._fill(self.index, rows, rows)
            self.coded = count

    def _trained(self, count):
        faiss = _faiss()
        lists = min(self.lists or round(2 * count**0.5), count)
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(self.dim), self.dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid = 1
        index.train(self._floats(evenly(count, 64 * lists)))
        return index

    def _fill(self, index, rows, numbers):
        """Give codes to rows of the gallery, under these numbers."""
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            index.add_with_ids(self._floats(rows[part]), numbers[part])

    def _floats(self, rows):
        return np.ascontiguousarray(self.exact.store[rows], "float32")


def _faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError('engine "faiss" needs FAISS: pip install "keras-itr[search]"') from error
    return faiss
