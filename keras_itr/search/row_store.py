import numpy as np


class RowStore:
    """A matrix that grows by rows: those of a file, memory-mapped, and behind them those that were added since.

    Args:
        dim: int, width of a row.
        dtype: of the rows, `"float32"` (default) or `"float16"`.
        stored: `(N, dim)` array of that type, such as a memory map, which is only read; None (default) for none.

    Raises:
        ValueError: if `stored` has another width or type.

    Example:

    ```python
    import numpy as np
    from keras_itr.search.row_store import RowStore

    store = RowStore(2)
    store.append(np.ones((3, 2)))
    store[1:5].shape  # (2, 2)
    ```

    Source: our choice.
    """

    def __init__(self, dim, dtype="float32", stored=None):
        self.stored = np.empty((0, dim), dtype) if stored is None else stored
        if self.stored.shape[1:] != (dim,) or self.stored.dtype != np.dtype(dtype):
            raise ValueError(f"must hold {dtype} (N, {dim}), holds {self.stored.dtype} {self.stored.shape}.")
        self.dtype = self.stored.dtype
        # Twice as long whenever it is full: an item is then copied twice at most, on average.
        self.added, self.count = np.empty((0, dim), dtype), 0

    @property
    def shape(self):
        return len(self), self.stored.shape[1]

    def __len__(self):
        return len(self.stored) + self.count

    def __getitem__(self, places):
        """Rows of a slice without a step, or of an int array of any shape."""
        if not self.count:
            return self.stored[places]
        first = len(self.stored)
        if isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            behind = self.added[max(0, start - first) : max(0, stop - first)]
            return behind if start >= first else np.concatenate([self.stored[start:stop], behind])
        if not first:
            return self.added[places]
        rows, behind = np.empty((*places.shape, self.shape[1]), self.dtype), places >= first
        rows[~behind], rows[behind] = self.stored[places[~behind]], self.added[places[behind] - first]
        return rows

    def append(self, rows):
        """Add rows `(n, dim)` at the end."""
        needed = self.count + len(rows)
        if needed > len(self.added):
            longer = np.empty((max(needed, 2 * len(self.added)), self.shape[1]), self.dtype)
            longer[: self.count] = self.added[: self.count]
            self.added = longer
        self.added[self.count : needed] = rows
        self.count = needed

    def save(self, path, places, block_size=1 << 16):
        """Write the rows at int `places` `(n,)` to a `.npy`, block by block."""
        file = np.lib.format.open_memmap(path, "w+", self.dtype, (len(places), self.shape[1]))
        for start in range(0, len(places), block_size):
            file[start : start + block_size] = self[places[start : start + block_size]]
        file.flush()
