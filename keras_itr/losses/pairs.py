"""Which entries of a similarity matrix count, and as what: shared by the losses."""

from keras import ops

from keras_itr.numerics import at_least_float32

EMPTY = -1
# Finite, so that division by a small temperature stays finite and a zero target times it is zero; next to any real
# similarity its exponential is exactly zero.
MASKED = -1e9


def dot_products(rows, columns):
    """`(B, C)` products of `rows` `(B, D)` with `columns` `(C, D)`, in at least float32."""
    return ops.matmul(at_least_float32(rows), ops.transpose(at_least_float32(columns)))


def masked(similarity, valid):
    """`similarity` where `valid`, elsewhere a value that no softmax sees and no gradient passes."""
    return ops.where(ops.cast(valid, "bool"), similarity, MASKED)


def masked_mean(values, valid, axis=None):
    """Mean of `values` over the valid entries of `axis`; 0 where there are none."""
    total = ops.sum(ops.where(valid, values, 0.0), axis=axis)
    return total / ops.maximum(ops.sum(ops.cast(valid, values.dtype), axis=axis), 1.0)


def written(key_ids):
    """bool `(C,)`, False at the slots of a queue that were never written (id -1)."""
    return ops.not_equal(ops.convert_to_tensor(key_ids), EMPTY)


def negative_pairs(count, positives=None):
    """bool `(B, B)`, False on the diagonal and where `positives` `(B, B)` is True."""
    excluded = ops.eye(count, dtype="bool")
    if positives is not None:
        excluded = ops.logical_or(excluded, ops.cast(positives, "bool"))
    return ops.logical_not(excluded)


def same_image_pairs(ids, key_ids=None):
    """Which pairs show the same image.

    Args:
        ids: `(B,)` int, equal ids are the same image; None for "all different".
        key_ids: `(C,)` int, ids of the candidates; -1 is an empty slot and
            equals nothing. None (default) means that the candidates are the
            batch itself.

    Returns:
        bool `(B, C)`, or None if `ids` is None.

    Example:

    ```python
    from keras_itr.losses import same_image_pairs

    same_image_pairs([7, 3], [7, 3, 7, -1])  # [[True, False, True, False], [False, True, False, False]]
    ```
    """
    if ids is None:
        return None
    ids = ops.convert_to_tensor(ids)
    if key_ids is None:
        return ops.equal(ids[:, None], ids[None, :])
    # A queue holds int32: ids beyond it are cut the same way on both sides.
    ids, key_ids = ops.cast(ids, "int32"), ops.cast(ops.convert_to_tensor(key_ids), "int32")
    return ops.logical_and(ops.equal(ids[:, None], key_ids[None, :]), written(key_ids))


def same_image_targets(ids, key_ids=None, dtype="float32"):
    """Targets that share one unit of mass among the pairs of equal id.

    Args:
        ids: `(B,)` int, equal ids are the same image; None for "all different".
        key_ids: `(C,)` int, ids of the candidates, -1 for an empty slot; None
            (default) for the batch itself.
        dtype: of the targets, default `"float32"`.

    Returns:
        `(B, C)` whose rows sum to one (to zero where no candidate has the
        row's id), or None if `ids` is None, which `contrastive` reads as the
        identity.

    Example:

    ```python
    from keras_itr.losses import same_image_targets

    same_image_targets([7, 7, 3])  # [[.5, .5, 0], [.5, .5, 0], [0, 0, 1]]
    ```
    """
    if ids is None:
        return None
    same = ops.cast(same_image_pairs(ids, key_ids), dtype)
    return same / ops.maximum(ops.sum(same, axis=-1, keepdims=True), 1.0)
