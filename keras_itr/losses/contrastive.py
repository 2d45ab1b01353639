from keras import ops

from keras_itr.losses.pairs import same_image_targets
from keras_itr.numerics import tempered_log_softmax


def contrastive(similarity, targets=None, temperature=0.07, reduction="mean"):
    """Cross-entropy of similarity rows against targets: one direction of InfoNCE.

    `-(1/B) sum_i sum_j Y_ij log softmax_j(S_ij / tau)`, computed in at least
    float32. The diagonal is the positive unless `targets` says otherwise.

    Args:
        similarity: `(B, C)` float, queries in rows, `C >= B` candidates.
        targets: `(B, C)` float, rows sum to one; None means that candidate `i`
            is the only positive of query `i`.
        temperature: positive number or scalar tensor; a divisor.
        reduction: `"mean"` over rows (default), `"sum"`, or `"none"` for `(B,)`.

    Returns:
        A scalar, or `(B,)` with `reduction="none"`.

    Raises:
        ValueError: if `reduction` is none of the three.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import contrastive

    similarity = np.eye(4, dtype="float32")
    loss = (contrastive(similarity) + contrastive(similarity.T)) / 2
    ```

    Reference: Radford et al., CLIP, ICML 2021; several positives by id as in
    the code of Huang et al., CUSA, AAAI 2024.
    """
    log_probability = tempered_log_softmax(similarity, temperature)
    if targets is None:
        rows = -ops.diagonal(log_probability)
    else:
        rows = -ops.sum(ops.cast(targets, log_probability.dtype) * log_probability, axis=-1)
    return reduced(rows, reduction)


def symmetric_contrastive(similarity, ids=None, temperature=0.07):
    """Both directions of InfoNCE over a batch, halved, with targets by image id.

    `1/2 [ce(S, Y, tau) + ce(S^T, Y, tau)]`: Y shares one unit of mass among the
    pairs of equal id.

    Args:
        similarity: `(B, B)` float, images in rows, captions in columns.
        ids: `(B,)` int, equal ids are the same image; None for "all different".
        temperature: positive number or scalar tensor; a divisor.

    Returns:
        A scalar.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import symmetric_contrastive

    symmetric_contrastive(np.eye(3, dtype="float32"), ids=[0, 1, 1])
    ```

    Reference: Radford et al., CLIP, ICML 2021; targets by id as in the code of
    Huang et al., CUSA, AAAI 2024.
    """
    similarity = ops.convert_to_tensor(similarity)
    targets = same_image_targets(ids)
    return 0.5 * (
        contrastive(similarity, targets, temperature) + contrastive(ops.transpose(similarity), targets, temperature)
    )


def reduced(rows, reduction):
    """`rows` `(B,)` as a scalar by `"mean"` or `"sum"`, or as they are by `"none"`."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', received {reduction!r}.")
    if reduction == "none":
        return rows
    return ops.mean(rows) if reduction == "mean" else ops.sum(rows)
