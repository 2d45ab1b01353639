"""Losses of the CODER-style model: diversity-sensitive contrast and pseudo labels."""

from keras import ops

from keras_itr.losses.contrastive import contrastive
from keras_itr.losses.pairs import dot_products, masked, negative_pairs
from keras_itr.numerics import at_least_float32


def diversity_sensitive_contrastive(
    query, key, queue, valid=None, mu=90.0, gamma=0.5, positive="log1p", weighting="self", temperature=0.07
):
    """DCL, one direction: queries against a dictionary whose negatives weigh themselves.

    `(1/N) sum_i [(1/mu) log(1 + sum_m valid_im exp(mu (s_im - gamma))) - log(1 + max(s_i, 0))]`
    with `s_i = <query_i, key_i>` and `s_im = <query_i, queue_m>`. Its gradient in
    `s_im` is `negative_weights(...)[i, m] / N`. Keys and dictionary receive no
    gradient. A loss of both modalities adds the two directions.

    Args:
        query: `(N, D)` float, unit rows, for example images.
        key: `(N, D)` float, unit rows, the momentum captions of the same pairs.
        queue: `(M, D)` float, unit rows, older momentum captions; `M` may be 0.
        valid: `(N, M)` bool, False for entries that are no negatives (empty
            slot, same image); None (default) for all valid. Without a valid
            entry only the term of the positive remains.
        mu: positive number, sharpness of the weights, default 90.
        gamma: number, similarity at which a negative starts to push, default 0.5.
        positive: `"log1p"` (default) for the term above, which has no gradient
            at `s_i <= 0`, or `"softplus"` for `log(1 + exp(s_i))`.
        weighting: `"self"` (default), or `"softmax"` for InfoNCE over the
            positive and the valid dictionary; then `mu`, `gamma` and
            `positive` are not used.
        temperature: positive number or scalar tensor of `"softmax"`, default 0.07.

    Returns:
        A scalar, at least float32; it may be negative.

    Raises:
        ValueError: for any other `positive` or `weighting`, or a `mu` of 0 or less.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import diversity_sensitive_contrastive

    rows = np.eye(4, dtype="float32")
    diversity_sensitive_contrastive(rows[:2], rows[:2], rows)  # 0.5 - log 2: row 0 and 1 meet themselves
    ```

    Reference: our reading of the abstract of Wang et al., CODER, ECCV 2022, in
    the form of the code of Zhang et al., USER, TIP 2024; `"softmax"` is He et
    al., MoCo, CVPR 2020.
    """
    check_diversity(mu, positive, weighting)
    query, key = at_least_float32(query), ops.stop_gradient(at_least_float32(key))
    matched = ops.sum(query * key, axis=-1)
    similarity = dot_products(query, ops.stop_gradient(ops.convert_to_tensor(queue)))
    if weighting == "softmax":
        return _positive_first(matched, similarity, valid, temperature)
    return ops.mean(_push(similarity, valid, mu, gamma) - _pull(matched, positive))


def negative_weights(query, queue, valid=None, mu=90.0, gamma=0.5):
    """The adaptive weight of every negative in `diversity_sensitive_contrastive`.

    `w_im = valid_im exp(mu (s_im - gamma)) / (1 + sum_n valid_in exp(mu (s_in - gamma)))`:
    not negative, 0 at invalid entries, and less than one in sum: a query whose
    negatives all lie below `gamma` stops pushing.

    Args:
        query: `(N, D)` float, unit rows.
        queue: `(M, D)` float, unit rows.
        valid: `(N, M)` bool; None (default) for all valid.
        mu: as in the loss, default 90.
        gamma: as in the loss, default 0.5.

    Returns:
        `(N, M)`, at least float32.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import negative_weights

    negative_weights(np.eye(1, 2), np.eye(2))  # [[1., 0.]]
    ```

    Reference: derived from the loss; see `diversity_sensitive_contrastive`.
    """
    exponents = _exponents(dot_products(query, queue), valid, mu, gamma)
    return ops.exp(ops.log_softmax(exponents, axis=-1))[:, 1:]


