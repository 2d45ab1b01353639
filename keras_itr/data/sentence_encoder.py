import json
from pathlib import Path

import keras
import keras_hub
import numpy as np

from keras_itr.layers import BertTextTower
from keras_itr.layers.hub_presets import read_hub_backbone
from keras_itr.messages import one_line
from keras_itr.numerics import unit_rows
from keras_itr.preprocessing import WordPieceTokenizer
from keras_itr.sentence_pooling import asked_pooling

# Captions are short: a batch is padded to a multiple of this, and not to the longest caption that is allowed.
_STEP = 8


class SentenceEncoder:
    """Captions to unit vectors by a frozen sentence encoder of the BERT family.

    The encoder is a `BertTextTower` without a linear map; captions go through the package's own `WordPieceTokenizer`.

    Args:
        source: folder of a Hugging Face sentence encoder (`config.json`, `model.safetensors`, `vocab.txt`; needs the
            extra `convert`); or a name, a handle such as `"hf://sentence-transformers/all-MiniLM-L6-v2"` or a
            directory of `keras_hub.models.BertTextEmbedder` or `BertBackbone`, with its tokenizer.
        sequence_length: int, word pieces read of a caption, default 64; at most what the encoder has positions for.
        pooling: `"mean"`, `"max"` or `"first"`; None (default) is what the folder's `1_Pooling/config.json` says, and
            the mean of all tokens where there is none.

    Inputs:
        texts: list of B strings.

    Returns:
        float32 NumPy array `(B, D)`, rows of unit length.

    Raises:
        ValueError: if the encoder cannot be had, or is no BERT.

    Example:

    ```python
    from keras_itr.data import SentenceEncoder

    encode = SentenceEncoder("all_minilm_l6_v2_en")
    encode(["a dog", "two dogs"]).shape  # (2, 384)
    ```

    Reference: Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
    """

    def __init__(self, source, sequence_length=64, pooling=None):
        source = str(source)
        try:
            tower = _read_tower(source, sequence_length, pooling or _pooling(Path(source)))
            self.tokenizer = _read_tokenizer(source, tower.sequence_length)
        except Exception as error:  # whatever the hub's loaders raise, offline or for another kind of model
            raise ValueError(f"the sentence encoder {source!r} could not be had: {one_line(error)}") from error
        self.model = _UnitVectors(tower)

    def __call__(self, texts):
        token_ids = np.asarray(keras.ops.convert_to_numpy(self.tokenizer(list(texts))))
        longest = int((token_ids != 0).sum(axis=1).max())
        token_ids = token_ids[:, : -(-longest // _STEP) * _STEP]
        batch = {"token_ids": token_ids, "padding_mask": token_ids != 0}
        return np.asarray(self.model.predict_on_batch(batch), "float32")


def _read_tokenizer(source, sequence_length):
    hub = keras_hub.models.BertTokenizer.from_preset(source)
    return WordPieceTokenizer(hub.get_vocabulary(), sequence_length, lowercase=hub.lowercase)


def _read_tower(source, sequence_length, pooling):
    sizes = read_hub_backbone(keras_hub.models.BertBackbone, source, load_weights=False)
    return BertTextTower(
        sizes.vocabulary_size,
        min(sequence_length, sizes.max_sequence_length),
        embedding_dim=None,
        hidden_dim=sizes.hidden_dim,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        intermediate_dim=sizes.intermediate_dim,
        pooling=pooling,
        weights=source,
        dtype="float32",
    )


def _pooling(folder):
    """The pooling that a sentence-transformers folder asks for."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    return asked_pooling(json.loads(file.read_text(encoding="utf-8")), file)


class _UnitVectors(keras.Model):
    """A text tower's pooled vectors at unit length; no functional model, whose length could not be left open."""

    def __init__(self, tower):
        super().__init__(name="unit_vectors")
        self.tower = tower
        self.built = True

    def call(self, inputs):
        return unit_rows(self.tower(inputs, training=False)["pooled"])
