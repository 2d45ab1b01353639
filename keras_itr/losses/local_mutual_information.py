from keras import ops

from keras_itr.losses.pairs import masked, masked_mean, negative_pairs, same_image_pairs
from keras_itr.numerics import at_least_float32


def local_mutual_information(global_features, local_features, mask, temperature, estimator="infonce", ids=None):
    """LMIM: the global vector of an item tells its own local features from those of others.

    One modality; with `s(a; b, j) = <g_a, l_bj> / t` over the valid positions:

    - `"infonce"`: mean over items `a` of the mean over own positions `i` of
      `-log(e^s(a;a,i) / (e^s(a;a,i) + sum_{b != a} sum_j e^s(a;b,j)))`
    - `"jsd"`: mean over all own pairs of `softplus(-s)` + mean over all pairs
      with others of `softplus(s)`.

    Other positions of the same item are neither positive nor negative. An item
    without a valid position is left out of the mean.

    Args:
        global_features: `(B, D)` float, unit rows.
        local_features: `(B, N, D)` float, unit rows; under a False mask the
            content does not matter, NaN included. They keep their gradient:
            AAI passes those of its momentum encoder, which have none.
        mask: `(B, N)` bool, True = valid; None for all valid.
        temperature: positive number or scalar tensor; a divisor.
        estimator: `"infonce"` (default) or `"jsd"`.
        ids: `(B,)` int, image ids; positions of items with the same id are no
            negatives. None (default): every other item is a negative.

    Returns:
        A scalar, at least float32. Without any negative the InfoNCE estimate is
        0, and of the JSD estimate only its first mean is left.

    Raises:
        ValueError: for any other estimator.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import local_mutual_information

    features = np.eye(3, 4, dtype="float32")
    local_mutual_information(features, features[:, None, :], mask=None, temperature=0.1)
    ```

    Reference: the code of Yang et al., TCL, CVPR 2022 (local mutual
    information, InfoNCE), of which AAI is reconstructed; JSD after Hjelm et
    al., Deep InfoMax, ICLR 2019, and `ids` are our choice.
    """
    check_estimator(estimator)
    anchors, local = at_least_float32(global_features), at_least_float32(local_features)
    count, positions = ops.shape(local)[:2]
    mask = ops.ones((count, positions), "bool") if mask is None else ops.cast(mask, "bool")
    # Before the product: a NaN behind the mask would come back through the gradient of the globals.
    local = ops.where(mask[..., None], local, 0.0)
    temperature = ops.convert_to_tensor(temperature, anchors.dtype)
    own = ops.einsum("ad,and->an", anchors, local) / temperature
    others = ops.einsum("ad,bnd->abn", anchors, local) / temperature
    negative = ops.logical_and(negative_pairs(count, same_image_pairs(ids))[:, :, None], mask[None])
    return _ESTIMATORS[estimator](own, mask, others, negative)


def check_estimator(estimator, name="estimator"):
    """Raise `ValueError` if `estimator`, an argument called `name`, is none of the two."""
    if estimator not in _ESTIMATORS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, _ESTIMATORS))}, received {estimator!r}.")


def _infonce(own, mask, others, negative):
    # -log(e^s / (e^s + n)) = softplus(log n - s)
    noise = ops.logsumexp(masked(others, negative), axis=(1, 2))
    items = masked_mean(ops.softplus(noise[:, None] - own), mask, axis=-1)
    return masked_mean(items, ops.any(mask, axis=-1))


def _jsd(own, mask, others, negative):
    return masked_mean(ops.softplus(-own), mask) + masked_mean(ops.softplus(others), negative)


_ESTIMATORS = {"infonce": _infonce, "jsd": _jsd}
