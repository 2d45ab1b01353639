"""Batched, compiled encoding: raw or ready inputs to NumPy features, on any backend."""

import os

import keras
import numpy as np
from keras import ops

from keras_itr.files import Rows
from keras_itr.progress import SlowBar

# What a user gives in place of the towers' inputs, and what may come along with those.
RAW_KEYS = {"image": "images", "text": "text"}
COMPANIONS = {"image": ("region_mask", "region_boxes", "image_global"), "text": ("padding_mask",)}


def run_encoder(retriever, side, what, x, batch_size=64, verbose=True, directory=None):
    """Encode `x` batch by batch.

    Args:
        retriever: an `ImageTextRetriever`.
        side: `"image"` or `"text"`.
        what: `"embedding"`, `"uni_modal"` or `"features"`.
        x: dict of model inputs, or a list of raw items.
        batch_size: int, rows per call.
        verbose: bool, a progress bar on work over two seconds.
        directory: folder for the results as `.npy` files; None keeps them in memory.

    Returns:
        dict of NumPy arrays, one row per item, memory-mapped from the folder if there is one.
    """
    retriever.require_weights(f"embed_{side}s")
    columns = _columns(retriever, side, x)
    count = len(next(iter(columns.values())))
    if not count:
        raise ValueError(f"embed_{side}s received no {side}.")
    encoder = _compiled(retriever, what, side=side)
    rows, bar = Rows(count, directory, f"{side}_"), SlowBar(count, verbose)
    for start in range(0, count, batch_size):
        batch = {key: column[start : start + batch_size] for key, column in columns.items()}
        size = len(next(iter(batch.values())))
        if count > batch_size:
            # One shape for all batches: the last one is filled up, and cut again.
            batch = {key: _fill(rows, batch_size) for key, rows in batch.items()}
        encoded = encoder.predict_on_batch(_prepare(retriever, batch))
        rows.write(start, {key: _readable(value)[:size] for key, value in encoded.items()})
        bar.update(start + size)
    return rows.done()


def features_of(retriever, side, x, batch_size=64, verbose=True):
    """The features of `x`, which may be such features already: a dict with `"embedding"`."""
    if isinstance(x, dict) and "embedding" in x:
        return x
    return run_encoder(retriever, side, "features", x, batch_size, verbose)


def score_blocks(retriever, image, text, block_size=64, verbose=False, **arguments):
    """The `(I, T)` similarity of two dicts of NumPy features, block by block; `arguments` are those of `similarity`."""
    scorer = _compiled(retriever, "similarity", **arguments)
    images, texts = len(image["embedding"]), len(text["embedding"])
    rows, bar = [], SlowBar(images, verbose)

    def block_of(features, start, count):
        # One shape for all blocks: in another shape, equal items may differ in their last digit.
        block = {key: np.asarray(value[start : start + block_size]) for key, value in features.items()}
        return {key: _fill(part, block_size) for key, part in block.items()} if count > block_size else block

    for start in range(0, images, block_size):
        row = []
        for at in range(0, texts, block_size):
            block = {"image": block_of(image, start, images), "text": block_of(text, at, texts)}
            row.append(np.asarray(scorer.predict_on_batch(block)["similarity"]))
        rows.append(np.concatenate(row, axis=1)[: images - start, :texts])
        bar.update(min(start + block_size, images))
    return np.concatenate(rows, axis=0)


def score_pairs(retriever, image, text, pairs, batch_size, verbose):
    """The `(P,)` second-stage scores of rows `pairs` `(P, 2)` of two dicts of NumPy features."""
    pairs = _checked_pairs(pairs, len(image["embedding"]), len(text["embedding"]))
    scorer = _compiled(retriever, "pair_scores")
    scores, bar = np.empty(len(pairs), "float32"), SlowBar(len(pairs), verbose)
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        # One shape for all batches: the last one repeats its last pair.
        whole = rows if len(pairs) < batch_size else _fill(rows, batch_size)
        batch = {
            side: {key: value[whole[:, column]] for key, value in features.items()}
            for column, (side, features) in enumerate((("image", image), ("text", text)))
        }
        scores[start : start + len(rows)] = np.asarray(scorer.predict_on_batch(batch)["scores"])[: len(rows)]
        bar.update(start + len(rows))
    return scores


