import keras

from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class SentenceFeatureTower(Tower):
    """Ready sentence vectors to one vector: linear map plus residual MLP.

    `pooled = Dense(E)(x) + Dense(E)(gelu(LayerNorm(Dense(H)(x))))`. For cheap
    runs and probes on the vectors of a frozen sentence encoder; there are no
    local features.

    Args:
        feature_dim: int, width of a sentence vector.
        embedding_dim: int, output width, default 1024.
        hidden_dim: int, width of the MLP; None (default) is `embedding_dim`.
        dropout: float, rate inside the MLP, training only, default 0.

    Inputs:
        text_features: `(B, feature_dim)` float.

    Returns:
        dict of `"pooled"` `(B, E)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import SentenceFeatureTower

    tower = SentenceFeatureTower(feature_dim=384, embedding_dim=16)
    tower({"text_features": np.ones((2, 384), "float32")})["pooled"].shape  # (2, 16)
    ```

    Our choice.
    """

    side = "text"
    input_key = "text_features"

    def __init__(self, feature_dim, embedding_dim=1024, hidden_dim=None, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        # Layers.
        hidden = hidden_dim or embedding_dim
        self.shortcut = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="shortcut")
        self.hidden = keras.layers.Dense(hidden, dtype=self.dtype_policy, name="hidden")
        self.normalization = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="normalization"
        )
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.output_layer = keras.layers.Dense(embedding_dim, dtype=self.dtype_policy, name="output")
        self.shortcut.build((None, feature_dim))
        self.hidden.build((None, feature_dim))
        self.normalization.build((None, hidden))
        self.output_layer.build((None, hidden))
        # Configuration.
        self.feature_dim = feature_dim
        self.embedding_dim = self.output_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.built = True

    def call(self, inputs, training=False):
        x = inputs["text_features"]
        hidden = keras.activations.gelu(self.normalization(self.hidden(x)))
        return {"pooled": self.shortcut(x) + self.output_layer(self.drop(hidden, training=training))}

    def get_config(self):
        return {
            **super().get_config(),
            "feature_dim": self.feature_dim,
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
        }
