import numpy as np

from keras_itr.search.two_stage import shortlist


def shortlist_scores(model, images, texts, coarse, k, batch_size=256, verbose=True):
    """Second-stage scores of every pair that a shortlist of either direction holds.

    Args:
        model: an `ImageTextRetriever` with a second stage (`model.rerank`).
        images, texts: the model's inputs, `I` and `T` of them, as for
            `embed_images` and `embed_texts`.
        coarse: `(I, T)` first-stage scores.
        k: int, length of the shortlists; 0 scores all pairs.
        batch_size: int, pairs scored at a time.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        float32 `(I, T)`, NaN for the pairs in no shortlist.

    Example:

    ```python
    from keras_itr.evaluation import two_stage_recall
    from keras_itr.search import shortlist_scores

    coarse = model.score(images, texts)
    fine = shortlist_scores(model, images, texts, coarse, k=20)
    two_stage_recall(coarse, fine, caption_to_image, 20, 20)
    ```

    Our choice.
    """
    wanted = np.zeros(coarse.shape, bool)
    np.put_along_axis(wanted, shortlist(coarse, k), True, axis=1)
    np.put_along_axis(wanted.T, shortlist(coarse.T, k), True, axis=1)
    pairs = np.argwhere(wanted)
    fine = np.full(coarse.shape, np.nan, "float32")
    fine[wanted] = model.rerank(images, texts, pairs, batch_size=batch_size, verbose=verbose)
    return fine
