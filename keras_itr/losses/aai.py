"""Losses of AAI between online embeddings, momentum keys and fused pairs."""

from keras import ops

from keras_itr.losses.contrastive import contrastive
from keras_itr.losses.pairs import dot_products, masked, masked_mean, same_image_targets, written
from keras_itr.numerics import at_least_float32


def image_text_contrastive(
    image,
    text,
    image_keys,
    text_keys,
    temperature,
    ids=None,
    key_ids=None,
    soft_image_targets=None,
    soft_text_targets=None,
    distillation_weight=0.0,
):
    """ITC: images against caption keys and captions against image keys.

    `1/2 [mean_i CE(q_i, v_i Kw^T / t) + mean_i CE(q'_i, w_i Kv^T / t)]` with
    `q = a p + (1 - a) y`: `y` shares one unit of mass among the keys of the
    row's image, `p` are soft targets and `a` the distillation weight. Empty
    slots leave the softmax; keys and soft targets receive no gradient.

    Args:
        image: `(B, D)` float, unit rows; likewise `text`.
        image_keys: `(C, D)` float, unit rows, the keys of the batch first and
            then a queue; likewise `text_keys`.
        temperature: positive number or scalar tensor; a divisor.
        ids: `(B,)` int, image ids of the rows. None (default): key `i` is the
            only positive of row `i`.
        key_ids: `(C,)` int, image ids of the keys, -1 for an empty slot. None
            (default): every key is written and, with `ids`, the keys are the
            batch (`C = B`). Without `ids` it only marks the empty slots.
        soft_image_targets: `(B, C)` float, probabilities of the images over
            `text_keys`; read only if `distillation_weight` is not 0.
        soft_text_targets: `(B, C)`, of the captions over `image_keys`.
        distillation_weight: number or scalar tensor in 0..1, default 0.0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: if there are fewer keys than rows without `ids`, if `ids`
            come without `key_ids` and `C != B`, or if a distillation weight
            comes without its soft targets.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import image_text_contrastive

    image = text = np.eye(2, 4, dtype="float32")
    keys = np.eye(4, dtype="float32")  # two keys of the batch, one old key, one empty slot
    image_text_contrastive(image, text, keys, keys, 0.07, ids=[5, 8], key_ids=[5, 8, 5, -1])
    ```

    Reference: Li et al., ALBEF, NeurIPS 2021, and the code of Yang et al.,
    TCL, CVPR 2022, of which AAI is reconstructed; masking the empty slots is
    our choice.
    """
    weight = distillation_weight
    return 0.5 * (
        _against_keys(image, text_keys, temperature, ids, key_ids, soft_image_targets, weight)
        + _against_keys(text, image_keys, temperature, ids, key_ids, soft_text_targets, weight)
    )


def intra_modal_separability(image, text, image_keys, text_keys, temperature, ids=None, key_ids=None):
    """IMS: each modality against its own momentum keys, with hard targets.

    `1/2 [mean_i CE(y_i, v_i Kv^T / t) + mean_i CE(y_i, w_i Kw^T / t)]`. The
    positive is the momentum view of the same item: online and momentum branch
    must see different views, or the loss only matches an item with itself.

    Args:
        image: `(B, D)` float, unit rows; likewise `text`.
        image_keys: `(C, D)` float, unit rows without gradient, the keys of the
            batch first and then a queue; likewise `text_keys`.
        temperature: positive number or scalar tensor; a divisor.
        ids: as in `image_text_contrastive`.
        key_ids: as in `image_text_contrastive`.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: as `image_text_contrastive` about keys and ids.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import intra_modal_separability

    view, keys = np.eye(2, 4, dtype="float32"), np.eye(4, dtype="float32")
    intra_modal_separability(view, view, keys, keys, 0.07)
    ```

    Reference: the code of Yang et al., TCL, CVPR 2022 (intra-modal
    contrastive), of which AAI is reconstructed.
    """
    return 0.5 * (
        _against_keys(image, image_keys, temperature, ids, key_ids)
        + _against_keys(text, text_keys, temperature, ids, key_ids)
    )


def image_text_matching(logits, labels):
    """ITM: mean cross-entropy of match against mismatch over the rows that have a label.

    Args:
        logits: `(3B, 2)` float, class 1 is "match": rows of the matched pairs,
            of captions with a negative image, of images with a negative caption.
        labels: `(3B,)` int, 1 match, 0 mismatch, -1 for a row to leave out.

    Returns:
        A scalar, at least float32; 0 if every row is left out.

    Raises:
        ValueError: if `logits` has not two classes.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import image_text_matching

    image_text_matching(np.zeros((3, 2), "float32"), [1, 0, -1])  # log 2
    ```

    Reference: Li et al., ALBEF, NeurIPS 2021; left-out rows are our choice.
    """
    logits = at_least_float32(logits)
    if logits.shape[-1] != 2:
        raise ValueError(f"logits must be (rows, 2) with class 1 for a match, received shape {tuple(logits.shape)}.")
    labels = ops.cast(labels, "int32")
    targets = ops.equal(labels[:, None], ops.arange(2, dtype="int32")[None, :])
    return masked_mean(contrastive(logits, targets, temperature=1.0, reduction="none"), ops.greater_equal(labels, 0))


def _against_keys(query, keys, temperature, ids, key_ids, soft_targets=None, distillation_weight=0.0):
    """Cross-entropy of queries against keys without gradient, mean over queries."""
    similarity = dot_products(query, ops.stop_gradient(ops.convert_to_tensor(keys)))
    targets = _distilled(_key_targets(similarity, ids, key_ids), soft_targets, distillation_weight)
    if key_ids is not None:
        valid = written(key_ids)
        similarity, targets = masked(similarity, valid), ops.where(valid, targets, 0.0)
    return contrastive(similarity, targets, temperature)


def _key_targets(similarity, ids, key_ids):
    """Hard targets `(B, C)`; the keys of the batch come first."""
    rows, candidates = similarity.shape
    known = None not in (rows, candidates)
    if ids is None:
        if known and candidates < rows:
            raise ValueError(
                f"Without ids, key i is the positive of row i: {rows} rows need at least as many keys, received "
                f"{candidates}."
            )
        return ops.eye(*ops.shape(similarity), dtype=similarity.dtype)
    if key_ids is None and known and candidates != rows:
        raise ValueError(
            f"ids without key_ids means that the keys are the batch, but there are {rows} rows and {candidates} "
            f"keys. Pass key_ids ({candidates},), -1 for an empty slot."
        )
    return same_image_targets(ids, key_ids, similarity.dtype)


def _distilled(targets, soft_targets, weight):
    # A ramped weight is a tensor: at 0 it gives the hard targets without a second trace.
    if isinstance(weight, (int, float)) and weight == 0:
        return targets
    if soft_targets is None:
        raise ValueError(
            "distillation_weight needs soft_image_targets and soft_text_targets, probabilities (B, C) of the momentum "
            f"encoders, received None; or leave it at 0. distillation_weight={weight!r}."
        )
    soft_targets = ops.stop_gradient(ops.cast(ops.convert_to_tensor(soft_targets), targets.dtype))
    weight = ops.convert_to_tensor(weight, targets.dtype)
    return weight * soft_targets + (1.0 - weight) * targets
