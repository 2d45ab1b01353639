import difflib
import functools

import numpy as np

from keras_itr import search as searches
from keras_itr.evaluation.blocks import embedding_ranks
from keras_itr.evaluation.two_stage import ranking_recall
from keras_itr.evaluation.uni_modal import uni_modal_recall
from keras_itr.metrics.chance import chance_hit_rate
from keras_itr.metrics.ranking import percent_within
from keras_itr.metrics.recall import recall_from_ranks, two_way_ranks

CUTOFFS = (1, 5, 10)


def evaluate(model, data, protocol="full", batch_size=64, block_size=1024, verbose=True, rerank=False, by_length=False):
    """Evaluate a retriever on a table by one of the field's protocols.

    Images and captions are embedded once each and ranked in blocks: the
    `(I, T)` score matrix is never built. A model whose `dot_product` is False
    is scored by `model.score` instead, `block_size` images at a time.

    | protocol | what is ranked |
    |---|---|
    | `"full"` | all images against all captions |
    | `"f30k"`, `"coco_5k"` | the same, under the names of the published tables |
    | `"coco_1k"` | five contiguous folds, each a fifth of the images; the mean of every value over the folds |
    | `"universal"` | as `"full"`, and all captions against each other: those of one image are right answers |

    Args:
        model: an `ImageTextRetriever`.
        data: a `data.RetrievalTable`. Its columns are the model's inputs;
            columns of teachers are not passed.
        protocol: name of the protocol. Defaults to `"full"`.
        batch_size: int, examples embedded at once. Defaults to 64.
        block_size: int, images and captions of one block of scores. Defaults
            to 1024.
        verbose: bool, whether to show progress bars. Defaults to True.
        rerank: bool, whether a model with a second stage is evaluated with it
            too, its shortlists as long as `model.shortlist_lengths()` says: most
            of the time goes there. Defaults to False.
        by_length: bool, whether the recalls of captions as queries are also given
            for the shortest, middle and longest third of the captions, by their
            number of words. Defaults to False.

    Returns:
        flat dict of floats: the values of `metrics.recall_at_k`. With `rerank`
        also those of `ranking_recall`, `reranked_i2t_r1 ... reranked_rsum`, the
        shortlists' recall, their ceiling, and, where the score is no dot product,
        the recalls of the embeddings alone, `coarse_i2t_r1 ...`. With `by_length`
        also `short_t2i_r1 ...`, `middle_...` and `long_t2i_r10`. Where the table
        knows every true caption (`relevance`), also
        `checked_i2t_r1 ... checked_t2i_r10`, `checked_rsum` and the checked
        median ranks, for which every true caption or scene is a hit, and the
        levels of a random ranking, `chance_i2t_r1 ... chance_t2i_r10` and
        `chance_checked_i2t_r1 ... chance_checked_t2i_r10`. `"universal"` adds
        `t2t_r1`, `t2t_r5`, `t2t_r10`, `t2t_map_at_r` and `t2t_median_rank` of
        `uni_modal_recall`, by the vectors for search among texts where the method
        has such (`model.uni_modal`), and by its embeddings where it has none.

    Raises:
        ValueError: if the protocol is unknown, if the images of `"coco_1k"`
            cannot be divided by five, if the model returns another number of
            rows than the table has, or if the relevance denies an own caption; for
        `"universal"` if no image has two captions.

    Example:

    ```python
    from keras_itr.evaluation import evaluate, report

    metrics = evaluate(model, table, protocol="coco_1k")
    print(report(metrics))
    ```

    Reference: Karpathy & Fei-Fei 2015 for the splits, Faghri et al., VSE++, for
    the five folds; Huang et al., CUSA, AAAI 2024, for the name `"universal"`,
    whose searches among texts and images need further data there. Checked values
    and chance levels are our choice.
    """
    check_protocol(protocol)
    rerank = rerank and getattr(model, "second_stage", False)
    return PROTOCOLS[protocol](model, data, batch_size, block_size, verbose, rerank, by_length)


def check_protocol(protocol):
    """Raises a `ValueError`, with the nearest name, unless this is a protocol of `evaluate`."""
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(str(protocol), PROTOCOLS, 1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown protocol {protocol!r}; did you mean {near!r}? The protocols are {', '.join(PROTOCOLS)}."
        )


