"""The preprocessors that a checkpoint needs, from the small files beside its weights."""

import numpy as np

from keras_itr.conversion.vocabularies import lowercase, merges, word_pieces
from keras_itr.messages import one_line
from keras_itr.preprocessing import CLIPTokenizer, RetrievalImageConverter, WordPieceTokenizer

# Mean and deviation of pixels in 0..1.
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Names of PIL's numbers.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic"}


def image_converter(checkpoint, image_size, pixels, interpolation="bicubic", crop=True):
    """The image converter that the source's processor describes, or the one of the arguments if there is none.

    Args:
        checkpoint: a `Checkpoint`.
        image_size: int, the side of the model's input.
        pixels: `(mean, deviation)` of pixels in 0..1, three numbers each.
        interpolation: string, as `RetrievalImageConverter` has it.
        crop: bool: a centred square is cut out; False stretches.

    Returns:
        `(converter, notes)`; notes are strings on what is not as in the source.
    """
    config = _pixel_settings(checkpoint)
    mean, deviation = _statistics(checkpoint, config, pixels)
    size = config.get("size")
    if size is not None:
        # A height and a width stretch, even before a cut.
        crop = "shortest_edge" in size if isinstance(size, dict) else _is_cut(config)
    notes = _differences(config, image_size, crop)
    resample = config.get("resample")
    if resample in list(_INTERPOLATIONS):
        interpolation = _INTERPOLATIONS[resample]
    elif resample is not None:
        notes.append(f"the source shrinks by PIL's filter {resample!r}, which is not here; it is {interpolation}")
    converter = RetrievalImageConverter(
        (image_size, image_size),
        scale=(1 / (255 * np.array(deviation))).tolist(),
        offset=(-np.array(mean) / np.array(deviation)).tolist(),
        interpolation=interpolation,
        crop_to_aspect_ratio=crop,
    )
    return converter, notes


def processor_side(checkpoint):
    """The side in pixels of the squares that the source's processor makes, None if it does not say."""
    config = _pixel_settings(checkpoint)
    return _cut(config) or _side(config.get("size"))


def _cut(config):
    """The side of the centred square that a processor cuts out, None if it cuts none."""
    return _side(config.get("crop_size")) if _is_cut(config) else None


def _is_cut(config):
    return bool(config.get("do_center_crop", config.get("crop_size") is not None))


def _side(size):
    """The side of a size in any of its forms: 224, {"shortest_edge": 224}, {"height": 224, "width": 224}."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) else None


def _differences(config, image_size, crop):
    """Notes on what happens to a photo that the source does in another way."""
    resized, cut = _side(config.get("size")), _cut(config)
    side, notes = cut or resized, []
    if side not in (None, image_size):
        notes.append(
            f"the source's processor makes {side} x {side} pixels, the network has positions for {image_size} x "
            f"{image_size}, which are made here"
        )
    if cut and resized and cut < resized:
        whole = "the largest centred square is shrunk" if crop else "the whole is stretched"
        verb = "shrinks the shorter side" if crop else "stretches both sides"
        notes.append(
            f"the source {verb} to {resized} and cuts {cut} x {cut} out of the middle; here {whole} to {image_size} x "
            f"{image_size}, and shows {resized / cut:.2f} times as much of each side"
        )
    elif crop and resized and not cut:
        notes.append(
            f"the source keeps the shape of a photo; here the largest centred square is shrunk to {image_size}"
        )
    return notes


def _statistics(checkpoint, config, pixels):
    """Mean and deviation of pixels in 0..1, three numbers each."""
    if config.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    found = []
    for name, default in zip(("image_mean", "image_std"), pixels, strict=True):
        value = default if config.get(name) is None else config[name]
        values = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(values) != 3 or not all(isinstance(number, (int, float)) for number in values):
            raise ValueError(f"{checkpoint.source}: {name} of its processor must be three numbers, received {value!r}.")
        found.append(values)
    if 0 in found[1]:
        raise ValueError(f"{checkpoint.source}: image_std of its processor must not be 0, received {found[1]}.")
    return found


def _pixel_settings(checkpoint):
    """What the source's processor says of pixels: a file of its own, or a part of another since transformers 5."""
    config = checkpoint.json("preprocessor_config.json")
    if config is None:
        config = (checkpoint.json("processor_config.json") or {}).get("image_processor")
    return config or {}


def clip_tokenizer(checkpoint, vocabulary_size, sequence_length, vocabulary, cleaning):
    """CLIP's tokenizer of `vocabulary_size` ids: of a file of merges, or OpenAI's, which come with the package."""
    pairs, path, pieces = merges(checkpoint, vocabulary)
    try:
        tokenizer = CLIPTokenizer("openai" if pairs is None else pairs, sequence_length, cleaning)
    except ValueError as error:
        if path is None:
            raise
        raise ValueError(f"{path}: not the merges of CLIP ({one_line(error)})") from error
    if tokenizer.vocabulary_size() != vocabulary_size:
        made = f"{path} makes" if path else "OpenAI's merges make"
        raise ValueError(
            f"{checkpoint.source}: the model has {vocabulary_size} token ids, {made} {tokenizer.vocabulary_size()}; "
            "name its file of merges as vocabulary."
        )
    if pieces is not None and pieces != tokenizer.get_vocabulary():
        raise ValueError(
            f"{path}: its pieces have other ids than CLIP's (256 bytes, 256 at the end of a word, merges)."
        )
    return tokenizer


def wordpiece_tokenizer(checkpoint, vocabulary_size, sequence_length, vocabulary):
    """BERT's tokenizer of `vocabulary_size` ids, of a given `vocab.txt` or of the files beside the weights."""
    pieces, path = word_pieces(checkpoint, vocabulary_size, vocabulary)
    strip_accents = (checkpoint.json("tokenizer_config.json") or {}).get("strip_accents")
    tokenizer = WordPieceTokenizer(
        sequence_length=sequence_length, lowercase=lowercase(checkpoint), strip_accents=strip_accents
    )
    try:
        tokenizer.set_vocabulary(pieces)
    except ValueError as error:
        raise ValueError(f"{path}: not the pieces of BERT ({one_line(error)})") from error
    if len(pieces) != vocabulary_size:
        raise ValueError(
            f"{checkpoint.source}: the model has {vocabulary_size} token ids, {path} has {len(pieces)} pieces; name "
            "its vocab.txt as vocabulary."
        )
    return tokenizer
