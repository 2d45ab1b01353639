import concurrent.futures
import functools
import os

import numpy as np
import threadpoolctl

from keras_itr.search.running_best import RunningBest
from keras_itr.search.two_stage import check_length, highest

# Multiply-adds below which a second thread costs more than it brings.
SMALL_WORK = 1 << 26
# Items looked at beyond the last: products of a BLAS depend on where an item stands and cannot tell equals apart.
SPARE, MOST_SPARE = 16, 1024


def nearest(queries, gallery, k, tile_bytes=1 << 22, valid=None):
    """The `k` items of the largest dot product with each query, without ever holding all products.

    Products are computed in tiles, on all cores; of a tile, only what is above the last of the best so far is looked
    at. It takes little longer than the products alone.

    Args:
        queries: `(Q, D)` float32 or float64 NumPy array.
        gallery: `(G, D)`, likewise, or float16; may be memory-mapped, or anything with `shape`, `dtype` and slices.
        k: int of at least 1, more than `G` is `G`.
        tile_bytes: int, size of one tile of products, and of the rows it is made of, default 4 MB.
        valid: bool `(G,)`, items that may be found; None (default) for all of them.

    Returns:
        pair of `(Q, K)` arrays: int64 gallery ids in rising order, and their products, at least float32, see
        `pair_products`. Of equal products at the border the lower ids stay; of more than a thousand equal items,
        those that rounding favours. `K` is `k`, or the number of items that may be found.

    Raises:
        ValueError: if shapes do not fit, `k` is below 1, a product is NaN, or nothing may be found.

    Example:

    ```python
    import numpy as np
    from keras_itr.search import nearest

    ids, products = nearest(np.eye(3, dtype="float32"), np.eye(3, dtype="float32")[::-1], k=2)
    ids[0]  # [0, 2]: the last item is query 0, and the first of the two zeros stays
    ```

    Source: our choice.
    """
    queries = np.asarray(queries)
    gallery = gallery if hasattr(gallery, "shape") else np.asarray(gallery)
    if queries.ndim != 2 or len(gallery.shape) != 2 or queries.shape[1] != gallery.shape[1] or 0 in gallery.shape:
        raise ValueError(f"queries (Q, D) and gallery (G, D) must fit, received {queries.shape} and {gallery.shape}.")
    count = gallery.shape[0] if valid is None else int(np.count_nonzero(valid))
    size = min(check_length(k), count)
    if not size:
        raise ValueError("valid leaves no item of the gallery to be found.")
    queries = queries.astype(np.result_type(queries.dtype, gallery.dtype, np.float32), copy=False)
    found, products = np.empty((len(queries), size), np.int64), np.empty((len(queries), size), queries.dtype)
    unsure, spare = np.arange(len(queries)), SPARE
    while len(unsure):
        length = min(count, size + spare)
        ids, rounded = _candidates(queries[unsure], gallery, length, tile_bytes, valid)
        exact = pair_products(queries[unsure], gallery, ids, tile_bytes)
        kept = highest(exact, size)
        found[unsure], products[unsure] = (np.take_along_axis(rows, kept, axis=1) for rows in (ids, exact))
        if length == count or spare >= MOST_SPARE:
            break
        # An item that is left out may be equal to one that is not, by all that rounding can do.
        doubt = 2 * np.finfo(exact.dtype).eps * queries.shape[1] * np.abs(exact).max(axis=1)
        unsure, spare = unsure[rounded.min(axis=1) + doubt >= products[unsure].min(axis=1)], spare * 8
    return found, products