def score_candidates(retriever, queries, gallery, ids, query_side):
    """The `(Q, K)` second-stage scores of queries with rows `ids` of the gallery, in one compiled call.

    `queries` may have fewer rows than `ids`; the last one is repeated. The gallery may hold tensors: then its rows are
    gathered where they are, without a copy of each candidate on the way.
    """
    inputs = {"queries": {key: _fill(np.asarray(rows), len(ids)) for key, rows in queries.items()}}
    if isinstance(next(iter(gallery.values())), np.ndarray):
        inputs["candidates"] = {key: np.asarray(rows[ids]) for key, rows in gallery.items()}
    else:
        inputs.update(gallery=gallery, ids=ids.astype("int32"))
    return np.asarray(_compiled(retriever, "candidate_scores", side=query_side).predict_on_batch(inputs)["scores"])


def resident_candidates(retriever, gallery, side):
    """The features of a gallery on the device, prepared for `score_candidates`."""
    prepared = _compiled(retriever, "candidates", side=side).predict_on_batch(gallery)
    return {key: ops.convert_to_tensor(value) for key, value in prepared.items()}


def matched_rows(image, text):
    """Two dicts of features whose leading axes broadcast, as matched rows `(P, ...)`, and the shape of those axes."""
    leading = ops.shape(image["embedding"][..., 0] + text["embedding"][..., 0])
    axes = len(leading)
    if axes == 1:
        return image, text, leading

    def rows(x):
        item = tuple(x.shape[axes:])
        return ops.reshape(ops.broadcast_to(x, (*leading, *item)), (-1, *item))

    return {key: rows(x) for key, x in image.items()}, {key: rows(x) for key, x in text.items()}, leading


def _checked_pairs(pairs, images, texts):
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be int (P, 2), image row and text row, received {pairs.dtype} {pairs.shape}.")
    if len(pairs) and (pairs.min() < 0 or (pairs.max(axis=0) >= (images, texts)).any()):
        raise ValueError(
            f"pairs must be rows of {images} images and {texts} texts, received {pairs.min(axis=0).tolist()} "
            f"to {pairs.max(axis=0).tolist()}."
        )
    return pairs


class _Compiled(keras.Model):
    """One compiled function of a retriever: it borrows the layers and owns nothing."""

    def __init__(self, retriever, what, arguments, name):
        # Features pass as they are; the retriever's layers cast for themselves.
        super().__init__(name=name, autocast=False)
        # An attribute, so that its weights are inputs of what is compiled, and not constants in it.
        self.retriever = retriever
        self.what = what
        self.arguments = arguments
        self.built = True

    def call(self, inputs):
        return FUNCTIONS[self.what](self.retriever, inputs, **self.arguments)


def _features(retriever, inputs, side):
    encode = retriever.encode_images if side == "image" else retriever.encode_texts
    return encode(inputs, training=False)


def _embedding(retriever, inputs, side):
    return {"embedding": _features(retriever, inputs, side)["embedding"]}


def _uni_modal(retriever, inputs, side):
    vectors = retriever.uni_modal_images if side == "image" else retriever.uni_modal_texts
    return {"uni_modal": vectors(_features(retriever, inputs, side))}


def _similarity(retriever, inputs, **arguments):
    return {"similarity": retriever.similarity(inputs["image"], inputs["text"], **arguments)}


