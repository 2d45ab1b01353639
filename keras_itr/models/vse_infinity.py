import keras
from keras import ops

from keras_itr.layers import TrainingScalar
from keras_itr.losses import hard_negative_triplet, same_image_pairs
from keras_itr.losses.hard_negative_triplet import check_margin
from keras_itr.models.joint_embedding import JointEmbeddingRetriever


@keras.saving.register_keras_serializable(package="keras_itr")
class VSEInfinity(JointEmbeddingRetriever):
    """Learned pooling on both sides and a hinge against the hardest negatives.

    The towers pool regions, grid cells and words with the generalized pooling
    operator (`pooling="gpo"`), the embeddings meet on the unit sphere, and one
    triplet loss trains them:

    `L = sum_i max_j [m + S_ij - S_ii]_+ + sum_j max_i [m + S_ij - S_jj]_+`

    From the hardest negatives alone an untrained model may collapse into one
    point; the warm-up takes the sum over all negatives instead. It is a switch
    inside the graph, which `keras_itr.training.HardestNegativeWarmup` flips.

    Args:
        backbone: a `DualEncoderBackbone`.
        embedding_dim: int; None (default) keeps the backbone's width, another
            width adds a bias-free projection to either side.
        margin: float, m, default 0.2.
        hardest: bool, default True; False stays with all negatives.
        mask_same_image: bool, default True: other captions of an image
            (`"image_id"`) are no negatives of it; False as in the official code.
        reduction: `"sum"` (default, the official scale, to which learning rate
            and gradient clipping belong) or `"mean"` over the pairs of a batch.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import DualEncoderBackbone, VSEInfinity
    from keras_itr.training import HardestNegativeWarmup

    model = VSEInfinity(DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16)))
    model.compile(optimizer="adam")
    model.fit(
        {
            "regions": np.random.normal(size=(8, 4, 32)).astype("float32"),
            "text_features": np.random.normal(size=(8, 24)).astype("float32"),
            "image_id": np.arange(8, dtype="int32"),
        },
        batch_size=4,
        epochs=2,
        callbacks=[HardestNegativeWarmup(epochs=1)],
    )
    ```

    Reference: Chen et al., Learning the Best Pooling Strategy for Visual
    Semantic Embedding, CVPR 2021, in the form of the official code; the loss is
    that of Faghri et al., VSE++, BMVC 2018. `mask_same_image` and `"mean"` are
    our choice.
    """

    def __init__(
        self,
        backbone,
        embedding_dim=None,
        margin=0.2,
        hardest=True,
        mask_same_image=True,
        reduction="sum",
        preprocessor=None,
        plugins=(),
        **kwargs,
    ):
        super().__init__(backbone, embedding_dim, preprocessor, **kwargs)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', received {reduction!r}.")
        check_margin(margin)
        # Layers.
        self.warmup = TrainingScalar(name="warmup")
        # Configuration.
        self.margin = margin
        self.hardest = hardest
        self.mask_same_image = mask_same_image
        self.reduction = reduction
        self.declare_terms({"triplet": 1.0}, plugins=plugins)

    def objectives(self, image_features, text_features, inputs, training=False):
        similarity = self.similarity(image_features, text_features)
        positives = same_image_pairs(self.image_ids(inputs, required=False)) if self.mask_same_image else None
        hardest = ops.equal(self.warmup(), 0.0) if self.hardest else False
        return {"triplet": hard_negative_triplet(similarity, self.margin, hardest, self.reduction, positives)}

    def get_config(self):
        return {
            **super().get_config(),
            "margin": self.margin,
            "hardest": self.hardest,
            "mask_same_image": self.mask_same_image,
            "reduction": self.reduction,
        }
