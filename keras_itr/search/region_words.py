"""The local similarity of TGDT for shortlists, in NumPy: each query has its own few candidates."""

import concurrent.futures
import os

import numpy as np
import threadpoolctl

# Candidates gathered at a time by one thread, some megabytes: measured, fewer are slower.
CANDIDATES = 512


class RegionWordScorer:
    """Scores of queries with their candidates, as `TGDT.pair_scores` has them.

    A product of one query with its own candidates is too small for the compiled functions of a backend: moving the
    candidates there costs more than the product. Here the valid rows of the candidates are gathered into a block that
    stays in the cache, and a BLAS does the rest, on all cores.

    Args:
        model: a `TGDT`.
        query_block: int, queries of one call at least.
        memory_budget: int, bytes of gathered rows and their products at a time, at least those of one candidate for
            each thread.

    Example: see `TwoStageSearch`, which uses it.
    """

    def __init__(self, model, query_block=64, memory_budget=1 << 27):
        self.model = model
        self.layer = model.region_word_similarity
        self.query_block = query_block
        self.memory_budget = memory_budget
        self.workers = os.cpu_count()

    def prepare(self, gallery, shape, query_side):
        """Queries and candidates of one call: many, since the gathered rows are few at any time."""
        return min(max(self.query_block, 8192), shape[0]), shape[1]

    def __call__(self, queries, gallery, ids, coarse, query_side):
        """Mixed scores.

        Args:
            queries: dict of features of `Q` queries: `"tokens"`, `"mask"`.
            gallery: the same of `G` items; may be memory-mapped.
            ids: int `(Q, K)`.
            coarse: float `(Q, K)`, global similarities of these.
            query_side: `"image"` or `"text"`.

        Returns:
            float32 `(Q, K)`.
        """
        rows, others = np.repeat(np.arange(len(ids)), ids.shape[1]), ids.reshape(-1)
        sides = queries, gallery
        row_side = query_side
        if len(gallery["tokens"]) < len(ids):
            # Fewer and larger products: each item of the gallery with all queries that look at it.
            rows, others, sides = others, rows, sides[::-1]
            row_side = "image" if query_side == "text" else "text"
        local = self._local(*sides, rows, others, row_side).reshape(ids.shape)
        return self.model.mixed(coarse, self.layer.scale * local).astype("float32")

    def _local(self, one, other, rows, others, row_side):
        """`(P,)` local similarities of rows `rows` `(P,)` of one side with rows `others` `(P,)` of the other."""
        one_mask, other_mask = np.asarray(one["mask"], bool), np.asarray(other["mask"], bool)
        if row_side == "text":
            one_mask, score = self._word_mask(one_mask), self._of_text
        else:
            other_mask, score = self._word_mask(other_mask), self._of_image
        tokens, whole, length = other["tokens"], other_mask.all(axis=1), other_mask.shape[1]
        order = np.argsort(rows, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
        local = np.empty(len(rows), "float32")
        # A row and its products with those of the other side are of about one size at most.
        chunk = self.memory_budget // (2 * self.workers * length * tokens.shape[2] * tokens.itemsize)
        chunk = max(1, min(CANDIDATES, chunk))

        def fill(some):
            # One buffer for all gathers of a thread: fresh memory costs more than what is copied into it.
            buffer = np.empty((chunk * length, tokens.shape[2]), tokens.dtype)
            for group in groups[some]:
                row = rows[group[0]]
                vectors = np.asarray(one["tokens"][row])[one_mask[row]]
                for start in range(0, len(group), chunk):
                    part = group[start : start + chunk]
                    gathered, counts = _gather(tokens, other_mask, whole, others[part], buffer)
                    local[part] = score(vectors, gathered, counts, one_mask.shape[1], length)

        # NumPy's gathers, maxima and products leave the interpreter to other threads. The products are too small for
        # a BLAS that splits each among threads of its own: they would wait for each other most of the time.
        step = -(-len(groups) // (4 * self.workers))
        parts = [slice(start, start + step) for start in range(0, len(groups), step)]
        with (
            threadpoolctl.threadpool_limits(1, user_api="blas"),
            concurrent.futures.ThreadPoolExecutor(self.workers) as pool,
        ):
            list(pool.map(fill, parts))
        return local

    def _of_text(self, words, regions, counts, _, num_regions):
        """`(K,)` scores of one caption's words `(L, D)` with the regions `(n, D)` of `K` images, `counts` of each."""
        best = _segments(np.maximum, regions @ words.T, counts)
        if self.layer.masked_value == 0.0:
            padded = counts < num_regions
            best[padded] = np.maximum(best[padded], 0)
        total = best.sum(axis=1)
        return total / max(len(words), 1) if self.layer.reduction == "mean" else total

    def _of_image(self, regions, words, counts, num_regions, _):
        """`(K,)` scores of one image's regions `(R, D)` with the words `(n, D)` of `K` captions, `counts` of each."""
        if not len(regions):
            return np.zeros(len(counts), "float32")
        products = words @ regions.T
        # Column by column: NumPy's own maximum of many short rows takes three times as long.
        best = products[:, 0].copy()
        for column in range(1, len(regions)):
            np.maximum(best, products[:, column], out=best)
        if self.layer.masked_value == 0.0 and len(regions) < num_regions:
            best = np.maximum(best, 0)
        total = _segments(np.add, best[:, None], counts)[:, 0]
        return total / np.maximum(counts, 1) if self.layer.reduction == "mean" else total

    def _word_mask(self, mask):
        mask = np.array(mask, bool)
        if self.layer.trim_last_word:
            last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
            mask[np.arange(len(mask)), last] = False
        return mask


def _gather(tokens, mask, whole, ids, buffer):
    """The valid tokens `(n, D)` of the candidates, one after the other, and how many each has."""
    length, width = tokens.shape[1:]
    if whole[ids].all():
        counts, gathered = np.full(len(ids), length), buffer[: len(ids) * length]
        # `clip` lets NumPy write to the buffer itself; no id is outside.
        np.take(tokens, ids, axis=0, out=gathered.reshape(len(ids), length, width), mode="clip")
    else:
        valid = mask[ids]
        candidate, place = np.nonzero(valid)
        counts, gathered = valid.sum(axis=1), buffer[: len(place)]
        np.take(tokens.reshape(-1, width), ids[candidate] * length + place, axis=0, out=gathered, mode="clip")
    return gathered, counts


def _segments(reduce, values, counts):
    """`reduce` over consecutive segments of `values` `(n, m)`: `(len(counts), m)`, 0 for an empty one."""
    if len(values) and (counts == counts[0]).all():
        return reduce.reduce(values.reshape(len(counts), counts[0], -1), axis=1)
    result, full = np.zeros((len(counts), values.shape[1]), values.dtype), counts > 0
    if full.any():
        starts = np.concatenate([[0], np.cumsum(counts[full])[:-1]])
        result[full] = reduce.reduceat(values, starts, axis=0)
    return result
