import keras

from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.numerics import unit_rows


class JointEmbeddingRetriever(ImageTextRetriever):
    """A retriever whose embedding is the backbone's global vector on the unit sphere: what the baselines share.

    Args:
        backbone: a `DualEncoderBackbone`.
        embedding_dim: int; None (default) keeps the backbone's width, another
            width adds a bias-free projection to either side.
        preprocessor: a `RetrievalPreprocessor`, or None.
    """

    def __init__(self, backbone, embedding_dim=None, preprocessor=None, **kwargs):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        project = embedding_dim not in (None, backbone.embedding_dim)
        self.image_projection = self._projection(embedding_dim, "image_projection") if project else None
        self.text_projection = self._projection(embedding_dim, "text_projection") if project else None
        self.embedding_dim = embedding_dim or backbone.embedding_dim

    def encode_images(self, inputs, training=False):
        return self._embed(self.backbone.encode_images(inputs, training=training), self.image_projection)

    def encode_texts(self, inputs, training=False):
        return self._embed(self.backbone.encode_texts(inputs, training=training), self.text_projection)

    def _embed(self, features, projection):
        vector = features["global"] if projection is None else projection(features["global"])
        return {"embedding": unit_rows(vector), "global": vector}

    def _projection(self, width, name):
        projection = keras.layers.Dense(width, use_bias=False, name=name)
        projection.build((None, self.backbone.embedding_dim))
        return projection

    def get_config(self):
        return {**super().get_config(), "embedding_dim": self.embedding_dim}
