import numpy as np

from keras_itr.metrics.arrays import check_no_nan, check_scores


def map_at_r(scores, positives):
    """Mean average precision at R: precision wherever a positive stands among the first R results.

    `R` is the number of positives of the query. With `hit(r)` true where the
    result at position `r` is a positive, the value of a query is
    `1/R * sum over r <= R of hit(r) * precision@r`, and mAP@R its mean over the
    queries. A non-positive that ties with a positive is placed before it.

    Args:
        scores: `(Q, G)` scores, higher is better; `-inf` excludes an item (with
            `positives` False there).
        positives: `(Q, G)` bool. A query without a positive counts as 0.

    Returns:
        float in percent.

    Raises:
        ValueError: if shapes differ or are empty, if `positives` is not boolean,
            or if a score is NaN.

    Example:

    ```python
    import numpy as np
    from keras_itr.metrics import map_at_r

    map_at_r(np.array([[0.9, 0.8, 0.7]]), np.array([[True, False, True]]))  # 50.0
    ```

    Reference: Musgrave et al., "A Metric Learning Reality Check", 2020; used for
    image-text retrieval by Chun et al., "ECCV Caption", 2022.
    """
    return _mean_over_queries(_average_precision, scores, positives)


def r_precision(scores, positives):
    """R-Precision: the share of positives among the first R results, R being their number.

    Args:
        scores: `(Q, G)` scores, higher is better.
        positives: `(Q, G)` bool. A query without a positive counts as 0.

    Returns:
        float in percent. A non-positive that ties with a positive is placed before it.

    Raises:
        ValueError: as `map_at_r`.

    Example:

    ```python
    import numpy as np
    from keras_itr.metrics import r_precision

    r_precision(np.array([[0.9, 0.8, 0.7]]), np.array([[True, False, True]]))  # 50.0
    ```

    Reference: as `map_at_r`.
    """
    return _mean_over_queries(_precision, scores, positives)


def _mean_over_queries(value, scores, positives):
    scores, positives = check_scores(scores, positives)
    check_no_nan(scores)
    total = sum(value(_positions(row, mask)) for row, mask in zip(scores, positives, strict=True) if mask.any())
    return 100.0 * float(total) / len(scores)


def _positions(scores, positive):
    """1-based places `(R,)` of one query's positives in the ranking, best first."""
    wrong = np.sort(scores[~positive])
    right = np.sort(scores[positive])[::-1]
    # side="left": everything from the first equal score on is at least as high.
    return len(wrong) - np.searchsorted(wrong, right, side="left") + np.arange(1, len(right) + 1)


def _average_precision(positions):
    order = np.arange(1, len(positions) + 1)  # precision at the j-th positive = j / its position
    return np.mean(np.where(positions <= len(positions), order / positions, 0.0))


def _precision(positions):
    return np.mean(positions <= len(positions))
