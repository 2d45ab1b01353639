import keras
from keras import ops

from keras_itr.layers import ClampedTemperature, UniversalHead
from keras_itr.losses import symmetric_contrastive
from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.models.soft_label_alignment import SoftLabelAlignment
from keras_itr.numerics import unit_rows


@keras.saving.register_keras_serializable(package="keras_itr")
class CUSA(ImageTextRetriever):
    """Cross-modal and uni-modal soft-label alignment over a dual encoder.

    Two heads per modality read the backbone's embedding: a cross-modal one for
    image-text search, a uni-modal one for image-image and text-text search.
    Three terms train them: ITC, the contrastive loss; CSA, which lets the
    similarities of two frozen uni-modal teachers soften the image-text targets;
    USA, which shapes the uni-modal similarities after the teachers.

    `L = w_itc ITC + alpha CSA + beta USA`

    Teachers (`"teacher_image"`, `"teacher_text"`, any width) are read in
    training only; nothing of them is saved. Each term works alone: a weight of
    0 leaves it out with the heads only it needs.

    Args:
        backbone: a `DualEncoderBackbone`.
        contrastive_weight: float, w_itc, default 1.0.
        csa_weight: float, alpha, default 0.1.
        usa_weight: float, beta, default 0.5.
        contrastive_scale: `"official"` (default) divides ITC by the batch size
            once more, as the released code does; `"infonce"` does not. alpha
            and beta belong to the official scale.
        temperature: `(initial, minimum, maximum)` of the learned ITC temperature.
        csa_temperature: likewise, of CSA's student.
        usa_temperature: likewise, of USA's students, one per modality.
        teacher_temperature: float, fixed, shared by CSA and USA.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: further plug-ins.

    Raises:
        ValueError: for an unknown `contrastive_scale`, if all three weights are
            0, or in training if a teacher is missing.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import CUSA, DualEncoderBackbone

    model = CUSA(DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16)))
    model.compile(optimizer="adam")
    draw = lambda *shape: np.random.normal(size=shape).astype("float32")
    model.fit(
        {
            "regions": draw(8, 4, 32),
            "text_features": draw(8, 24),
            "teacher_image": draw(8, 5),
            "teacher_text": draw(8, 7),
            "image_id": np.arange(8, dtype="int32"),
        },
        batch_size=4,
    )
    model.embed_images({"regions": draw(3, 4, 32)}, cross_modal=False).shape  # (3, 16)
    ```

    Reference: Huang et al., Cross-Modal and Uni-Modal Soft-Label Alignment for
    Image-Text Retrieval, AAAI 2024, in the form of the official code.
    """

    uni_modal = True

    def __init__(
        self,
        backbone,
        contrastive_weight=1.0,
        csa_weight=0.1,
        usa_weight=0.5,
        contrastive_scale="official",
        temperature=(0.05, 0.01, 0.10),
        csa_temperature=(0.45, 0.10, 0.99),
        usa_temperature=(0.45, 0.10, 1.00),
        teacher_temperature=1.0,
        preprocessor=None,
        plugins=(),
        **kwargs,
    ):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        if contrastive_scale not in ("official", "infonce"):
            raise ValueError(f"contrastive_scale must be 'official' or 'infonce', received {contrastive_scale!r}.")
        if not (contrastive_weight or csa_weight or usa_weight):
            raise ValueError("CUSA needs a weight other than 0 for at least one of ITC, CSA and USA.")
        # Layers.
        cross_modal = bool(contrastive_weight or csa_weight)
        self.image_head = self._head("image_head") if cross_modal else None
        self.text_head = self._head("text_head") if cross_modal else None
        self.tau_itc = (
            ClampedTemperature.of_three(temperature, "temperature", name="tau_itc") if contrastive_weight else None
        )
        self.alignment = SoftLabelAlignment(
            csa_weight, usa_weight, csa_temperature, usa_temperature, teacher_temperature, name="alignment"
        )
        self.alignment.build((None, backbone.embedding_dim))
        # Configuration.
        self.contrastive_weight = contrastive_weight
        self.csa_weight = csa_weight
        self.usa_weight = usa_weight
        self.contrastive_scale = contrastive_scale
        self.temperature = tuple(temperature)
        self.csa_temperature = tuple(csa_temperature)
        self.usa_temperature = tuple(usa_temperature)
        self.teacher_temperature = teacher_temperature
        itc = {"itc": contrastive_weight} if contrastive_weight else {}
        self.declare_terms(
            {**itc, **self.alignment.term_weights},
            monitors=(("tau_itc",) if itc else ()) + self.alignment.monitors,
            plugins=plugins,
        )

    def encode_images(self, inputs, training=False):
        return self._embed(self.backbone.encode_images(inputs, training=training), self.image_head)

    def encode_texts(self, inputs, training=False):
        return self._embed(self.backbone.encode_texts(inputs, training=training), self.text_head)

    def objectives(self, image_features, text_features, inputs, training=False):
        similarity = self.similarity(image_features, text_features)
        terms = self.alignment.objectives(similarity, image_features, text_features, inputs, training)
        if self.contrastive_weight:
            terms["tau_itc"] = self.tau_itc()
            terms["itc"] = self._contrastive(similarity, self.image_ids(inputs, required=False), terms["tau_itc"])
        return terms

    def uni_modal_images(self, image_features):
        return self.alignment.encode_images(image_features)

    def uni_modal_texts(self, text_features):
        return self.alignment.encode_texts(text_features)

    def _contrastive(self, similarity, ids, tau):
        loss = symmetric_contrastive(similarity, ids, tau)
        if self.contrastive_scale == "official":
            loss = loss / ops.cast(ops.shape(similarity)[0], loss.dtype)
        return loss

    def _embed(self, features, head):
        vector = features["global"]
        return {"embedding": unit_rows(vector if head is None else head(vector)), "global": vector}

    def _head(self, name):
        head = UniversalHead(name=name)
        head.build((None, self.backbone.embedding_dim))
        return head

    def get_config(self):
        return {
            **super().get_config(),
            "contrastive_weight": self.contrastive_weight,
            "csa_weight": self.csa_weight,
            "usa_weight": self.usa_weight,
            "contrastive_scale": self.contrastive_scale,
            "temperature": self.temperature,
            "csa_temperature": self.csa_temperature,
            "usa_temperature": self.usa_temperature,
            "teacher_temperature": self.teacher_temperature,
        }
