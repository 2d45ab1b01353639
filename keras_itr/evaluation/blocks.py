import numpy as np

from keras_itr.metrics.arrays import check_cutoff, to_floats, to_numpy
from keras_itr.metrics.recall import check_caption_to_image, recall_from_ranks


def embedding_recall(image_embeddings, text_embeddings, caption_to_image, ks=(1, 5, 10), block_size=1024):
    """`metrics.recall_at_k` of the dot products of embeddings, without ever holding their matrix.

    Scores are float32, rounded from products in float64. They are computed in
    tiles of `block_size` images by `block_size` captions, and each tile serves
    both directions while it is in the cache. The tiles on the diagonal, which
    hold the positives, are computed once more beforehand.

    Args:
        image_embeddings: `(I, D)` float32 or float64, NumPy or any backend's
            tensor.
        text_embeddings: `(T, D)`, of the same type.
        caption_to_image: int `(T,)`, the image row of every caption. Any order
            is right; captions that stand in the order of their images are fast.
        ks: the cutoffs. Defaults to `(1, 5, 10)`.
        block_size: int, images and captions of one tile. Defaults to 1024, which
            holds 4 MB of float32 scores.

    Returns:
        the flat dict of `metrics.recall_at_k`.

    Raises:
        ValueError: if shapes do not fit, an embedding is not finite, an image
            has no caption, or `block_size` or a cutoff is below 1.

    Example:

    ```python
    import numpy as np
    from keras_itr.evaluation import embedding_recall

    images, texts = np.eye(3, dtype="float32"), np.repeat(np.eye(3, dtype="float32"), 5, axis=0)
    embedding_recall(images, texts, np.repeat(np.arange(3), 5))["rsum"]  # 600.0
    ```

    Reference: ranking by counting, with the positive's score from the same
    product, is our choice; the result is that of `metrics.recall_at_k`.
    """
    ranks = embedding_ranks(image_embeddings, text_embeddings, caption_to_image, block_size)
    return recall_from_ranks(*ranks, ks)


def embedding_ranks(image_embeddings, text_embeddings, positives, block_size=1024):
    """Ranks in both directions of dot products, tile by tile: `metrics.two_way_ranks` without the matrix.

    Args:
        image_embeddings: `(I, D)`.
        text_embeddings: `(T, D)`.
        positives: `caption_to_image`, int `(T,)`, or explicit truth, bool
            `(I, T)`. Truth that fills most tiles costs a second product.
        block_size: int, images and captions of one tile. Defaults to 1024.

    Returns:
        pair of int64 arrays `(I,)` and `(T,)`, as `metrics.ranks`.

    Example:

    ```python
    import numpy as np
    from keras_itr.evaluation import embedding_ranks

    embedding_ranks(np.eye(2), np.eye(2), np.array([0, 1]))  # (array([0, 0]), array([0, 0]))
    ```
    """
    tiles = _Tiles(image_embeddings, text_embeddings, positives, check_cutoff(block_size, "block_size"))
    image_best, caption_best = tiles.best_positives()
    image_ranks = np.zeros(len(image_best), np.int64)
    caption_ranks = np.zeros(len(caption_best), np.int64)
    for rows, columns in tiles:
        scores, positive = tiles.scores(rows, columns), tiles.positive(rows, columns)
        as_high = scores >= image_best[rows, None], scores >= caption_best[None, columns]
        if positive is not None:
            as_high = as_high[0] & ~positive, as_high[1] & ~positive
        image_ranks[rows] += as_high[0].sum(axis=1, dtype=np.int32)
        caption_ranks[columns] += as_high[1].sum(axis=0, dtype=np.int32)
    return image_ranks, caption_ranks


class _Tiles:
    """Scores and positives of tiles (rows = images, columns = captions)."""

    def __init__(self, images, texts, positives, size):
        self.images, self.texts = _check_embeddings(images, texts)
        self.positives = _check_positives(to_numpy(positives), len(self.images), len(self.texts))
        self.size = size

    def __iter__(self):
        for row in range(0, len(self.images), self.size):
            for column in range(0, len(self.texts), self.size):
                yield (
                    slice(row, min(row + self.size, len(self.images))),
                    slice(column, min(column + self.size, len(self.texts))),
                )

    def scores(self, rows, columns):
        # A BLAS rounds the same two vectors differently from place to place, even within one product, and the
        # equal scores of a collapsed model must stay equal: computed in float64, they round to one float32.
        return (self.images[rows].astype("float64") @ self.texts[columns].astype("float64").T).astype("float32")

    def positive(self, rows, columns):
        """Bool tile, or None where it would be False throughout."""
        if self.positives.ndim == 2:
            tile = self.positives[rows, columns]
            return tile if tile.any() else None
        owner = self.positives[columns]
        if not np.any((owner >= rows.start) & (owner < rows.stop)):
            return None
        return np.arange(rows.start, rows.stop)[:, None] == owner

    def best_positives(self):
        """Score of the best positive of every image `(I,)` and of every caption `(T,)`."""
        image_best = np.full(len(self.images), -np.inf, "float32")
        caption_best = np.full(len(self.texts), -np.inf, "float32")
        for rows, columns in self:
            positive = self.positive(rows, columns)
            if positive is None:
                continue
            scores = np.where(positive, self.scores(rows, columns), -np.inf)
            np.maximum(image_best[rows], scores.max(axis=1), out=image_best[rows])
            np.maximum(caption_best[columns], scores.max(axis=0), out=caption_best[columns])
        return image_best, caption_best


def _check_embeddings(images, texts):
    images, texts = to_floats(images), to_floats(texts)
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1] or 0 in images.shape + texts.shape:
        raise ValueError(
            f"image and text embeddings must be matrices (I, D) and (T, D) of one width, got {images.shape} and "
            f"{texts.shape}; a model whose score is not a dot product is evaluated through its score method."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        # |a.b| <= |a||b|: where this is finite, no product can overflow or become NaN.
        largest = _largest_norm(images) * _largest_norm(texts)
    # The scores are float32, whatever the embeddings are.
    if not largest <= np.finfo("float32").max:
        raise ValueError(
            "image and text embeddings must be finite and their products within float32, got NaN, infinite "
            "or huge values; the model has diverged or its inputs hold NaN."
        )
    return images, texts


def _largest_norm(vectors):
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max())


def _check_positives(positives, num_images, num_captions):
    if positives.ndim == 1:
        return check_caption_to_image(positives, num_images, num_captions)
    if positives.shape != (num_images, num_captions) or positives.dtype != np.bool_:
        raise ValueError(
            f"positives must be caption_to_image ({num_captions},) or bool ({num_images}, {num_captions}), "
            f"got {positives.dtype} of shape {positives.shape}."
        )
    return positives
