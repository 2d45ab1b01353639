import numpy as np

from keras_itr.metrics.arrays import check_cutoff, check_scores, to_floats, to_numpy
from keras_itr.metrics.ranking import percent_within, ranks


def recall_at_k(similarity, caption_to_image, ks=(1, 5, 10)):
    """R@K of image-text retrieval in both directions, from one similarity matrix.

    A query is found at K when fewer than K wrong items score at least as high as
    its best right one. An image has all its own captions as right answers, a
    caption its one image. How many captions an image has is read from
    `caption_to_image`: five, one, or a different number for each.

    Args:
        similarity: `(I, T)` scores of every image with every caption; NumPy or
            any backend's tensor, float32 or float64.
        caption_to_image: int `(T,)`, the row of `similarity` that caption `t`
            belongs to. Captions may stand in any order.
        ks: the cutoffs. Defaults to `(1, 5, 10)`.

    Returns:
        flat dict of floats: `i2t_r1`, `i2t_r5`, `i2t_r10`, `t2i_r1`, `t2i_r5`,
        `t2i_r10` in percent (image to text, text to image), `rsum` their sum,
        and `i2t_median_rank`, `t2i_median_rank`, where 1 is best.

    Raises:
        ValueError: if shapes do not fit, an image has no caption, a caption
            belongs to no row, a score is NaN, or a cutoff is below 1.

    Example:

    ```python
    import numpy as np
    from keras_itr.metrics import recall_at_k

    similarity = np.array([[0.9, 0.8, 0.1], [0.3, 0.2, 0.7]])
    recall_at_k(similarity, caption_to_image=[0, 0, 1], ks=(1,))
    # {"i2t_r1": 100.0, "t2i_r1": 100.0, "rsum": 200.0, "i2t_median_rank": 1.0, "t2i_median_rank": 1.0}
    ```

    Reference: Frome et al., DeViSE, and Faghri et al., VSE++, for the protocol;
    ties count against the model, which is our choice.
    """
    return recall_from_ranks(*two_way_ranks(similarity, caption_to_image), ks)


def two_way_ranks(similarity, positives):
    """Ranks of every image among the captions and of every caption among the images.

    Args:
        similarity: `(I, T)` scores.
        positives: `caption_to_image`, int `(T,)`, or explicit truth, bool `(I, T)`.

    Returns:
        pair of int64 arrays `(I,)` and `(T,)`, as `ranks`.

    Example:

    ```python
    import numpy as np
    from keras_itr.metrics import two_way_ranks

    two_way_ranks(np.array([[0.9, 0.2], [0.3, 0.1]]), np.array([0, 1]))  # (array([0, 1]), array([0, 1]))
    ```
    """
    similarity, positives = to_floats(similarity), to_numpy(positives)
    if positives.ndim == 1:
        if similarity.ndim != 2:
            raise ValueError(f"similarity must be a matrix (images, captions), got shape {similarity.shape}.")
        positives = check_caption_to_image(positives, *similarity.shape) == np.arange(len(similarity))[:, None]
    similarity, positives = check_scores(similarity, positives)
    return ranks(similarity, positives), ranks(similarity.T, positives.T)


def recall_from_ranks(image_ranks, caption_ranks, ks=(1, 5, 10), prefix=""):
    """The flat dict of `recall_at_k` from the ranks `(I,)` of the images and `(T,)` of the captions.

    `prefix` is put before every name, as in `"checked_i2t_r1"`.

    Example:

    ```python
    from keras_itr.metrics import recall_from_ranks

    recall_from_ranks([0, 3], [0, 0, 1], ks=(1,))["t2i_r1"]  # 66.7
    ```
    """
    ks = [check_cutoff(k, "every cutoff in ks") for k in ks]
    if not ks:
        raise ValueError("ks must name at least one cutoff, got none; the usual ones are (1, 5, 10).")
    directions = {"i2t": to_numpy(image_ranks), "t2i": to_numpy(caption_ranks)}
    recalls = {f"{name}_r{k}": percent_within(found, k) for name, found in directions.items() for k in ks}
    medians = {f"{name}_median_rank": float(np.median(found) + 1) for name, found in directions.items()}
    metrics = {**recalls, "rsum": float(sum(recalls.values())), **medians}
    return {prefix + name: value for name, value in metrics.items()}


def check_caption_to_image(caption_to_image, num_images, num_captions):
    """`caption_to_image` as a checked int array `(T,)`: in range, and every image has a caption."""
    owner = to_numpy(caption_to_image)
    if owner.shape != (num_captions,) or owner.dtype.kind not in "iu":
        raise ValueError(
            f"caption_to_image must hold one integer for each of the {num_captions} captions, "
            f"got {owner.dtype} of shape {owner.shape}; similarity is (images, captions): is it transposed?"
        )
    outside = (owner < 0) | (owner >= num_images)
    if outside.any():
        caption = int(np.argmax(outside))
        raise ValueError(
            f"caption_to_image must lie in 0..{num_images - 1} for {num_images} images, "
            f"but caption {caption} belongs to image {owner[caption]}."
        )
    bare = np.bincount(owner, minlength=num_images) == 0
    if bare.any():
        raise ValueError(
            f"every image needs a caption, but image {int(np.argmax(bare))} has none "
            f"({int(bare.sum())} of {num_images}); leave such images out of the matrix."
        )
    return owner.astype(np.int64)
