import keras

from keras_itr.layers import ClampedTemperature, UniversalHead
from keras_itr.losses import cross_modal_soft_label_alignment, uni_modal_soft_label_alignment
from keras_itr.numerics import unit_rows


@keras.saving.register_keras_serializable(package="keras_itr")
class SoftLabelAlignment(keras.layers.Layer):
    """CUSA as a plug-in: soft labels of two frozen teachers for any retriever.

    Adds two terms to a retriever's own: CSA aligns its image-text similarity
    matrix, USA the image-image and text-text similarities of two heads over its
    embeddings, both with the similarities of uni-modal teachers. Teachers are
    read in training only; search across modalities does not change, and
    `embed_images(x, cross_modal=False)` serves the uni-modal vectors.

    Args:
        csa_weight: float, weight of the cross-modal term, default 0.6; 0 leaves
            it out.
        usa_weight: float, weight of the uni-modal term, default 0.75; 0 leaves
            it and its heads out.
        csa_temperature: `(initial, minimum, maximum)` of the learned student
            temperature over image-text similarities.
        usa_temperature: likewise over image-image and text-text similarities,
            one variable for each.
        teacher_temperature: float, of both teachers, fixed, default 1.0.
        heads: bool, default True: USA acts on two `UniversalHead`s; False: on
            the retriever's own embeddings.

    Raises:
        ValueError: in training, if `"teacher_image"` or `"teacher_text"` is
            missing from the inputs.

    Example:

    ```python
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import CLIP, DualEncoderBackbone, SoftLabelAlignment

    backbone = DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16))
    model = CLIP(backbone, plugins=(SoftLabelAlignment(csa_weight=0.6, usa_weight=0.75),))
    ```

    Reference: Huang et al., Cross-Modal and Uni-Modal Soft-Label Alignment for
    Image-Text Retrieval, AAAI 2024. The defaults for foreign hosts are our
    choice.
    """

    def __init__(
        self,
        csa_weight=0.6,
        usa_weight=0.75,
        csa_temperature=(0.45, 0.10, 0.99),
        usa_temperature=(0.45, 0.10, 1.00),
        teacher_temperature=1.0,
        heads=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (("csa_weight", csa_weight), ("usa_weight", usa_weight)):
            if not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, received {value!r}.")
        if not isinstance(teacher_temperature, int | float) or teacher_temperature <= 0:
            raise ValueError(f"teacher_temperature must be a number above 0, received {teacher_temperature!r}.")
        # Layers.
        temperature = ClampedTemperature.of_three
        self.tau_csa = temperature(csa_temperature, "csa_temperature", name="tau_csa") if csa_weight else None
        self.tau_usa_image, self.tau_usa_text = (
            temperature(usa_temperature, "usa_temperature", name=name) if usa_weight else None
            for name in ("tau_usa_image", "tau_usa_text")
        )
        with_heads = bool(heads and usa_weight)
        self.image_head = UniversalHead(name="image_head", dtype=self.dtype_policy) if with_heads else None
        self.text_head = UniversalHead(name="text_head", dtype=self.dtype_policy) if with_heads else None
        # Configuration.
        self.csa_weight = csa_weight
        self.usa_weight = usa_weight
        self.csa_temperature = tuple(csa_temperature)
        self.usa_temperature = tuple(usa_temperature)
        self.teacher_temperature = teacher_temperature
        self.heads = heads

    def build(self, embedding_shape):
        for head in (self.image_head, self.text_head):
            if head is not None:
                head.build(embedding_shape)

    @property
    def term_weights(self):
        """The terms this plug-in adds to the loss, with their weights."""
        weights = {"csa": self.csa_weight, "usa": self.usa_weight}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def monitors(self):
        """The further values this plug-in reports."""
        return (("tau_csa",) if self.csa_weight else ()) + (
            ("tau_usa_image", "tau_usa_text") if self.usa_weight else ()
        )

    def objectives(self, similarity, image_features, text_features, inputs, training):
        """The terms and temperatures, from the host's `(N, N)` similarity and features."""
        if not self.term_weights:
            return {}
        teachers = [self._teacher(inputs, key) for key in ("teacher_image", "teacher_text")]
        terms = {}
        if self.csa_weight:
            terms["tau_csa"] = self.tau_csa()
            terms["csa"] = cross_modal_soft_label_alignment(
                similarity, *teachers, terms["tau_csa"], self.teacher_temperature
            )
        if self.usa_weight:
            terms["tau_usa_image"], terms["tau_usa_text"] = self.tau_usa_image(), self.tau_usa_text()
            terms["usa"] = uni_modal_soft_label_alignment(
                self.encode_images(image_features),
                self.encode_texts(text_features),
                *teachers,
                terms["tau_usa_image"],
                terms["tau_usa_text"],
                self.teacher_temperature,
            )
        return terms

    def encode_images(self, features):
        """Unit uni-modal vectors `(B, D)` for image-image search."""
        return self._encode(self.image_head, features)

    def encode_texts(self, features):
        """Unit uni-modal vectors `(B, D)` for text-text search."""
        return self._encode(self.text_head, features)

    def _encode(self, head, features):
        # The heads read the embedding before its normalisation, where the host offers it.
        embedding = features.get("global", features["embedding"])
        return unit_rows(embedding if head is None else head(embedding))

    def _teacher(self, inputs, key):
        if key not in inputs:
            raise ValueError(
                f"soft-label alignment needs {key!r} in training, received {', '.join(map(repr, inputs))}; "
                "add the teacher's features (tools/make_teachers.py writes them) or set csa_weight and usa_weight to 0."
            )
        if len(inputs[key].shape) != 2:
            raise ValueError(f"{key} must be (B, width), one vector per pair, received {tuple(inputs[key].shape)}.")
        return inputs[key]

    def get_config(self):
        return {
            **super().get_config(),
            "csa_weight": self.csa_weight,
            "usa_weight": self.usa_weight,
            "csa_temperature": self.csa_temperature,
            "usa_temperature": self.usa_temperature,
            "teacher_temperature": self.teacher_temperature,
            "heads": self.heads,
        }
