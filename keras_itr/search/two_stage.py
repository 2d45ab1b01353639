import numpy as np

from keras_itr.metrics.arrays import check_no_nan, to_floats
from keras_itr.metrics.ranking import BLOCK_ELEMENTS


def two_stage_order(coarse, fine, k):
    """Two-stage ranking: a cheap score chooses the best `k` per query, an expensive one orders them.

    Args:
        coarse: `(Q, G)` scores of `Q` queries with a gallery of `G` items, higher
            is better; NumPy or any backend's tensor.
        fine: `(Q, G)` scores of the same pairs; those outside the shortlists are
            never looked at and may be NaN. Or a function `fine(query, candidates)`,
            called once per query with its row number and the int `(K,)` ids of its
            shortlist in rising order, that returns the `(K,)` scores of these.
        k: int, length of the shortlists; more than `G` is `G`. `0`: the coarse
            scores alone order the whole gallery, `fine` is not used.

    Returns:
        int64 `(Q, K)` gallery ids, best first; `K` is `min(k, G)`, and `G` for
        `k=0`. Of equal scores the lower id comes first, in the order and at the
        end of the shortlist alike.

    Raises:
        ValueError: if shapes do not fit, `k` is no integer of at least 0, or a
            score that is looked at is NaN.

    Example:

    ```python
    import numpy as np
    from keras_itr.search import two_stage_order

    coarse = np.array([[0.9, 0.1, 0.8, 0.7]])
    fine = np.array([[0.2, np.nan, 0.6, 0.5]])
    two_stage_order(coarse, fine, k=3)  # [[2, 3, 0]]
    two_stage_order(coarse, fine, k=0)  # [[0, 2, 3, 1]]
    ```

    Reference: Liu et al., TGDT, and Li et al., ALBEF, which re-rank a shortlist;
    the order of ties is our choice.
    """
    coarse = to_floats(coarse)
    ids = shortlist(coarse, k)
    if k == 0:
        scores = coarse
    elif callable(fine):
        scores = np.stack([_call(fine, query, candidates) for query, candidates in enumerate(ids)])
    else:
        fine = to_floats(fine)
        if fine.shape != coarse.shape:
            raise ValueError(f"fine must have the shape of coarse, {coarse.shape}, got {fine.shape}.")
        scores = shortlisted(fine, ids)
    # The ids rise, so that a stable sort leaves the lower of two equals in front.
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def shortlist(coarse, k):
    """The `k` best items of every query, exactly `k`: of equal scores at the border the lower ids stay.

    Args:
        coarse: `(Q, G)` scores, higher is better; NumPy or any backend's tensor.
        k: int, more than `G` is `G`, and `0` no shortlist, which is `G` too.

    Returns:
        int64 `(Q, K)` gallery ids, in rising order. They may be read-only.

    Raises:
        ValueError: if `coarse` is no matrix or holds NaN, or `k` is no integer of
            at least 0.

    Example:

    ```python
    import numpy as np
    from keras_itr.search import shortlist

    shortlist(np.array([[0.1, 0.9, 0.5, 0.5]]), k=2)  # [[1, 2]]
    ```

    Source: our choice.
    """
    coarse = to_floats(coarse)
    if coarse.ndim != 2 or 0 in coarse.shape:
        raise ValueError(
            f"coarse must be a matrix (queries, gallery) with at least one row and column, got shape {coarse.shape}."
        )
    check_length(k, least=0)
    queries, gallery = coarse.shape
    size = min(k, gallery) or gallery
    step = max(1, BLOCK_ELEMENTS // gallery)
    ids = np.broadcast_to(np.arange(gallery), coarse.shape) if size == gallery else np.empty((queries, size), np.int64)
    for start in range(0, queries, step):
        block = coarse[start : start + step]
        check_no_nan(block, start)
        if size < gallery:
            ids[start : start + step] = highest(block, size)
    return ids


def check_length(k, name="k", least=1):
    """`k` as an int, the length of a shortlist."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < least:
        raise ValueError(f"{name} must be an integer of at least {least}, the length of the shortlist, got {k!r}.")
    return int(k)


def shortlisted(fine, ids):
    """The fine scores `(Q, K)` of the shortlists `ids` `(Q, K)` out of the matrix `fine` `(Q, G)`; NaN is an error."""
    scores = np.take_along_axis(fine, ids, axis=1)
    check_no_nan(scores)
    return scores


def highest(block, size):
    """Columns `(Q, size)`, rising, of the best items of every row; of equals the first ones. One pass, no sort."""
    last = -np.partition(-block, size - 1, axis=1)[:, size - 1 : size]
    above, tied = block > last, block == last
    free = size - np.count_nonzero(above, axis=1, keepdims=True)
    chosen = above | (tied & (np.cumsum(tied, axis=1) <= free))
    return np.nonzero(chosen)[1].reshape(len(block), size)


def _call(fine, query, candidates):
    scores = to_floats(fine(query, candidates))
    if scores.shape != candidates.shape:
        raise ValueError(
            f"fine must return one score for each of the {len(candidates)} candidates, "
            f"got shape {scores.shape} for query {query}."
        )
    check_no_nan(scores[None], query)
    return scores
