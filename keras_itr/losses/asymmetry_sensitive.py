from keras import ops

from keras_itr.losses.contrastive import contrastive
from keras_itr.losses.pairs import masked, negative_pairs, same_image_pairs
from keras_itr.numerics import at_least_float32


def asymmetry_sensitive_contrastive(similarity, temperature=0.1, drop_false_negatives=True, ids=None):
    """Both directions of InfoNCE, with generated negatives against the images.

    `mean_i -log softmax_j(S_ij / t)[i] + mean_j -log softmax_i(S_ij / t)[j]`, a
    sum: the first over all columns, the second over the real texts. A generated
    entry above the true pair of its row is replaced by the constant 0: it may be
    no negative at all. So it keeps a weight, and receives no gradient; nor does
    the true pair from the comparison.

    Args:
        similarity: `(B, B * (1 + M))` float, images in rows; in columns the B
            texts, pair `i` on the diagonal, then `M * B` generated negatives.
            Computed in at least float32.
        temperature: positive number or scalar tensor, default 0.1; a divisor.
        drop_false_negatives: bool, default True; False keeps every generated
            entry as it is.
        ids: `(B,)` int, real texts of an equal id are no negatives of each
            other's image and leave both softmaxes; None (default) for "all
            different", the rule of the related code.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: if the number of columns is no multiple of that of the rows.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import asymmetry_sensitive_contrastive

    similarity = np.concatenate([np.eye(3), np.full((3, 3), 0.5)], axis=1).astype("float32")
    asymmetry_sensitive_contrastive(similarity)  # three texts and one generated negative of each
    ```

    Reference: the code of Gong et al., ACF-R+, as related code of AsCL (ICME
    2024); `ids` is our choice.
    """
    similarity = at_least_float32(similarity)
    _check_columns(similarity)
    count = ops.shape(similarity)[0]
    real, generated = similarity[:, :count], similarity[:, count:]
    if drop_false_negatives:
        generated = ops.where(generated > ops.diagonal(real)[:, None], 0.0, generated)
    if ids is not None:
        # Of the same image, but for the pair itself.
        real = masked(real, ops.logical_or(negative_pairs(count, same_image_pairs(ids)), ops.eye(count, dtype="bool")))
    images = contrastive(ops.concatenate([real, generated], axis=1), temperature=temperature)
    return images + contrastive(ops.transpose(real), temperature=temperature)


def _check_columns(similarity):
    shape = tuple(similarity.shape)
    if len(shape) != 2 or (None not in shape and (shape[0] == 0 or shape[1] == 0 or shape[1] % shape[0])):
        raise ValueError(
            "similarity must be (B, B * (1 + M)), the B texts of the B images and then M generated negatives of each "
            f"text, received shape {shape}."
        )
