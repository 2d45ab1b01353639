import keras

from keras_itr.layers import ClampedTemperature
from keras_itr.losses import symmetric_contrastive
from keras_itr.models.joint_embedding import JointEmbeddingRetriever


@keras.saving.register_keras_serializable(package="keras_itr")
class CLIP(JointEmbeddingRetriever):
    """Contrastive fine-tuning of a dual encoder, the baseline of the others.

    Unit embeddings, their dot product as similarity, and the symmetric
    cross-entropy over the batch at a learned temperature. Captions of the same
    image (`"image_id"`) share the target instead of being negatives.

    `L = 1/2 [ce(S, Y, tau) + ce(S^T, Y, tau)]`

    Args:
        backbone: a `DualEncoderBackbone`.
        embedding_dim: int; None (default) keeps the backbone's width, another
            width adds a bias-free projection to either side.
        temperature: `(initial, minimum, maximum)`, a divisor of similarities.
        trainable_temperature: bool, default True.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import CLIP, DualEncoderBackbone

    model = CLIP(DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16)))
    model.compile(optimizer="adam")
    model.fit(
        {
            "regions": np.random.normal(size=(8, 4, 32)).astype("float32"),
            "text_features": np.random.normal(size=(8, 24)).astype("float32"),
            "image_id": np.arange(8, dtype="int32"),
        },
        batch_size=4,
    )
    ```

    Reference: Radford et al., Learning Transferable Visual Models From Natural
    Language Supervision, ICML 2021. The upper bound of the temperature is our
    choice; targets by id follow the code of Huang et al., CUSA.
    """

    def __init__(
        self,
        backbone,
        embedding_dim=None,
        temperature=(0.07, 0.01, 1.0),
        trainable_temperature=True,
        preprocessor=None,
        plugins=(),
        **kwargs,
    ):
        super().__init__(backbone, embedding_dim, preprocessor, **kwargs)
        # Layers.
        self.tau = ClampedTemperature.of_three(temperature, "temperature", trainable=trainable_temperature, name="tau")
        # Configuration.
        self.temperature = tuple(temperature)
        self.trainable_temperature = trainable_temperature
        self.declare_terms({"itc": 1.0}, monitors=("tau",), plugins=plugins)

    def objectives(self, image_features, text_features, inputs, training=False):
        similarity = self.similarity(image_features, text_features)
        tau = self.tau()
        return {"itc": symmetric_contrastive(similarity, self.image_ids(inputs, required=False), tau), "tau": tau}

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "trainable_temperature": self.trainable_temperature,
        }
