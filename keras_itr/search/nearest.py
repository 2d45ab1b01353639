import numpy as np

from keras_itr.search.two_stage import check_length, highest


def nearest(queries, gallery, k, tile_bytes=1 << 24):
    """The `k` items of the largest dot product with each query, without ever holding all products.

    Products are computed in tiles; of a tile and the best so far, the best stay.

    Args:
        queries: `(Q, D)` float32 or float64 NumPy array.
        gallery: `(G, D)`, likewise; may be memory-mapped.
        k: int of at least 1, more than `G` is `G`.
        tile_bytes: int, size of one tile of products, default 16 MB.

    Returns:
        pair of `(Q, K)` arrays: int64 gallery ids in rising order, and their products. Of equal products at the
        border the lower ids stay.

    Raises:
        ValueError: if shapes do not fit, `k` is below 1, or a product is NaN.

    Example:

    ```python
    import numpy as np
    from keras_itr.search import nearest

    ids, products = nearest(np.eye(3, dtype="float32"), np.eye(3, dtype="float32")[::-1], k=2)
    ids[0]  # [0, 2]: the last item is query 0, and the first of the two zeros stays
    ```

    Source: our choice.
    """
    queries, gallery = np.asarray(queries), np.asanyarray(gallery)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or 0 in gallery.shape:
        raise ValueError(f"queries (Q, D) and gallery (G, D) must fit, received {queries.shape} and {gallery.shape}.")
    size = min(check_length(k), len(gallery))
    # Every product has one shape: a BLAS rounds the same two vectors differently in products of different shapes,
    # and equal items must stay equal.
    rows = max(1, min(256, len(queries)))
    columns = min(len(gallery), max(size, tile_bytes // (queries.itemsize * rows)))
    ids = np.empty((len(queries), size), np.int64)
    products = np.empty((len(queries), size), np.result_type(queries, gallery))
    for start in range(0, len(queries), rows):
        block = _padded(queries[start : start + rows], rows)
        best = _nearest_of_block(block, gallery, size, columns)
        count = len(queries[start : start + rows])
        ids[start : start + rows], products[start : start + rows] = (part[:count] for part in best)
    return ids, products


def _nearest_of_block(block, gallery, size, columns):
    ids, products = np.empty((len(block), 0), np.int64), np.empty((len(block), 0), gallery.dtype)
    for start in range(0, len(gallery), columns):
        tile = np.asarray(gallery[start : start + columns])
        scores = (block @ _padded(tile, columns).T)[:, : len(tile)]
        # The ids before are lower than those of the tile: they rise from left to right.
        places = np.broadcast_to(np.arange(start, start + len(tile)), scores.shape)
        ids, products = np.concatenate([ids, places], axis=1), np.concatenate([products, scores], axis=1)
        if np.isnan(products.max(axis=1)).any():
            raise ValueError("embeddings must not hold NaN; the model has diverged or its inputs hold NaN.")
        if ids.shape[1] > size:
            kept = highest(products, size)
            ids, products = np.take_along_axis(ids, kept, axis=1), np.take_along_axis(products, kept, axis=1)
    return ids, products


def _padded(vectors, size):
    return np.pad(vectors, ((0, size - len(vectors)), (0, 0))) if len(vectors) < size else vectors
