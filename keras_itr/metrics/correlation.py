import numpy as np

from keras_itr.metrics.arrays import to_numpy


def spearman(predicted, gold):
    """Spearman's rank correlation x100, equal values sharing their average rank.

    Args:
        predicted: `(N,)` scores of a model, such as cosines of sentence pairs.
        gold: `(N,)` human scores on any scale. To report several sets as one
            ("all"), concatenate them first.

    Returns:
        float from -100 to 100. A constant prediction orders nothing and scores 0
        (our choice; the correlation itself is undefined there).

    Raises:
        ValueError: if the two are not vectors of one length of at least 2, if a
            value is NaN, or if `gold` is constant.

    Example:

    ```python
    from keras_itr.metrics import spearman

    spearman([0.1, 0.4, 0.9], [1, 2, 5])  # 100.0
    ```

    Reference: Spearman 1904; the measure of the semantic textual similarity
    tasks (Agirre et al., SemEval 2012-2016).
    """
    predicted, gold = to_numpy(predicted).astype(np.float64), to_numpy(gold).astype(np.float64)
    if predicted.ndim != 1 or predicted.shape != gold.shape or len(gold) < 2:
        raise ValueError(
            "predicted and gold must be vectors of one length of at least 2, "
            f"got shapes {predicted.shape} and {gold.shape}."
        )
    for name, values in (("predicted", predicted), ("gold", gold)):
        if np.isnan(values).any():
            raise ValueError(f"{name} must not contain NaN, but entry {int(np.argmax(np.isnan(values)))} is NaN.")
    x, y = _centred_ranks(predicted), _centred_ranks(gold)
    if not y.any():
        raise ValueError(f"gold must not be constant, but all {len(gold)} values are {gold[0]}.")
    if not x.any():
        return 0.0
    return 100.0 * float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _centred_ranks(values):
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    # A group of equal values that ends at rank e and has c members shares rank e - (c - 1) / 2.
    average = np.cumsum(counts) - (counts - 1) / 2
    return average[group] - (len(values) + 1) / 2
