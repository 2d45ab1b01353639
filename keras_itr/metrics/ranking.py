import numpy as np

from keras_itr.metrics.arrays import check_cutoff, check_no_nan, check_scores, to_numpy

BLOCK_ELEMENTS = 1 << 22  # 16 MB of float32 at a time


def ranks(scores, positives):
    """Rank of every query: how many non-positives score at least as high as its best positive.

    A tie counts against the model, so that a collapsed model, which gives every
    pair the same score, finds nothing instead of everything. Counting needs no
    sort, and other positives of the same query never push each other down.

    Args:
        scores: `(Q, G)` scores of `Q` queries against a gallery of `G` items,
            higher is better; NumPy or any backend's tensor. float32 and float64
            are compared as they are. `-inf` is allowed: see below.
        positives: `(Q, G)` bool, True where the item answers the query. Any
            number per query.

    Returns:
        int64 array `(Q,)`, 0 is best. A query without a positive gets `G`, a
        miss at every cutoff; with a positive the rank is at most `G - 1`.

    Raises:
        ValueError: if shapes differ or are empty, if `positives` is not boolean,
            or if a score is NaN.

    To search a set with its own items, exclude each query from its own gallery:
    fill the diagonal of `scores` with `-inf` and that of `positives` with False.

    Example:

    ```python
    import numpy as np
    from keras_itr.metrics import ranks

    scores = np.array([[0.9, 0.1, 0.8], [0.5, 0.5, 0.2]])
    positives = np.array([[True, False, False], [False, True, False]])
    ranks(scores, positives)  # [0, 1]: the second query is tied with a wrong item
    ```

    Reference: pessimistic ties are our choice; the count equals the official
    sort-based evaluators of VSE-infinity and CUSA wherever there is no tie.
    """
    scores, positives = check_scores(scores, positives)
    result = np.empty(len(scores), np.int64)
    step = max(1, BLOCK_ELEMENTS // scores.shape[1])
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        block, positive = scores[rows], positives[rows]
        check_no_nan(block, start)
        # Without a positive the best is -inf, which all G items reach: the miss needs no special case.
        best = np.max(block, axis=1, keepdims=True, where=positive, initial=-np.inf)
        result[rows] = np.count_nonzero((block >= best) & ~positive, axis=1)
    return result


def percent_within(found, k):
    """Percentage of the ranks `found` that lie below `k`, as float."""
    return 100.0 * float(np.mean(found < k))


def hit_rate(scores, positives, k=1):
    """Percentage of the queries with a positive among their first `k` results.

    This is the field's R@K (Accuracy@k elsewhere), and Rank-1 with `k=1`: it
    does not divide by the number of positives. Ties count against the model.

    Args:
        scores: `(Q, G)` scores, higher is better.
        positives: `(Q, G)` bool. A query without a positive is a miss.
        k: int, the number of results looked at. Defaults to 1.

    Returns:
        float in percent.

    Raises:
        ValueError: as `ranks`, and if `k` is not an integer of at least 1.

    Example, Rank-1 within one set, where an item must not find itself:

    ```python
    import numpy as np
    from keras_itr.metrics import hit_rate

    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = np.array([0, 0, 1, 1])
    scores, positives = features @ features.T, labels[:, None] == labels
    np.fill_diagonal(scores, -np.inf)
    np.fill_diagonal(positives, False)
    hit_rate(scores, positives, k=1)  # 100.0
    ```
    """
    found = ranks(scores, positives)
    # A miss has rank G, which a cutoff beyond the gallery must not turn into a hit.
    return percent_within(found, min(check_cutoff(k), to_numpy(scores).shape[1]))
