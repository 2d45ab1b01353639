"""Inputs that break exports: what every export is run with before it counts as one."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_itr.models.encoding import run_encoder
from keras_itr.serving.signatures import named, needs_boxes, signature_name

SIZES = (1, 3, 8)
TEXTS = (
    "a red circle left of a blue square",
    "",
    "Ein Hund läuft über die Wiese, 犬が走る \U0001f415",
    "a very long caption of many words " * 60,
    "DON'T walk: 2 Dogs' bowls, 100%!",
    "  blanks \t and\nlines  ",
    "naïve café, São Paulo, Ελλάδα",
    "x" * 500,
)
_REGIONS = 36
_TOKENS = 12


@dataclasses.dataclass(frozen=True)
class Samples:
    """Eight items of either side, and what the model says about them.

    Attributes:
        image, text: dict of model inputs or raw items, as `embed_images` and `embed_texts` take them; eight rows.
        outputs: dict of signature name to dict of output name to the eight rows that are expected.
        requests: dict of signature name to dict of input name to its eight rows.
    """

    image: dict
    text: dict
    outputs: dict
    requests: dict

    def batches(self, sizes=SIZES):
        """Requests of these sizes: every item alone, and as many as fit together.

        Yields:
            `(signature, inputs, rows)`: the rows of `outputs[signature]` that the answer must equal.
        """
        for signature, inputs in self.requests.items():
            for size in sizes:
                for start in range(0, len(TEXTS) - size + 1, size):
                    rows = slice(start, start + size)
                    yield signature, {key: column[rows] for key, column in inputs.items()}, rows


def make_samples(model):
    """`Samples` of a retriever, on any backend.

    Example:

    ```python
    import keras_itr

    keras_itr.serving.make_samples(keras_itr.models.from_preset("cusa_shapes")).outputs["embed_text"]
    ```
    """
    image, text = _image_inputs(model), _text_inputs(model)
    features = {
        side: run_encoder(model, side, "features", inputs, verbose=False)
        for side, inputs in (("image", image), ("text", text))
    }
    raw = {"image": _raw(image), "text": _raw(text)}
    names = {"image": signature_name(model, "image"), "text": signature_name(model, "text")}
    requests, outputs = {}, {}
    for side in ("image", "text"):
        name, embed = names[side], model.embed_images if side == "image" else model.embed_texts
        requests[f"embed_{name}"] = raw[side]
        outputs[f"embed_{name}"] = {f"{side}_embedding": features[side]["embedding"]}
        if model.uni_modal:
            requests[f"embed_{name}_uni_modal"] = raw[side]
            vectors = embed(image if side == "image" else text, cross_modal=False, verbose=False)
            outputs[f"embed_{name}_uni_modal"] = {f"{side}_uni_modal": vectors}
        if model.second_stage:
            requests[f"encode_{name}"], outputs[f"encode_{name}"] = raw[side], named(side, features[side])
    cosine = (features["image"]["embedding"] * features["text"]["embedding"]).sum(axis=1)
    pairs = np.repeat(np.arange(len(TEXTS))[:, None], 2, axis=1)
    score = model.rerank(features["image"], features["text"], pairs, verbose=False) if model.second_stage else cosine
    requests["score_pairs"] = {**raw["image"], **raw["text"]}
    outputs["score_pairs"] = {"score": score, "cosine": cosine}
    if model.second_stage:
        requests["rerank_tokens"] = {**named("image", features["image"]), **named("text", features["text"])}
        outputs["rerank_tokens"] = {"score": score}
    requests["serving_default"] = requests[f"embed_{names['text']}"]
    outputs["serving_default"] = outputs[f"embed_{names['text']}"]
    return Samples(image, text, outputs, requests)


def encoded_images():
    """Eight encoded images: RGB, grey, with alpha, CMYK, of one pixel, wide and tall; JPEG and PNG."""
    import tensorflow as tf

    def pixels(height, width, channels):
        y, x, channel = np.mgrid[:height, :width, :channels]
        return tf.constant(((7 * x + 5 * y + 60 * channel) % 256).astype("uint8"))

    with tf.device("CPU:0"):
        return [
            tf.io.encode_jpeg(pixels(96, 128, 3)).numpy(),
            tf.io.encode_png(pixels(60, 80, 1)).numpy(),
            tf.io.encode_png(pixels(70, 50, 4)).numpy(),
            (Path(__file__).parent / "assets" / "cmyk.jpg").read_bytes(),
            tf.io.encode_png(pixels(1, 1, 3)).numpy(),
            tf.io.encode_jpeg(pixels(64, 64, 1), format="grayscale").numpy(),
            tf.io.encode_jpeg(pixels(9, 300, 3)).numpy(),
            tf.io.encode_png(pixels(300, 5, 3)).numpy(),
        ]


def _image_inputs(model):
    tower = model.backbone.image_tower
    if tower.input_key == "images":
        return {"images": encoded_images()}
    draw, count = np.random.default_rng(0), len(TEXTS)
    regions = _REGIONS if getattr(tower, "grid", None) is None else int(np.prod(tower.grid))
    mask = np.arange(regions) < np.array([regions, 1, *[regions - 2] * (count - 2)])[:, None]
    columns = {"regions": draw.normal(size=(count, regions, tower.feature_dim)).astype("float32"), "region_mask": mask}
    if needs_boxes(tower):
        corners = np.sort(draw.uniform(size=(count, regions, 2, 2)), axis=2)
        columns["region_boxes"] = corners.reshape(count, regions, 4).astype("float32")
    width = getattr(model, "image_global_dim", None)
    if width is not None:
        columns["image_global"] = draw.normal(size=(count, width)).astype("float32")
    return columns


def _text_inputs(model):
    name, tower, draw = signature_name(model, "text"), model.backbone.text_tower, np.random.default_rng(1)
    if name == "text":
        return {"text": list(TEXTS)}
    if name == "text_features":
        return {"text_features": draw.normal(size=(len(TEXTS), tower.feature_dim)).astype("float32")}
    lengths = np.array([_TOKENS, 3, *[_TOKENS - 2] * (len(TEXTS) - 2)])
    mask = np.arange(_TOKENS) < lengths[:, None]
    token_ids = draw.integers(4, tower.vocabulary_size, mask.shape).astype("int32")
    return {"token_ids": token_ids * mask, "padding_mask": mask}


def _raw(columns):
    """Model inputs by the names of the signatures, as arrays."""
    raw = {"images": "image_bytes"}
    return {
        raw.get(key, key): np.array([_bytes(item) for item in column], object) if isinstance(column, list) else column
        for key, column in columns.items()
    }


def _bytes(item):
    return item.encode() if isinstance(item, str) else item
