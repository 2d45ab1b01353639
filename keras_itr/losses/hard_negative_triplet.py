from keras import ops

from keras_itr.losses.contrastive import reduced
from keras_itr.losses.pairs import negative_pairs
from keras_itr.numerics import at_least_float32


def hard_negative_triplet(similarity, margin=0.2, hardest=True, reduction="sum", positives=None):
    """Hinge of every pair against its hardest negatives, or against all of them.

    With `c_ij = [m + S_ij - S_ii]_+` of an image query and
    `d_ij = [m + S_ij - S_jj]_+` of a caption query, over the negatives only:

    - hardest: `sum_i max_j c_ij + sum_j max_i d_ij`
    - otherwise: `sum_ij (c_ij + d_ij)`, the form of the warm-up epoch.

    A loss that stays at `2 m B` means that all embeddings collapsed into one
    point, usually because the warm-up was skipped. The default sum grows with
    the batch; learning rate and gradient clipping belong to it.

    Args:
        similarity: `(B, B)` float, images in rows, captions in columns, pair
            `i` on the diagonal. Computed in at least float32.
        margin: non-negative number or scalar tensor, default 0.2.
        hardest: bool (default True), or a boolean or float scalar tensor or
            `keras.Variable`, nonzero for True. A variable is read inside the
            graph: assigning it between steps does not retrace.
        reduction: `"sum"` over pairs (default, the official scale), `"mean"`,
            or `"none"` for `(B,)`, the cost of image `i` plus that of caption `i`.
        positives: `(B, B)` bool, True for pairs that are no negatives besides
            the diagonal, such as other captions of the same image
            (`same_image_pairs(ids)`); None (default) for none. A query without
            any negative costs 0.

    Returns:
        A scalar, or `(B,)` with `reduction="none"`.

    Raises:
        ValueError: if `similarity` is not square, `reduction` is none of
            the three, or `margin` is a negative number.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import hard_negative_triplet, same_image_pairs

    similarity = np.array([[0.9, 0.8, 0.1], [0.3, 0.7, 0.2], [0.2, 0.1, 0.6]], "float32")
    hard_negative_triplet(similarity)  # 0.4: image 0 is 0.1 inside the margin, caption 1 0.3
    hard_negative_triplet(similarity, positives=same_image_pairs([5, 5, 8]))  # 0.0
    ```

    Reference: Faghri et al., VSE++, BMVC 2018, in the form of the code of Chen
    et al., VSE-infinity, CVPR 2021; `positives` and the other reductions are
    our choice.
    """
    similarity = at_least_float32(similarity)
    _check_square(similarity)
    check_margin(margin)
    negative = negative_pairs(ops.shape(similarity)[0], positives)
    images = _query_cost(similarity, negative, margin, hardest)
    captions = _query_cost(ops.transpose(similarity), ops.transpose(negative), margin, hardest)
    return reduced(images + captions, reduction)


def _query_cost(similarity, negative, margin, hardest):
    """`(B,)` hinges of the queries in rows."""
    hinge = ops.relu(margin + similarity - ops.diagonal(similarity)[:, None])
    # Excluded after the hinge: a row without negatives has the maximum 0, not -inf.
    hinge = ops.where(negative, hinge, 0.0)
    if isinstance(hardest, bool):
        return ops.max(hinge, axis=-1) if hardest else ops.sum(hinge, axis=-1)
    # Both forms are cheap next to the encoders; a select keeps one trace for the whole training.
    hardest = ops.cast(ops.convert_to_tensor(hardest), "bool")
    return ops.where(hardest, ops.max(hinge, axis=-1), ops.sum(hinge, axis=-1))


def check_margin(margin):
    """Raise `ValueError` for a negative number; a tensor is not looked into."""
    if isinstance(margin, (int, float)) and margin < 0:
        raise ValueError(f"margin must be 0 or more, by how much a pair beats its negatives, received {margin}.")


def _check_square(similarity):
    shape = tuple(similarity.shape)
    if len(shape) != 2 or (None not in shape and shape[0] != shape[1]):
        raise ValueError(
            f"similarity must be (B, B) with pair i on the diagonal, received shape {shape}. Repeat each image "
            "once per caption before the product."
        )
