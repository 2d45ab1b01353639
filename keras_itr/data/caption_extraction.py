import functools

from keras_itr.data.caption_files import read_caption_file
from keras_itr.data.extraction import content_digest, digest, write_rows
from keras_itr.data.sentence_encoder import SentenceEncoder
from keras_itr.data.table import RetrievalTable


def extract_caption_features(
    source,
    output,
    encoder,
    split="train",
    cleaning="none",
    sequence_length=64,
    batch_size=64,
    dtype="float16",
    verbose=True,
):
    """Captions to sentence vectors on disk: one row per caption, in the order of the reader; restartable after a kill.

    A frozen sentence encoder so made is CUSA's text teacher (`teacher_text: <file>` in a recipe).

    Args:
        source: annotation file of `keras_itr.data.caption_files.read_caption_file`, such as a Karpathy JSON or
            `train_caps.txt`, for which no photos are needed; or a `RetrievalTable`.
        output: the `.npy` to write; `<stem>_ids.txt` beside it gets the captions' ids, if they have any, so that every
            reader finds the rows by id.
        encoder: a sentence encoder of the BERT family, see `SentenceEncoder`: folder, name or handle.
        split: string, the split of the annotation file, default `"train"`.
        cleaning: style of `clean_caption`, default `"none"`.
        sequence_length: int, word pieces read of a caption, default 64.
        batch_size: int, captions at a time, default 64.
        dtype: `"float16"` (default) or `"float32"`.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        The memory-mapped array `(T, D)`.

    Raises:
        ValueError: if the encoder cannot be had, or as the reader says.

    Example:

    ```python
    from keras_itr.data import extract_caption_features

    extract_caption_features("coco/dataset_coco.json", "coco/train_teacher_text.npy", "all_minilm_l6_v2_en")
    ```

    Reference: Huang et al., CUSA, AAAI 2024, whose text teacher is a sentence encoder on the cleaned captions.
    """
    captions, names = captions_of(source, split)
    settings = {"encoder": content_digest(encoder), "sequence_length": sequence_length}
    return write_caption_rows(
        output,
        captions,
        names,
        lambda: SentenceEncoder(encoder, sequence_length),
        settings,
        cleaning,
        batch_size=batch_size,
        dtype=dtype,
        verbose=verbose,
    )


def captions_of(source, split="train"):
    """`(captions, names)` of an annotation file or a `RetrievalTable`: lists of strings, names None if there are none.

    Raises:
        ValueError: if the table has no caption strings, or as the reader says.
    """
    if not isinstance(source, RetrievalTable):
        return read_caption_file(source, split)
    if source.captions is None:
        raise ValueError(f"{source.name}: has no caption strings to encode.")
    return [str(caption) for caption in source.captions], source.caption_names


def write_caption_rows(output, captions, names, make_encoder, settings, cleaning="none", **options):
    """`write_rows` of captions, cleaned first.

    Args:
        output: the `.npy` to write.
        captions, names: see `captions_of`.
        make_encoder: function without arguments that gives a function of a list of B strings to `(B, D)`.
        settings: dict that JSON can hold: what the encoder is.
        cleaning: style of `clean_caption`, default `"none"`.
        **options: of `write_rows`.
    """
    from keras_itr.preprocessing import clean_caption

    texts = clean_caption(captions, cleaning)
    settings = {**settings, "cleaning": cleaning, "captions": digest(texts)}
    # Made when the first batch needs it: rows that are there already need no encoder.
    encoder = functools.cache(make_encoder)
    return write_rows(output, texts, names, lambda batch: encoder()(batch), settings, **options)
