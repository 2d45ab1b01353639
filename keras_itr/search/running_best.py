import numpy as np

from keras_itr.search.two_stage import highest

# Items whose products with a query are looked at together: their maximum tells whether any of them matters.
GROUP = 16


class RunningBest:
    """The best items of a block of queries so far, while tile after tile of products comes by.

    Once every query has its `size` items, a product matters only if it is above the last of them. The maxima of groups
    of items, which take a few percent of the time of the products, tell where to look. What is found there is kept
    aside, and put in order when there is enough of it.

    Args:
        queries: int, rows of the block.
        size: int, items kept for each.

    Example:

    ```python
    import numpy as np
    from keras_itr.search.running_best import RunningBest

    best = RunningBest(queries=1, size=2)
    best.see(np.array([[0.1] * 16]), start=0)
    best.see(np.array([[0.0] * 15 + [0.7]]), start=16)
    best.finish(2)  # [[0, 31]], [[0.1, 0.7]]
    ```

    Source: our choice.
    """

    def __init__(self, queries, size):
        self.size = size
        # Of each query, ids rising; fewer than `size` as long as fewer were seen.
        self.ids = np.empty((queries, 0), np.int64)
        self.products = np.empty((queries, 0))
        self.found = []  # flat arrays of what is above: query, id, product
        self.waiting = 0

    def see(self, products, start):
        """Take in a tile: `(Q, C)` products with items `start` to `start + C`, `C` a multiple of `GROUP`.

        Tiles come with rising `start`: of equal products the earlier one stays. An item that must not be found, or is
        padding, has the product `-inf`.

        Raises:
            ValueError: if a product is NaN.
        """
        # Every C / GROUP-th item belongs to one group: maxima of whole rows are the fast ones.
        grouped = products.reshape(len(products), GROUP, -1)
        maxima = grouped.max(axis=1)
        # A maximum is NaN where any of its products is.
        if np.isnan(maxima.max()):
            raise ValueError("embeddings must not hold NaN; the model has diverged or its inputs hold NaN.")
        threshold = self._threshold(maxima)
        if threshold is None:
            return self._see_all(products, start)
        queries, groups = np.nonzero(maxima > threshold)
        if len(groups) * GROUP > products.size // 8:
            return self._see_all(products, start)
        candidates = grouped[queries, :, groups]
        place, offset = np.nonzero(candidates > threshold[queries])
        self.found.append((queries[place], start + offset * maxima.shape[1] + groups[place], candidates[place, offset]))
        self.waiting += len(place)
        if self.waiting > self.size * len(products) or not self.ids.shape[1]:
            self._settle()

    def finish(self, size):
        """The `size` best items: `(Q, size)` ids, rising, and products.

        Raises:
            ValueError: if there are not so many with a product above `-inf`.
        """
        self._settle()
        self._keep(self.ids[:, :0], self.products[:, :0], size)
        if np.isneginf(self.products).any():
            raise ValueError("products of embeddings must be finite; the numbers in them are too large.")
        return self.ids, self.products

    def _threshold(self, maxima):
        """`(Q, 1)` products that must be exceeded; None if nothing is known yet."""
        if self.ids.shape[1] == self.size:
            return self.last
        if self.ids.shape[1] or maxima.shape[1] < self.size:
            return None
        # So many groups reach this product that as many items do.
        reached = np.partition(maxima, -self.size, axis=1)[:, -self.size, None]
        return None if np.isneginf(reached).any() else np.nextafter(reached, -np.inf, dtype=reached.dtype)

    def _see_all(self, products, start):
        """The best items of the tile itself: of a first one, and of one with very many new items."""
        self._settle()
        places = highest(products, min(self.size, products.shape[1]))
        self._keep(start + places, np.take_along_axis(products, places, axis=1), self.size)

    def _settle(self):
        """What was found, as rows of each query, filled up with `-inf`, joined to those that are kept."""
        if not self.waiting:
            return
        queries, ids, products = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
        order = np.argsort(queries * (ids.max() + 1) + ids)
        counts = np.bincount(queries, minlength=len(self.ids))
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.zeros((len(counts), counts.max()), np.int64), np.full((len(counts), counts.max()), -np.inf)
        for row, flat in zip(rows, (ids, products), strict=True):
            row[queries[order], place] = flat[order]
        self.found, self.waiting = [], 0
        self._keep(rows[0], rows[1].astype(products.dtype), self.size)

    def _keep(self, ids, products, size):
        """Join rows of later ids to those that are kept, and keep the best `size`."""
        ids = np.concatenate([self.ids, ids], axis=1)
        products = np.concatenate([self.products.astype(products.dtype, copy=False), products], axis=1)
        if ids.shape[1] > size:
            kept = highest(products, size)
            ids, products = np.take_along_axis(ids, kept, axis=1), np.take_along_axis(products, kept, axis=1)
        self.ids, self.products = ids, products
        self.last = products.min(axis=1, keepdims=True)
