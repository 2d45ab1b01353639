import math

import keras
import keras_hub
from keras import ops

from keras_itr.layers.hub_presets import check_sizes, read_hub_backbone
from keras_itr.layers.masked_pooling import get_pooling
from keras_itr.layers.tower import Tower

# Those of keras-hub and of BERT as Hugging Face has it.
_ACTIVATIONS = ("gelu_approximate", "gelu")
_SHARED = ("vocabulary_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")


@keras.saving.register_keras_serializable(package="keras_itr")
class BertTextTower(Tower):
    """BERT to one vector: the last hidden states, a linear map, pooling over all valid tokens.

    `[CLS]` and `[SEP]` are pooled like the words. The defaults are those of BERT base; without `weights` it starts at
    random.

    Args:
        vocabulary_size: int, number of token ids, 30522 for the uncased BERT in English.
        sequence_length: int, the longest input, default 64.
        embedding_dim: int, output width, default 1024; None leaves the linear map out: the width is `hidden_dim`.
        hidden_dim: int, width of the Transformer, default 768.
        num_layers: int, default 12.
        num_heads: int, default 12.
        intermediate_dim: int, width of the feed-forward part, default 3072.
        pooling: `"gpo"` (default), `"mean"`, `"max"` or `"first"`.
        dropout: float, rate within BERT, training only, default 0.1.
        activation: of the feed-forward part, `"gelu_approximate"` (default) by the hyperbolic tangent, as in keras-hub,
            or `"gelu"`, the exact one of most weights of Hugging Face; either runs the other's weights almost alike.
        trainable_layers: int, the last Transformer layers that are trained, 0 for none; None (default) trains all and
            the embeddings. The linear map and the pooling are trained always; an encoder of which nothing is trained
            has no dropout.
        weights: None (default), or what BERT starts from: a name of keras-hub such as `"bert_base_en_uncased"`, a
            handle (`"kaggle://..."`, `"hf://..."`), or a directory that `keras_hub.models.BertBackbone.save_to_preset`
            wrote. A preset for longer inputs gives its first positions. Not part of the configuration: a preset of ours
            holds the weights themselves.

    Inputs:
        token_ids: `(B, L)` int32, right-padded, `L <= sequence_length`.
        padding_mask: `(B, L)` bool, True = valid; optional.

    Returns:
        dict of `"pooled"` `(B, E)`, `"tokens"` `(B, L, E)`, `"mask"` `(B, L)`.

    Raises:
        ValueError: for an unknown activation, and for weights of other sizes (the message has the argument, what the
            preset has and what the tower has), of an unknown name, or that cannot be fetched or read.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import BertTextTower

    tower = BertTextTower(100, embedding_dim=16, hidden_dim=8, num_layers=1, num_heads=2, intermediate_dim=16)
    tower({"token_ids": np.ones((2, 7), "int32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, BERT text encoder of the official code; Devlin et al., BERT, NAACL
    2019, in the form of keras-hub, without the layer for its pooled output. Inputs are one segment.
    """

    side = "text"
    input_key = "token_ids"

    def __init__(
        self,
        vocabulary_size,
        sequence_length=64,
        embedding_dim=1024,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        intermediate_dim=3072,
        pooling="gpo",
        dropout=0.1,
        activation="gelu_approximate",
        trainable_layers=None,
        weights=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be 'gelu_approximate' or 'gelu', received {activation!r}.")
        if trainable_layers is not None and not 0 <= trainable_layers <= num_layers:
            raise ValueError(f"trainable_layers must be from 0 to {num_layers}, received {trainable_layers}.")
        # Layers.
        bert = keras_hub.models.BertBackbone(
            vocabulary_size,
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            dropout=dropout,
            max_sequence_length=sequence_length,
            num_segments=1,
            dtype=self.dtype_policy,
        )
        # Without the layer behind the tokens, which nothing would train.
        self.encoder = keras.Model(bert.input, bert.output["sequence_output"], name="encoder")
        if activation == "gelu":
            for layer in self.encoder._flatten_layers():
                if layer.name == "feedforward_intermediate_dense":
                    layer.activation = keras.activations.gelu
        self.projection = None if embedding_dim is None else self._projection(hidden_dim, embedding_dim)
        self.pooling_layer = get_pooling(pooling)
        # Configuration.
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.embedding_dim = embedding_dim
        self.output_dim = self.token_dim = embedding_dim or hidden_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.pooling = pooling
        self.dropout = dropout
        self.activation = activation
        self.trainable_layers = trainable_layers
        self._freeze()
        self.built = True
        if weights is not None:
            self._start_from(str(weights))

    def call(self, inputs, training=False):
        token_ids = inputs["token_ids"]
        mask = self.mask_of(inputs, "padding_mask", token_ids)
        hidden = self.encoder(
            {
                "token_ids": token_ids,
                "segment_ids": ops.zeros_like(token_ids),
                "padding_mask": ops.cast(mask, "int32"),
            },
            training=training and self.trainable_layers != 0,
        )
        tokens = hidden if self.projection is None else self.projection(hidden)
        return {"pooled": self.pooling_layer(tokens, mask), "tokens": tokens, "mask": mask}

    def _projection(self, hidden_dim, embedding_dim):
        bound = 1 / math.sqrt(hidden_dim)
        projection = keras.layers.Dense(
            embedding_dim,
            kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype=self.dtype_policy,
            name="projection",
        )
        projection.build((None, None, hidden_dim))
        return projection

    def _start_from(self, preset):
        """BERT's weights from a preset of keras-hub; nothing has changed if it does not fit."""
        bert = read_hub_backbone(keras_hub.models.BertBackbone, preset)
        self._take_encoder(preset, bert, bert, bert.max_sequence_length)

    def start_from(self, tower, source="the tower"):
        """Take over the Transformer of another `BertTextTower` of the same sizes; it may be one for longer inputs.

        Its linear map and its pooling are not taken: they are those of what it was trained for.

        Args:
            tower: a `BertTextTower`.
            source: string, where it comes from, for the message.

        Raises:
            ValueError: if a size differs; nothing has changed then.
        """
        self._take_encoder(source, tower, tower.encoder, tower.sequence_length)

    def _take_encoder(self, source, sizes, encoder, positions):
        sizes = {name: getattr(sizes, name) for name in _SHARED}
        check_sizes(source, self, {**sizes, "sequence_length": min(positions, self.sequence_length)})
        for layer in self.encoder.layers:
            values = encoder.get_layer(layer.name).get_weights()
            if layer.name in ("position_embedding", "segment_embedding"):
                # Of the positions and segments as many as there are here.
                values = [values[0][: layer.weights[0].shape[0]]]
            layer.set_weights(values)

    def _freeze(self):
        """Freeze what lies below the last `trainable_layers`; with none of them trained, the whole encoder."""
        if self.trainable_layers is None:
            return
        trained = {f"transformer_layer_{self.num_layers - 1 - number}" for number in range(self.trainable_layers)}
        for layer in self.encoder.layers:
            if layer.name not in trained:
                layer.trainable = False

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "activation": self.activation,
            "trainable_layers": self.trainable_layers,
            "weights": None,
        }
