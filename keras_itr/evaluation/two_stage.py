import numpy as np

from keras_itr.metrics.arrays import check_cutoff, to_floats
from keras_itr.metrics.ranking import ranks
from keras_itr.metrics.recall import check_caption_to_image, recall_from_ranks
from keras_itr.search.two_stage import shortlist, shortlisted


def two_stage_recall(coarse, fine, caption_to_image, k_image_to_text, k_text_to_image, ks=(1, 5, 10)):
    """R@K of two-stage retrieval: the coarse score chooses a shortlist per query, the fine score ranks it.

    A right answer outside the shortlist is a miss at every cutoff, however short
    the shortlist is. Within it the rank is that of `metrics.recall_at_k`: how many
    wrong items of the shortlist have a fine score at least as high as the best
    right one; a tie counts against the model.

    Args:
        coarse: `(I, T)` scores of every image with every caption, higher is
            better; NumPy or any backend's tensor.
        fine: `(I, T)` scores of the same pairs. What is in the shortlist of
            neither direction is never looked at and may be NaN.
        caption_to_image: int `(T,)`, the image row of every caption, in any order.
        k_image_to_text: int, captions in the shortlist of an image. More than `T`
            is `T`: the recall of `fine` alone. `0`: that of `coarse` alone.
        k_text_to_image: int, the same for the images of a caption.
        ks: the cutoffs. Defaults to `(1, 5, 10)`.

    Returns:
        the flat dict of `metrics.recall_at_k`, and `i2t_shortlist`,
        `t2i_shortlist`: percent of queries with a right answer in the shortlist,
        which no recall can exceed. A miss enters a median rank as one place
        behind the last of the gallery, and of the cutoffs.

    Raises:
        ValueError: as `metrics.recall_at_k`, for NaN in `coarse` or in a
            shortlist, or if a `k` is no integer of at least 0.

    Example:

    ```python
    import numpy as np
    from keras_itr.evaluation import two_stage_recall

    coarse = np.array([[0.9, 0.8, 0.1], [0.3, 0.2, 0.7]])
    fine = np.array([[0.4, 0.6, np.nan], [0.1, 0.2, 0.5]])
    metrics = two_stage_recall(coarse, fine, [0, 0, 1], k_image_to_text=2, k_text_to_image=1, ks=(1,))
    metrics["i2t_r1"], metrics["t2i_r1"], metrics["i2t_shortlist"]  # (100.0, 100.0, 100.0)
    ```

    Reference: Liu et al., TGDT, whose official evaluation counts a query that
    lost all its answers as found; here it is a miss. Ties are our choice.
    """
    coarse, fine = to_floats(coarse), to_floats(fine)
    if coarse.ndim != 2 or fine.shape != coarse.shape:
        raise ValueError(f"coarse and fine must be matrices (images, captions), got {coarse.shape} and {fine.shape}.")
    ks = [check_cutoff(k, "every cutoff in ks") for k in ks]
    owner = check_caption_to_image(caption_to_image, *coarse.shape)
    positives = owner == np.arange(len(coarse))[:, None]
    return _recall(
        _ranks(coarse, fine, positives, k_image_to_text, ks),
        _ranks(coarse.T, fine.T, positives.T, k_text_to_image, ks),
        ks,
    )


def ranking_recall(image_ranking, caption_ranking, caption_to_image, ks=(1, 5, 10)):
    """R@K of what a two-stage search returned: `two_stage_recall` without the matrices.

    Args:
        image_ranking: `search.Ranking` of `(I, K)` captions of every image.
        caption_ranking: `search.Ranking` of `(T, K')` images of every caption.
        caption_to_image: int `(T,)`, the image row of every caption, in any order.
        ks: the cutoffs. Defaults to `(1, 5, 10)`.

    Returns:
        the flat dict of `two_stage_recall`.

    Raises:
        ValueError: as `two_stage_recall`.

    Example:

    ```python
    from keras_itr.evaluation import ranking_recall

    rankings = search.image_to_text(images, texts), search.text_to_image(texts, images)
    ranking_recall(*rankings, caption_to_image)["rsum"]
    ```
    """
    ks = [check_cutoff(k, "every cutoff in ks") for k in ks]
    num_images, num_captions = len(image_ranking.ids), len(caption_ranking.ids)
    owner = check_caption_to_image(caption_to_image, num_images, num_captions)
    image_positives = owner[image_ranking.ids] == np.arange(num_images)[:, None]
    caption_positives = caption_ranking.ids == owner[:, None]
    return _recall(
        _shortlist_ranks(image_ranking.scores, image_positives, max([num_captions, *ks])),
        _shortlist_ranks(caption_ranking.scores, caption_positives, max([num_images, *ks])),
        ks,
    )


def _recall(images, captions, ks):
    """The metrics from `(ranks, hits)` of either direction."""
    return {
        **recall_from_ranks(images[0], captions[0], ks),
        "i2t_shortlist": 100.0 * float(np.mean(images[1])),
        "t2i_shortlist": 100.0 * float(np.mean(captions[1])),
    }


def _ranks(coarse, fine, positives, k, ks):
    """Ranks int64 `(Q,)`, and bool `(Q,)`: whether the shortlist holds a right answer."""
    ids = shortlist(coarse, k)
    if ids.shape == coarse.shape:
        return ranks(fine if k else coarse, positives), positives.any(axis=1)
    positives = np.take_along_axis(positives, ids, axis=1)
    return _shortlist_ranks(shortlisted(fine, ids), positives, max([coarse.shape[1], *ks]))


def _shortlist_ranks(scores, positives, miss):
    """Ranks and hits from the scores and positives `(Q, K)` of shortlists."""
    hit = positives.any(axis=1)
    # Finite, so that a report can hold the median; and a miss too where a cutoff exceeds the gallery.
    return np.where(hit, ranks(scores, positives), miss), hit
