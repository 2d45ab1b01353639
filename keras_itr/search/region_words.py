"""The local similarity of TGDT for shortlists, in NumPy: each query has its own few candidates."""

import concurrent.futures
import os

import numpy as np
import threadpoolctl


class RegionWordScorer:
    """Scores of queries with their candidates, as `TGDT.pair_scores` has them.

    A product of one query with its own candidates is too small for the compiled functions of a backend: moving the
    candidates there costs more than the product. Here the valid rows of the candidates are gathered query by query
    into a block that stays in the cache, and a BLAS does the rest, on all cores.

    Args:
        model: a `TGDT`.

    Example: see `TwoStageSearch`, which uses it.
    """

    def __init__(self, model):
        self.model = model
        self.layer = model.region_word_similarity

    def bytes_of_candidate(self, gallery):
        """int, what one gathered candidate needs."""
        return 2 * gallery["tokens"][0].nbytes

    def __call__(self, queries, gallery, ids, query_side, shape=None):
        """Mixed scores.

        Args:
            queries: dict of features of `Q` queries: `"embedding"`, `"tokens"`, `"mask"`.
            gallery: the same of `G` items; may be memory-mapped.
            ids: int `(Q, K)`.
            query_side: `"image"` or `"text"`.
            shape: not read; compiled scorers have one for all their blocks.

        Returns:
            float32 `(Q, K)`.
        """
        words, score = (gallery, self._of_image) if query_side == "image" else (queries, self._of_text)
        word_mask = self._word_mask(words["mask"])
        valid = np.asarray(gallery["mask"]) if query_side == "text" else word_mask

        def local(query):
            mask = word_mask[query] if query_side == "text" else queries["mask"][query]
            rows = np.asarray(queries["tokens"][query])[np.asarray(mask)]
            return score(rows, gallery["tokens"], valid, ids[query], bool(np.all(mask)))

        # NumPy's gathers, maxima and products leave the interpreter to other threads. The products are too small for
        # a BLAS that splits each among threads of its own: they would wait for each other most of the time.
        threads = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        with threadpoolctl.threadpool_limits(1, user_api="blas"), threads as pool:
            local = np.stack(list(pool.map(local, range(len(ids)))))
        coarse = np.einsum("qd,qkd->qk", queries["embedding"], np.asarray(gallery["embedding"])[ids])
        return self.model.mixed(coarse, self.layer.scale * local).astype("float32")

    def _of_text(self, words, regions, region_mask, ids, _):
        """`(K,)`: the words `(L, D)` of one caption look for their best regions in each of the images `ids`."""
        if not len(words):
            return np.zeros(len(ids), "float32")
        products, counts = _products(regions, region_mask, ids, words)
        best = _segments(np.maximum, products, counts)
        if self.layer.masked_value == 0.0:
            padded = counts < region_mask.shape[1]
            best[padded] = np.maximum(best[padded], 0)
        total = best.sum(axis=1)
        return total / len(words) if self.layer.reduction == "mean" else total

    def _of_image(self, regions, words, word_mask, ids, whole):
        """`(K,)`: the words of each of the captions `ids` look for their best region among `(R, D)`."""
        if not len(regions):
            return np.zeros(len(ids), "float32")
        products, counts = _products(words, word_mask, ids, regions)
        best = products.max(axis=1)
        if self.layer.masked_value == 0.0 and not whole:
            best = np.maximum(best, 0)
        total = _segments(np.add, best[:, None], counts)[:, 0]
        return total / np.maximum(counts, 1) if self.layer.reduction == "mean" else total

    def _word_mask(self, mask):
        mask = np.array(mask, bool)
        if self.layer.trim_last_word:
            last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
            mask[np.arange(len(mask)), last] = False
        return mask


def _products(tokens, mask, ids, rows):
    """Products `(n, len(rows))` of the valid tokens of the candidates, one after the other, and how many each has."""
    valid = mask[ids]
    length, width = tokens.shape[1:]
    if valid.all():
        gathered, counts = np.take(tokens, ids, axis=0).reshape(-1, width), np.full(len(ids), length)
    else:
        candidate, place = np.nonzero(valid)
        gathered, counts = np.take(tokens.reshape(-1, width), ids[candidate] * length + place, axis=0), valid.sum(1)
    return gathered @ rows.T, counts


def _segments(reduce, values, counts):
    """`reduce` over consecutive segments of `values` `(n, m)`: `(len(counts), m)`, 0 for an empty one."""
    if len(values) and (counts == counts[0]).all():
        return reduce.reduce(values.reshape(len(counts), counts[0], -1), axis=1)
    result, full = np.zeros((len(counts), values.shape[1]), values.dtype), counts > 0
    if full.any():
        starts = np.concatenate([[0], np.cumsum(counts[full])[:-1]])
        result[full] = reduce.reduceat(values, starts, axis=0)
    return result
