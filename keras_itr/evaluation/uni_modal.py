import numpy as np

from keras_itr.metrics.arrays import check_cutoff, to_floats, to_numpy
from keras_itr.metrics.precision import map_at_r
from keras_itr.metrics.ranking import percent_within, ranks


def uni_modal_recall(embeddings, groups, ks=(1, 5, 10), block_size=1024):
    """Search of one set by its own items: those of the same group are each other's right answers.

    Captions of one image search for each other so (text-text retrieval), or images of one class. The query itself is
    excluded by its index, and stands in the gallery of all others. An item that is alone in its group is no query.

    Args:
        embeddings: `(N, D)` unit vectors, NumPy or any backend's tensor.
        groups: int `(N,)`, the group of every item, such as `caption_to_image`.
        ks: the cutoffs. Defaults to `(1, 5, 10)`.
        block_size: int, queries at a time. Defaults to 1024: 20 MB of scores for 5,000 items.

    Returns:
        flat dict of floats: `r1`, `r5`, `r10`, percentages of the queries with another item of their group among their
        first K results; `map_at_r`, which asks for all of them, in percent; `median_rank`, 1 is best. Ties count
        against the model.

    Raises:
        ValueError: if shapes do not fit, no group has two items, a score is NaN, or a cutoff is below 1.

    Example:

    ```python
    import numpy as np
    from keras_itr.evaluation import uni_modal_recall

    captions = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    uni_modal_recall(captions, [0, 0, 1, 1], ks=(1,))  # {"r1": 50.0, "map_at_r": 50.0, "median_rank": 1.5}
    ```

    Reference: Rank-1 with the query excluded and mAP@R as in Huang et al., CUSA, AAAI 2024, and Musgrave et al., 2020.
    Captions as each other's answers are our choice; the authors of CUSA measure sentence similarity instead.
    """
    embeddings, groups = to_floats(embeddings), to_numpy(groups)
    if embeddings.ndim != 2 or groups.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings must be (N, D) and groups (N,), one for each row, got {embeddings.shape} and {groups.shape}."
        )
    ks = [check_cutoff(k, "every cutoff in ks") for k in ks]
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[index] > 1)
    if not len(queries):
        raise ValueError("every group has one item only: there is nothing that a query could find.")
    found, precision = np.empty(len(queries), np.int64), 0.0
    for start in range(0, len(queries), check_cutoff(block_size, "block_size")):
        rows = queries[start : start + block_size]
        scores = embeddings[rows] @ embeddings.T
        positives = groups[rows, None] == groups
        itself = np.arange(len(rows)), rows
        scores[itself], positives[itself] = -np.inf, False
        found[start : start + len(rows)] = ranks(scores, positives)
        precision += map_at_r(scores, positives) * len(rows)
    recalls = {f"r{k}": percent_within(found, k) for k in ks}
    return {**recalls, "map_at_r": precision / len(queries), "median_rank": float(np.median(found) + 1)}