def pair_products(queries, gallery, ids, tile_bytes=1 << 22):
    """The products of queries `(Q, D)` with rows `ids` `(Q, K)` of a gallery `(G, D)`: `(Q, K)`.

    Each is the same number whatever stands beside it, which those of a BLAS are not: they depend on the place of an
    item in the matrix, so that of two equal items either may be ahead.
    """
    products = np.empty(ids.shape, queries.dtype)
    step = max(1, tile_bytes // (queries.itemsize * queries.shape[1] * ids.shape[1]))
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        rows = np.asarray(gallery[ids[part]], queries.dtype)
        products[part] = np.einsum("qkd,qd->qk", rows, queries[part])
    return products


def best_first(ids, products):
    """Rows of ids and products `(Q, K)`, ids rising, in the order of their products; of equals the lower id first."""
    order = np.argsort(-products, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(products, order, axis=1)


def _candidates(queries, gallery, size, tile_bytes, valid):
    """`(Q, size)` ids, rising, and products of the best items by the products of a BLAS."""
    blocks = _blocks_of(queries)
    columns = _tile_length(gallery.shape, len(blocks[0]), queries.itemsize, tile_bytes)
    ranges = _ranges(len(queries), *gallery.shape, columns)
    search = functools.partial(_best_of_range, blocks, gallery, size, columns, valid)
    if len(ranges) == 1:
        parts = [search(*ranges[0])]
    else:
        # Each thread has its own part of the gallery, and its products are not split among threads once more.
        with _blas().limit(limits=1, user_api="blas"), concurrent.futures.ThreadPoolExecutor(len(ranges)) as pool:
            parts = list(pool.map(search, *zip(*ranges, strict=True)))
    ids, products = (np.concatenate(part, axis=1)[: len(queries)] for part in zip(*parts, strict=True))
    if ids.shape[1] > size:
        kept = highest(products, size)
        ids, products = np.take_along_axis(ids, kept, axis=1), np.take_along_axis(products, kept, axis=1)
    return ids, products


@functools.cache
def _blas():
    # To look for the libraries that are loaded takes longer than a search among few items.
    return threadpoolctl.ThreadpoolController()


def _blocks_of(queries):
    """Blocks of at most 256 queries, all of one size."""
    count = -(-len(queries) // 256)
    rows = -(-len(queries) // count)
    return [_padded(queries[start : start + rows], rows) for start in range(0, len(queries), rows)]


def _tile_length(shape, rows, itemsize, tile_bytes):
    """Items of one tile, a multiple of 64: what groups of items, and a BLAS, are fastest with."""
    length, width = shape
    columns = min(tile_bytes // (itemsize * max(rows, width)), length + 63)
    return max(1, columns // 64) * 64


def _ranges(queries, length, width, columns):
    """`(start, stop)` of the items of each thread, in whole tiles."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tiles = -(-length // columns)
    threads = 1 if queries * length * width < SMALL_WORK else min(cores, tiles)
    edges = [tiles * thread // threads * columns for thread in range(threads)]
    return list(zip(edges, [*edges[1:], length], strict=True))


def _best_of_range(blocks, gallery, size, columns, valid, start, stop):
    """`(Q, K)` ids and products of the best items from `start` to `stop`, of all blocks of queries."""
    dtype, rows = blocks[0].dtype, len(blocks[0])
    best = [RunningBest(rows, size) for _ in blocks]
    # Buffers, for fresh memory costs more than what is written to it.
    products, buffer = np.empty((rows, columns), dtype), np.zeros((columns, gallery.shape[1]), dtype)
    for at in range(start, stop, columns):
        count, tile = min(columns, stop - at), gallery[at : at + columns]
        if count < columns or tile.dtype != dtype:
            buffer[:count] = tile[:count]
            tile = buffer
        for block, running in zip(blocks, best, strict=True):
            np.matmul(block, tile.T, out=products)
            products[:, count:] = -np.inf
            if valid is not None:
                products[:, :count][:, ~valid[at : at + count]] = -np.inf
            running.see(products, at)
    found = min(size, stop - start if valid is None else np.count_nonzero(valid[start:stop]))
    return tuple(np.concatenate(parts) for parts in zip(*(running.finish(found) for running in best), strict=True))


def _padded(vectors, size):
    return np.pad(vectors, ((0, size - len(vectors)), (0, 0))) if len(vectors) < size else vectors
