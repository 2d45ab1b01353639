import numpy as np

from keras_itr.metrics.arrays import check_cutoff, to_numpy


def chance_hit_rate(num_positives, gallery_size, k=1):
    """Expected hit rate at `k` of a random ranking, the level above which a model has learned something.

    With `p` positives among `G` items, `k` of them drawn without replacement
    contain none with probability `C(G - p, k) / C(G, k)` (hypergeometric), so the
    expected hit rate is one minus that, averaged over the queries. It is exact,
    not sampled.

    Args:
        num_positives: int `(Q,)`, positives of each query, 0 to `gallery_size`.
        gallery_size: int, number of items `G`.
        k: int, the number of results looked at. Defaults to 1.

    Returns:
        float in percent.

    Raises:
        ValueError: if a count lies outside 0 to `gallery_size`, there is no
            query, or `k` is not an integer of at least 1.

    Example:

    ```python
    from keras_itr.metrics import chance_hit_rate

    chance_hit_rate([1, 1], gallery_size=1000, k=10)  # 1.0
    ```
    """
    counts, k = to_numpy(num_positives), check_cutoff(k)
    if counts.ndim != 1 or not len(counts) or counts.min() < 0 or counts.max() > gallery_size:
        raise ValueError(
            f"num_positives must be a vector of counts in 0..{gallery_size} (the gallery's size), got {num_positives}."
        )
    drawn = np.arange(min(k, gallery_size))
    # C(G - p, k) / C(G, k) = prod over j < k of (G - p - j) / (G - j); it is zero from j = G - p on.
    left = np.maximum(gallery_size - counts[:, None] - drawn, 0)
    miss = np.prod(left / (gallery_size - drawn), axis=1)
    return 100.0 * float(np.mean(1.0 - miss))
