"""The preprocessors that a checkpoint needs, from the small files beside its weights."""

import pathlib

import numpy as np

from keras_itr.preprocessing import CLIPTokenizer, RetrievalImageConverter, WordPieceTokenizer

# Mean and deviation of pixels in 0..1.
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Names of PIL's numbers.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic"}


def image_converter(checkpoint, image_size, pixels, interpolation="bicubic", crop=True):
    """The image converter that `preprocessor_config.json` describes, or the one of the arguments if there is none.

    Args:
        checkpoint: a `Checkpoint`.
        image_size: int, the side of the model's input.
        pixels: `(mean, deviation)` of pixels in 0..1, three numbers each.
        interpolation: string, as `RetrievalImageConverter` has it.
        crop: bool: a centred square is cut out; False stretches.

    Returns:
        `(converter, notes)`; notes are strings on what is not as in the source.
    """
    config = checkpoint.json("preprocessor_config.json") or {}
    mean, deviation = config.get("image_mean", pixels[0]), config.get("image_std", pixels[1])
    size = config.get("size")
    shorter = size.get("shortest_edge") if isinstance(size, dict) else None
    if size is not None:
        crop = bool(shorter or config.get("do_center_crop"))
    notes = []
    if crop and shorter not in (None, image_size):
        notes.append(
            f"the source shrinks the shorter side to {shorter} and cuts {image_size} out of it; here the largest "
            "centred square is shrunk"
        )
    converter = RetrievalImageConverter(
        (image_size, image_size),
        scale=(1 / (255 * np.array(deviation))).tolist(),
        offset=(-np.array(mean) / np.array(deviation)).tolist(),
        interpolation=_INTERPOLATIONS.get(config.get("resample"), interpolation),
        crop_to_aspect_ratio=crop,
    )
    return converter, notes


def clip_tokenizer(checkpoint, vocabulary_size, sequence_length, vocabulary, cleaning):
    """CLIP's tokenizer of `vocabulary_size` ids: of a file of merges, or OpenAI's, which come with the package."""
    path = pathlib.Path(vocabulary or checkpoint.directory / "merges.txt")
    if vocabulary or path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
        tokenizer = CLIPTokenizer(merges, sequence_length, cleaning)
    else:
        tokenizer = CLIPTokenizer(sequence_length=sequence_length, cleaning=cleaning)
    if tokenizer.vocabulary_size() != vocabulary_size:
        made = f"{path} makes" if vocabulary or path.is_file() else "OpenAI's merges make"
        raise ValueError(
            f"{checkpoint.source}: the model has {vocabulary_size} token ids, {made} {tokenizer.vocabulary_size()}; "
            "name its file of merges as vocabulary."
        )
    return tokenizer


def wordpiece_tokenizer(checkpoint, vocabulary_size, sequence_length, vocabulary):
    """BERT's tokenizer of `vocabulary_size` ids, of a given `vocab.txt` or of the one beside the weights."""
    path = pathlib.Path(vocabulary or checkpoint.directory / "vocab.txt")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the vocab.txt of {vocabulary_size} pieces as vocabulary.")
    config = checkpoint.json("tokenizer_config.json") or {}
    tokenizer = WordPieceTokenizer(
        sequence_length=sequence_length,
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
    )
    tokenizer.load_vocabulary(str(path))
    if tokenizer.vocabulary_size() != vocabulary_size:
        raise ValueError(
            f"{checkpoint.source}: the model has {vocabulary_size} token ids, {path} has "
            f"{tokenizer.vocabulary_size()} pieces; name its vocab.txt as vocabulary."
        )
    return tokenizer