def _recall(model, data, batch_size, block_size, verbose, rerank, by_length, folds):
    """Mean over contiguous folds of the images."""
    size = _fold_size(data, folds)
    truth = _checked_truth(data)
    search = searches.TwoStageSearch(model, verbose=verbose) if rerank else None
    scorer = _DotProduct if getattr(model, "dot_product", True) else _Scored
    scorer = scorer(model, data, batch_size, block_size, verbose, search)
    results = []
    for start in range(0, data.num_images, size):
        images = slice(start, start + size)
        owner = data.caption_to_image - start
        captions = np.flatnonzero((owner >= 0) & (owner < size))
        rank = scorer.ranker(images, captions)
        lengths = _lengths(data, captions) if by_length else None
        metrics = _fold_metrics(rank, owner[captions], truth if truth is None else truth[images][:, captions], lengths)
        if search is not None:
            metrics.update(_two_stage(search, scorer.features, images, captions, owner[captions]))
        results.append(metrics)
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def _universal(model, data, batch_size, block_size, verbose, rerank, by_length):
    """The recalls across modalities, and of captions that search for the other captions of their image."""
    metrics = _recall(model, data, batch_size, block_size, verbose, rerank, by_length, folds=1)
    cross_modal = not getattr(model, "uni_modal", False)
    texts = model.embed_texts(model_inputs(data)[1], cross_modal=cross_modal, batch_size=batch_size, verbose=verbose)
    found = uni_modal_recall(texts, data.caption_to_image, CUTOFFS, block_size)
    return {**metrics, **{f"t2t_{name}": value for name, value in found.items()}}


# Every protocol is a function of (model, data, batch_size, block_size, verbose, rerank, by_length).
PROTOCOLS = {
    "full": functools.partial(_recall, folds=1),
    "f30k": functools.partial(_recall, folds=1),
    "coco_5k": functools.partial(_recall, folds=1),
    "coco_1k": functools.partial(_recall, folds=5),
    "universal": _universal,
}


def _fold_metrics(rank, owner, truth, lengths):
    image_ranks, caption_ranks = rank(owner)
    metrics = {**recall_from_ranks(image_ranks, caption_ranks, CUTOFFS), **_by_length(caption_ranks, lengths)}
    if truth is None:
        return metrics
    checked_images, checked_captions = rank(truth)
    return {
        **metrics,
        **recall_from_ranks(checked_images, checked_captions, CUTOFFS, prefix="checked_"),
        **_by_length(checked_captions, lengths, "checked_"),
        **_chance(np.bincount(owner), np.ones_like(owner), "chance_"),
        **_chance(truth.sum(axis=1), truth.sum(axis=0), "chance_checked_"),
    }


def _by_length(caption_ranks, lengths, prefix=""):
    """Recalls of the shortest, middle and longest third of the captions; equal lengths stand in their order."""
    if lengths is None:
        return {}
    thirds = np.array_split(np.argsort(lengths, kind="stable"), 3)
    return {
        f"{prefix}{name}_t2i_r{k}": percent_within(caption_ranks[third], k)
        for name, third in zip(("short", "middle", "long"), thirds, strict=True)
        for k in CUTOFFS
    }


def _lengths(data, captions):
    """Words of every caption."""
    if data.captions is None or len(captions) < 3:
        raise ValueError(f"by_length needs at least three caption strings, and {data.name} has none or fewer.")
    return np.array([len(caption.split()) for caption in np.asarray(data.captions, object)[captions]])


def _chance(image_positives, caption_positives, prefix):
    """Expected recalls of a random ranking, from the positives of every image `(I,)` and caption `(T,)`."""
    directions = {
        "i2t": (image_positives, len(caption_positives)),
        "t2i": (caption_positives, len(image_positives)),
    }
    return {
        f"{prefix}{name}_r{k}": chance_hit_rate(positives, gallery_size, k)
        for name, (positives, gallery_size) in directions.items()
        for k in CUTOFFS
    }