def batch_diversity_contrastive(similarity, mu=90.0, gamma=0.5, positives=None):
    """DCL inside a batch, both directions with one shared term of the positive.

    `(1/N) sum_i [f(S_i:) + f(S_:i) - log(1 + max(S_ii, 0))]` with
    `f(s) = (1/mu) log(1 + sum_j exp(mu (s_j - gamma)))` over the negatives.

    Args:
        similarity: `(N, N)` float, images in rows, captions in columns.
        mu: positive number, default 90.
        gamma: number, default 0.5.
        positives: `(N, N)` bool, True for pairs that are no negatives besides
            the diagonal (`same_image_pairs(ids)`); None (default) for none.

    Returns:
        A scalar, at least float32; it may be negative.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import batch_diversity_contrastive

    batch_diversity_contrastive(np.eye(4, dtype="float32"))  # -log 2
    ```

    Reference: the code of Zhang et al., USER, TIP 2024; excluding the diagonal
    and the same image is our choice.
    """
    similarity = at_least_float32(similarity)
    negative = negative_pairs(ops.shape(similarity)[0], positives)
    images = _push(similarity, negative, mu, gamma)
    captions = _push(ops.transpose(similarity), ops.transpose(negative), mu, gamma)
    return ops.mean(images + captions - _pull(ops.diagonal(similarity), "log1p"))


def pseudo_label_prediction(student, codes, prototypes, temperature=0.1):
    """Cross-entropy of the student's distribution over prototypes against given codes.

    `-(1/N) sum_i sum_p codes_ip log softmax_p(<u_i, z_p> / temperature)`. Codes
    are constants; student and prototypes receive gradient.

    Args:
        student: `(N, D)` float, unit rows, the concept descriptors.
        codes: `(N, P)` float, rows sum to one, from the instance embeddings.
        prototypes: `(P, D)` float, unit rows.
        temperature: positive number or scalar tensor, default 0.1; a divisor.

    Returns:
        A scalar, at least float32.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import pseudo_label_prediction

    pseudo_label_prediction(np.eye(2, 4), np.eye(2, 3), np.eye(3, 4))
    ```

    Reference: the form of Caron et al., SwAV, NeurIPS 2020; our choice for the
    pseudo labels of Wang et al., CODER, ECCV 2022.
    """
    codes = ops.stop_gradient(ops.convert_to_tensor(codes))
    return contrastive(dot_products(student, prototypes), codes, temperature)


def _push(similarity, valid, mu, gamma):
    """`(N,)` of `(1/mu) log(1 + sum exp(mu (s - gamma)))` over the valid columns."""
    return ops.logsumexp(_exponents(similarity, valid, mu, gamma), axis=-1) / mu


def _exponents(similarity, valid, mu, gamma):
    """`(N, 1 + M)`; column 0 is the 1 in the logarithm, so that a row without a valid column gives log 1."""
    exponents = mu * (similarity - gamma)
    if valid is not None:
        exponents = masked(exponents, valid)
    return ops.pad(exponents, ((0, 0), (1, 0)))


def check_diversity(mu, positive, weighting):
    """Raise `ValueError` for arguments that no diversity-sensitive loss takes."""
    if mu <= 0:
        raise ValueError(f"mu must be above 0, the sharpness of the weights, received {mu}.")
    if positive not in ("log1p", "softplus"):
        raise ValueError(f"positive must be 'log1p' or 'softplus', received {positive!r}.")
    if weighting not in ("self", "softmax"):
        raise ValueError(f"weighting must be 'self' or 'softmax', received {weighting!r}.")


def _pull(matched, positive):
    return ops.log1p(ops.relu(matched)) if positive == "log1p" else ops.softplus(matched)


def _positive_first(matched, similarity, valid, temperature):
    """InfoNCE with the positive in column 0 and the dictionary after it."""
    if valid is not None:
        similarity = masked(similarity, valid)
    similarity = ops.concatenate([matched[:, None], similarity], axis=-1)
    first = ops.equal(ops.arange(ops.shape(similarity)[1]), 0)
    return contrastive(similarity, ops.broadcast_to(first, ops.shape(similarity)), temperature)
