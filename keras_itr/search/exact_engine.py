import numpy as np

from keras_itr.search.nearest import best_first, nearest
from keras_itr.search.row_store import RowStore


class ExactEngine:
    """The engine of a `GalleryIndex` that looks at every vector; the others have the same methods.

    Rows are numbered in the order in which they are added, and keep their number until the index is saved.

    Args:
        dim: int, width of the vectors.
        dtype: `"float32"` (default) or `"float16"`, half the memory: vectors are rounded to eleven bits, products are
            computed in float32.

    Raises:
        ValueError: for another dtype.

    Example: see `GalleryIndex`, which uses it.
    """

    # Whether a saved index numbers its rows anew, without those that were deleted.
    renumbers = True
    # Whether it may miss an item.
    approximate = False

    def __init__(self, dim, dtype="float32"):
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}.")
        self.dim = dim
        self.dtype = dtype
        self.store = RowStore(dim, dtype)

    @property
    def settings(self):
        """What the constructor takes besides the width, as JSON can hold it."""
        return {"dtype": self.dtype}

    def add(self, vectors):
        """Add float32 vectors `(n, dim)` as the next rows."""
        self.store.append(vectors)

    def delete(self, rows):
        """Forget int rows `(n,)`; what must not be found is told to `search` as well."""

    def search(self, queries, k, alive):
        """The best rows of float32 queries.

        Args:
            queries: `(Q, dim)`.
            k: int, at most the number of rows that may be found.
            alive: bool `(N,)`, rows that may be found, or None for all.

        Returns:
            `(Q, k)` int64 rows, best first, and float32 products; of equals the lower row comes first.
        """
        return best_first(*nearest(queries, self.store, k, valid=alive))

    exact_search = search

    def vectors(self, rows):
        """The vectors of int rows `(n,)`, as they are stored."""
        return np.asarray(self.store[rows])

    def save(self, directory, rows):
        """Write what `load` reads of these rows into a folder."""
        self.store.save(directory / "vectors.npy", rows)

    def load(self, directory, rows):
        """Take over the files of a folder that hold these rows, int, without reading the vectors.

        Raises:
            ValueError: if they hold other vectors than that.
        """
        store = RowStore(self.dim, self.dtype, np.load(directory / "vectors.npy", "r", allow_pickle=False))
        if len(store) != len(rows):
            raise ValueError(f"vectors.npy holds {len(store)} vectors, and there are {len(rows)} ids.")
        self.store = store

    def discard(self):
        """Remove what lies outside of the folder of the index."""