def _two_stage(search, features, images, captions, owner):
    """Recalls after the model's second stage; and before it, where the score is no dot product."""
    image = {name: rows[images] for name, rows in features[0].items()}
    text = {name: rows[captions] for name, rows in features[1].items()}
    metrics = {}
    if not search.model.dot_product:
        ranks = embedding_ranks(image["embedding"], text["embedding"], owner)
        metrics.update(recall_from_ranks(*ranks, CUTOFFS, prefix="coarse_"))
    found = ranking_recall(search.image_to_text(image, text), search.text_to_image(text, image), owner)
    return {**metrics, **{f"reranked_{name}": value for name, value in found.items()}}


class _DotProduct:
    """Ranks from embeddings, each side embedded once for all folds."""

    def __init__(self, model, data, batch_size, block_size, verbose, search):
        self.block_size = block_size
        images, captions = model_inputs(data)
        if search is None:
            self.images = model.embed_images(images, batch_size=batch_size, verbose=verbose)
            self.texts = model.embed_texts(captions, batch_size=batch_size, verbose=verbose)
        else:
            self.features = search.encode_images(images, batch_size), search.encode_texts(captions, batch_size)
            self.images, self.texts = (features["embedding"] for features in self.features)
        for side, rows, expected in (
            ("images", len(self.images), data.num_images),
            ("texts", len(self.texts), data.num_captions),
        ):
            if rows != expected:
                raise ValueError(f"model.embed_{side} returned {rows} rows for {expected} {side}; it must return all.")

    def ranker(self, images, captions):
        images, texts = self.images[images], self.texts[captions]
        return lambda positives: embedding_ranks(images, texts, positives, self.block_size)


class _Scored:
    """Ranks from the model's own score, a block of images against all captions of the fold at a time."""

    def __init__(self, model, data, batch_size, block_size, verbose, search):
        self.model, self.batch_size, self.block_size, self.verbose = model, batch_size, block_size, verbose
        self.images, self.captions = model_inputs(data)
        if search is not None:
            # What the second stage needs anyway saves encoding the captions anew for every block.
            self.features = (
                search.encode_images(self.images, batch_size),
                search.encode_texts(self.captions, batch_size),
            )
            self.images, self.captions = self.features

    def ranker(self, images, captions):
        import keras  # Heavy, and needed for the bar alone.

        texts = {name: np.asarray(column)[captions] for name, column in self.captions.items()}
        similarity = np.empty((images.stop - images.start, len(captions)), np.float32)
        bar = keras.utils.Progbar(len(similarity), verbose=int(self.verbose), unit_name="image")
        for start in range(0, len(similarity), self.block_size):
            stop = min(start + self.block_size, len(similarity))
            rows = slice(images.start + start, images.start + stop)
            block = {name: column[rows] for name, column in self.images.items()}
            similarity[start:stop] = self.model.score(block, texts, batch_size=self.batch_size, verbose=False)
            bar.update(stop)
        return lambda positives: two_way_ranks(similarity, positives)


def model_inputs(data):
    """The two dicts of columns; teachers are training targets, never inputs."""
    return tuple(
        {name: column for name, column in columns.items() if not name.startswith("teacher_")}
        for columns in (data.image_columns, data.caption_columns)
    )


def _fold_size(data, folds):
    if data.num_images % folds or not data.num_images:
        raise ValueError(
            f"this protocol needs a number of images that {folds} folds divide, got {data.num_images}; "
            'use protocol "full" or a subset of the table.'
        )
    return data.num_images // folds


def _checked_truth(data):
    """Bool (N, T), or None; a truth that denies an own caption would make checked recall incomparable."""
    if data.relevance is None:
        return None
    truth = np.asarray(data.relevance())
    if truth.shape != (data.num_images, data.num_captions) or truth.dtype != np.bool_:
        raise ValueError(
            f"relevance must return bool ({data.num_images}, {data.num_captions}), "
            f"got {truth.dtype} of shape {truth.shape}."
        )
    own = truth[data.caption_to_image, np.arange(data.num_captions)]
    if not own.all():
        raise ValueError(
            f"relevance must hold every own caption, but caption {int(np.argmin(own))} is not true of its image "
            f"{data.caption_to_image[np.argmin(own)]}; correct the data."
        )
    return truth