def _candidate_scores(retriever, inputs, side):
    queries = {key: rows[:, None] for key, rows in inputs["queries"].items()}
    candidates = inputs.get("candidates")
    if candidates is None:
        candidates = {key: ops.take(rows, inputs["ids"], axis=0) for key, rows in inputs["gallery"].items()}
    image, text = (queries, candidates) if side == "image" else (candidates, queries)
    return {"scores": retriever.pair_scores(image, text)}


def _candidates(retriever, inputs, side):
    return retriever.prepare_candidates(side, inputs)


def _pair_scores(retriever, inputs):
    return {"scores": retriever.pair_scores(inputs["image"], inputs["text"])}


FUNCTIONS = {
    "features": _features,
    "embedding": _embedding,
    "uni_modal": _uni_modal,
    "similarity": _similarity,
    "candidates": _candidates,
    "pair_scores": _pair_scores,
    "candidate_scores": _candidate_scores,
}


def _compiled(retriever, what, **arguments):
    """The function called `what`, compiled once for these arguments."""
    key = "_".join([what, *map(str, arguments.values())])
    if not hasattr(retriever.compiled_encoders, key):
        setattr(retriever.compiled_encoders, key, _Compiled(retriever, what, arguments, key))
    return getattr(retriever.compiled_encoders, key)


def side_columns(tower, columns):
    """The columns that one side of a model reads: its tower's input, or the raw form of it, and what goes with it.

    Args:
        tower: the image or the text tower.
        columns: dict of columns; keys of the other side, teachers and ids are
            left out.

    Raises:
        ValueError: if neither the input nor its raw form is there.
    """
    raw = RAW_KEYS[tower.side] if tower.input_key in ("images", "token_ids") else tower.input_key
    main = tower.input_key if tower.input_key in columns else raw
    if main not in columns:
        known = " or ".join(sorted({repr(tower.input_key), repr(raw)}))
        raise ValueError(
            f"embed_{tower.side}s of this model needs {known}, received {', '.join(map(repr, columns)) or 'nothing'}."
        )
    return {key: columns[key] for key in (main, *COMPANIONS[tower.side]) if key in columns}


def _columns(retriever, side, x):
    if isinstance(x, (str, bytes, os.PathLike)):
        raise ValueError(f"embed_{side}s needs a list; put the single {side} into one.")
    if not isinstance(x, dict):
        if side == "image":
            _check_pixels(x)
        x = {RAW_KEYS[side]: x}
    return side_columns(getattr(retriever.backbone, f"{side}_tower"), x)


def _check_pixels(images):
    """In a dict floats are ready model inputs; raw images that are floats would pass for such, whatever their range."""
    if getattr(images, "ndim", None) == 3:
        raise ValueError(f"embed_images needs a list; put the single image, {tuple(images.shape)}, into one.")
    for image in [images] if hasattr(images, "dtype") else images:
        if "float" in str(getattr(image, "dtype", "")):
            raise ValueError(
                f"pixels of raw images must be uint8, 0 to 255, received {image.dtype}; convert them with "
                ".astype('uint8'), or pass {'images': ...} if they are scaled as the model reads them."
            )


def _prepare(retriever, batch):
    if retriever.preprocessor is not None:
        batch = retriever.preprocessor(batch)
    elif "text" in batch or ("images" in batch and np.asarray(batch["images"]).dtype.kind != "f"):
        raise ValueError("raw images and strings need a preprocessor; this model was made without one.")
    return {key: ops.convert_to_tensor(value) for key, value in batch.items()}


def _readable(value):
    """An array that NumPy can write and read: it knows no bfloat16."""
    value = np.asarray(value)
    return value.astype("float32") if value.dtype.kind == "V" else value


def _fill(rows, size):
    """`rows` with the last one repeated up to `size`."""
    missing = size - len(rows)
    if isinstance(rows, (list, tuple)):
        return [*rows, *[rows[-1]] * missing]
    return np.concatenate([rows, np.repeat(np.asarray(rows[-1:]), missing, axis=0)]) if missing else rows
