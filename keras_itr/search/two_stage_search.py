import dataclasses

import numpy as np

from keras_itr.files import read_rows
from keras_itr.models.encoding import features_of, resident_candidates, run_encoder, score_blocks, score_candidates
from keras_itr.models.tgdt import TGDT
from keras_itr.progress import SlowBar
from keras_itr.search.nearest import best_first, nearest, pair_products
from keras_itr.search.region_words import RegionWordScorer
from keras_itr.search.two_stage import check_length


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What a search found.

    Attributes:
        ids: int64 `(Q, K)`, gallery rows, best first. Of equal scores the lower row comes first; scores of equal items
            may differ in the last digit where they came out of products of different shapes.
        scores: float32 `(Q, K)`, the second-stage scores of these.
    """

    ids: np.ndarray
    scores: np.ndarray


class TwoStageSearch:
    """Search by vectors first and by the model's slow score then: one mechanism for every method with a second stage.

    The dot product of the embeddings makes a shortlist of `k` for every query, `model.pair_scores` (or, for TGDT, the
    same in NumPy) scores the pairs of the shortlist from cached local features, and orders them. Nothing outside of a
    shortlist is found. Each item is encoded once; local features may lie in memory-mapped files. With a shortlist as
    long as the gallery all pairs are scored in blocks of 64 x 64, whatever the budget; for TGDT and AsCL that is
    `model.score`, bit by bit.

    Args:
        model: an `ImageTextRetriever` with a second stage: `TGDT`, `AsCL` or `AAI`.
        top_k_image_to_text: int, captions in the shortlist of an image; None (default) takes the model's own.
        top_k_text_to_image: int, images in the shortlist of a caption; likewise. More than the gallery is the gallery.
        query_block: int, queries scored at a time at most, default 64.
        memory_budget: int, bytes of gathered features and their scores at a time, default 128 MB. Features that were
            encoded into memory count on top of it; with a `directory` they stay on disk.
        verbose: bool, default True: a progress bar on work over two seconds.

    Raises:
        ValueError: if the model has no second stage, or a length is below 1.

    Example:

    ```python
    import keras_itr

    search = keras_itr.search.TwoStageSearch(model)
    gallery = search.encode_images(photos, directory="gallery")  # once; memory-mapped
    ranking = search.text_to_image(["a dog on the beach"], gallery)
    [photos[row] for row in ranking.ids[0][:5]]
    ```

    Reference: the two-stage inference of Liu et al., TGDT, IEEE TIP 2023, and of Li et al., ALBEF, NeurIPS 2021; ties,
    blocks and budget are our choice.
    """

    def __init__(
        self,
        model,
        top_k_image_to_text=None,
        top_k_text_to_image=None,
        query_block=64,
        memory_budget=1 << 27,
        verbose=True,
    ):
        if not getattr(model, "second_stage", False):
            raise ValueError(f"{type(model).__name__} has no second stage; search by its embeddings alone.")
        own = model.shortlist_lengths()
        self.model = model
        self.top_k_image_to_text = check_length(
            own[0] if top_k_image_to_text is None else top_k_image_to_text, "top_k_image_to_text"
        )
        self.top_k_text_to_image = check_length(
            own[1] if top_k_text_to_image is None else top_k_text_to_image, "top_k_text_to_image"
        )
        self.query_block = check_length(query_block, "query_block")
        self.memory_budget = check_length(memory_budget, "memory_budget")
        self.verbose = verbose
        scorer = RegionWordScorer if isinstance(model, TGDT) else _PairScorer
        self.scorer = scorer(model, self.query_block, self.memory_budget)

    def encode_images(self, images, batch_size=64, directory=None):
        """Features of images, to search with or among.

        Args:
            images: as for `model.embed_images`.
            batch_size: int, default 64.
            directory: folder for the features as memory-mapped files `image_*.npy`; None (default) keeps them in
                memory. Features that are there already are replaced when all are done, never before.

        Returns:
            dict of arrays with one row per image: `"embedding"`, `"tokens"`, `"mask"` and what else the model needs.
        """
        return run_encoder(self.model, "image", "features", images, batch_size, self.verbose, directory)

    def load_images(self, directory):
        """The memory-mapped features that `encode_images` wrote into a folder, without encoding anew."""
        return read_rows(directory, "image_")

    def encode_texts(self, texts, batch_size=64, directory=None):
        """Features of captions; `texts` as for `model.embed_texts`. See `encode_images`."""
        return run_encoder(self.model, "text", "features", texts, batch_size, self.verbose, directory)

    def load_texts(self, directory):
        """The features that `encode_texts` wrote into a folder. See `load_images`."""
        return read_rows(directory, "text_")

    def image_to_text(self, images, texts):
        """The best captions of every image.

        Args:
            images, texts: features of `encode_images` and `encode_texts`, or what these take.

        Returns:
            A `Ranking` of `top_k_image_to_text` captions of each image.
        """
        return self._search(images, texts, "image", self.top_k_image_to_text)

    def text_to_image(self, texts, images):
        """The best images of every caption: a `Ranking` of `top_k_text_to_image` images. See `image_to_text`."""
        return self._search(images, texts, "text", self.top_k_text_to_image)

    def order_shortlists(self, queries, gallery, ids, query_side):
        """Order shortlists that were made elsewhere, such as by a `GalleryIndex`.

        Args:
            queries: features of `Q` images or captions, see `encode_images` and `encode_texts`.
            gallery: features of `G` items of the other side.
            ids: int `(Q, K)`, the rows of the gallery in each shortlist.
            query_side: `"image"` or `"text"`, what the queries are.

        Returns:
            A `Ranking` of the same rows.

        Raises:
            ValueError: if `ids` has another shape or names a row that is not there.
        """
        ids = np.sort(np.asarray(ids), axis=-1)
        count, length = len(queries["embedding"]), len(gallery["embedding"])
        if ids.ndim != 2 or len(ids) != count or ids.dtype.kind not in "iu" or not ids.size:
            raise ValueError(f"ids must be int ({count}, K), a shortlist of each query, got {ids.dtype} {ids.shape}.")
        if ids.min() < 0 or ids.max() >= length:
            raise ValueError(f"ids must be rows of {length} items, received {ids.min()} to {ids.max()}.")
        coarse = pair_products(np.asarray(queries["embedding"]), gallery["embedding"], ids)
        return _ordered(ids, self._second_stage(queries, gallery, ids, coarse, query_side))

    def _search(self, images, texts, query_side, k):
        images = features_of(self.model, "image", images, verbose=self.verbose)
        texts = features_of(self.model, "text", texts, verbose=self.verbose)
        queries, gallery = (images, texts) if query_side == "image" else (texts, images)
        if not len(queries["embedding"]):
            nothing = np.empty((0, min(k, len(gallery["embedding"]))))
            return Ranking(nothing.astype("int64"), nothing.astype("float32"))
        if k >= len(gallery["embedding"]) and not self.model.dot_product:
            scores = score_blocks(self.model, images, texts, verbose=self.verbose)
            scores = scores if query_side == "image" else scores.T
            return _ordered(np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores)
        ids, coarse = nearest(queries["embedding"], gallery["embedding"], k)
        return _ordered(ids, self._second_stage(queries, gallery, ids, coarse, query_side))

    def _second_stage(self, queries, gallery, ids, coarse, query_side):
        rows, columns = self.scorer.prepare(gallery, ids.shape, query_side)
        scores, bar = np.empty(ids.shape, "float32"), SlowBar(len(ids), self.verbose)
        for start in range(0, len(ids), rows):
            block = {key: value[start : start + rows] for key, value in queries.items()}
            for at in range(0, ids.shape[1], columns):
                part = np.s_[start : start + rows, at : at + columns]
                scores[part] = self.scorer(block, gallery, ids[part], coarse[part], query_side)
            bar.update(min(start + rows, len(ids)))
        return scores


class _PairScorer:
    """`model.pair_scores` of queries with their candidates, compiled for one shape of blocks."""

    def __init__(self, model, query_block, memory_budget):
        self.model = model
        self.query_block = query_block
        self.memory_budget = memory_budget
        self.gallery, self.resident, self.shape = {}, None, None

    def prepare(self, gallery, shape, query_side):
        """Queries and candidates of one call, within the budget, for a search of `shape` `(Q, K)`."""
        total = sum(value.nbytes for value in gallery.values())
        resident = total if total <= self.memory_budget // 2 else 0
        if not _same_arrays(gallery, self.gallery):
            # A gallery that takes less than half of the budget moves to the device as a whole, once.
            side = "text" if query_side == "image" else "image"
            moved = resident_candidates(self.model, gallery, side) if resident else None
            self.gallery, self.resident = dict(gallery), moved
        # The gathered rows, perhaps their copy on the device, and attention over them.
        candidates = max(1, (self.memory_budget - resident) // (6 * total // len(gallery["embedding"])))
        queries, length = shape
        self.shape = max(1, min(self.query_block, queries, candidates // length)), min(length, candidates)
        return self.shape

    def __call__(self, queries, gallery, ids, coarse, query_side):
        # The last blocks repeat their last rows and columns to have the shape of the others.
        filled = np.pad(ids, [(0, size - have) for size, have in zip(self.shape, ids.shape, strict=True)], "edge")
        scores = score_candidates(self.model, queries, self.resident or gallery, filled, query_side)
        return scores[: ids.shape[0], : ids.shape[1]]


def _same_arrays(features, others):
    return features.keys() == others.keys() and all(value is others[key] for key, value in features.items())


def _ordered(ids, scores):
    if np.isnan(scores).any():
        raise ValueError("second-stage scores must not be NaN; the model has diverged or its inputs hold NaN.")
    return Ranking(*best_first(ids, scores))
