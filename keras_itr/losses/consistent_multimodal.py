from keras import ops

from keras_itr.losses.hard_negative_triplet import hard_negative_triplet
from keras_itr.losses.pairs import dot_products


def consistent_multimodal_contrastive(image, text, margin=0.2, intra_margin=0.3, hardest=True, positives=None):
    """Agreement across the modalities and between their inner geometries: the CMC loss.

    - `inter`: the two-way hinge of `hard_negative_triplet`, summed over the batch.
    - `intra = sum_j [max_i |<t_i, t_j> - <v_i, v_j>| - intra_margin]_+`: captions
      lie to each other as their images do, up to a margin. Always the largest
      difference, whatever `hardest` is.

    Args:
        image: `(B, D)` float, unit rows in the method it is from.
        text: `(B, D)` float, caption `i` belongs to image `i`.
        margin: number, of `inter`, default 0.2.
        intra_margin: number, of `intra`, default 0.3.
        hardest: bool or boolean scalar, default True; False sums over all
            negatives in `inter`.
        positives: `(B, B)` bool, True for pairs that are no negatives besides the
            diagonal; None (default) is the official loss. `intra` does not read it.

    Returns:
        dict of scalars: `"inter"`, `"intra"` and `"total"`, their sum.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import consistent_multimodal_contrastive

    image, text = np.eye(3, dtype="float32"), np.eye(3, dtype="float32")[[0, 1, 1]]
    consistent_multimodal_contrastive(image, text)  # inter 3.6, intra 1.4, total 5.0
    ```

    Reference: Liu et al., TGDT, IEEE TIP 2023, in the form of the official code;
    `positives` is our choice.
    """
    inter = hard_negative_triplet(dot_products(image, text), margin, hardest, positives=positives)
    difference = ops.abs(dot_products(text, text) - dot_products(image, image))
    intra = ops.sum(ops.relu(ops.max(difference, axis=0) - intra_margin))
    return {"inter": inter, "intra": intra, "total": inter + intra}
