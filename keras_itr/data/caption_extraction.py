import numpy as np

from keras_itr.data.extraction import digest, write_rows
from keras_itr.data.feature_extraction import read_annotations
from keras_itr.messages import one_line


def extract_caption_features(
    source,
    output,
    encoder,
    split=None,
    images=None,
    cleaning="none",
    sequence_length=64,
    batch_size=64,
    dtype="float16",
    verbose=True,
):
    """Captions to sentence vectors on disk: one row per caption, in the order of the reader; restartable after a kill.

    A frozen sentence encoder so made is CUSA's text teacher (`teacher_text: <file>` in a recipe).

    Args:
        source: annotation file, see `extract_features`.
        output: the `.npy` to write.
        encoder: a sentence encoder of the BERT family: preset name, handle or directory of
            `keras_hub.models.BertTextEmbedder`; a Hugging Face folder with `model.safetensors` too (needs safetensors).
            Mean of the tokens, unit length.
        split: string, the split of the annotation file.
        images: folder of the photos that the file names, default the file's own: captions are those of the reader,
            which looks for the photos.
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

    extract_caption_features("coco/dataset_coco.json", "coco/train_teacher_text.npy", "all_minilm_l6_v2_en", "train")
    ```

    Reference: Huang et al., CUSA, AAAI 2024, whose text teacher is a sentence encoder on the cleaned captions.
    """
    import keras_hub

    from keras_itr.preprocessing import clean_caption

    captions = [str(caption) for caption in read_annotations(source, split, images).captions]
    texts = clean_caption(captions, cleaning)
    try:
        model = keras_hub.models.BertTextEmbedder.from_preset(str(encoder), pooling_mode="mean", normalize=True)
    except Exception as error:  # whatever the hub's loaders raise, offline or for another kind of model
        raise ValueError(f"the sentence encoder {str(encoder)!r} could not be had: {one_line(error)}") from error

    model.preprocessor.sequence_length = sequence_length

    def encode(batch):
        return np.asarray(model.predict(list(batch), batch_size=batch_size, verbose=0), "float32")

    settings = {
        "encoder": str(encoder),
        "cleaning": cleaning,
        "sequence_length": sequence_length,
        "captions": digest(texts),
    }
    return write_rows(output, texts, None, encode, settings, batch_size=batch_size, dtype=dtype, verbose=verbose)
