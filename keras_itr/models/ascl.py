import warnings

import keras
from keras import ops

from keras_itr.layers import HierarchicalSimilarity, TextNegatives
from keras_itr.losses import asymmetry_sensitive_contrastive, symmetric_contrastive
from keras_itr.losses.pairs import masked_mean
from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.numerics import unit_rows, without_padding

# Of the contrastive term that trains the vectors of the shortlist.
COARSE_TEMPERATURE = 0.05


@keras.saving.register_keras_serializable(package="keras_itr")
class AsCL(ImageTextRetriever):
    """Asymmetry-sensitive contrastive learning: captions with errors, too long and too short, and a score of pairs.

    A reconstruction: of the paper its abstract and two formulas could be read, the mix of local and global similarity
    and the two halves of the loss. All else follows the code of the first author's later system; no result of the
    paper is claimed.

    Regions (unit rows) and words, projected to one width, meet in a `HierarchicalSimilarity`: attention both ways
    without weights gives local scores and contexts, gated vectors of each pair the global one. With generated
    negatives `T-` of a caption, which carry wrong content, and a generated positive `T+` of it, which is redundant or
    short:

    `L = 1/2 L(S(I, [T | T-])) + 1/2 L(S(I, [T+ | T+-]))`

    Negatives are made of the word features (`TextNegatives`); captions with their words in another order, made before
    the encoder (`"negative_token_ids"`, `data.ShuffleWords`), join those of the first half. Positives come with the
    inputs (`data.AsymmetryPositives`); where there are none, their half of the loss goes to the first.

    Search has two stages: the means of regions and of words make a shortlist by their dot product, the score orders it
    (`rerank`, `search.TwoStageSearch`). The means are trained only by what attention does to them, unless
    `coarse_weight` adds a contrastive term.

    Args:
        backbone: a `DualEncoderBackbone` whose towers have local features. Its joint space is not used.
        embedding_dim: int, D, default 1024.
        num_heads: int, of the attention, divides D, default 8.
        local_weight: float, u1, the share of the local score, default 0.8.
        image_to_text_scale, text_to_image_scale: float, inverse temperatures of the attention, default 4 and 9.
        temperature: float, of both halves of the loss, default 0.1.
        original_weight, positive_weight: float, default 0.5 each.
        coarse_weight: float, default 0: no term for the vectors of the shortlist.
        negatives: names of `TextNegatives` operators; `()` for none.
        negatives_per_text: int, default 1.
        drop_false_negatives: bool, default True: generated entries above the true pair count 0.
        conditioning: `"pairwise"` (default), or `"paired"`, in training alone: an image's vector comes from its own
            caption. Scores are pairwise in either case.
        freeze_backbones: bool, default True: the towers stay as they are, and only the projections and the similarity
            train. False for towers from scratch; what is frozen inside of them stays so.
        rerank_top_k: int, length of the shortlists, default 100.
        text_chunk_size: int, captions scored at a time, for less memory; None (default) all at once.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`.
        image_global_dim: int, width of the input `"image_global"`; None (default): the pooled vector of the image
            tower takes its place.

    Raises:
        ValueError: for a tower without local features, or all weights 0.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RecurrentTextTower, RegionFeatureTower
    from keras_itr.models import AsCL, DualEncoderBackbone

    backbone = DualEncoderBackbone(RegionFeatureTower(16), RecurrentTextTower(50, 16, word_dim=8, pooling="mean"))
    model = AsCL(backbone, embedding_dim=16, num_heads=2, freeze_backbones=False, coarse_weight=0.1)
    model.compile(optimizer="adam")
    regions = np.random.normal(size=(8, 4, 16)).astype("float32")
    token_ids = np.random.randint(4, 50, (8, 6)).astype("int32")
    positive = {"positive_token_ids": token_ids[:, :3]}
    model.fit({"regions": regions, "token_ids": token_ids, "image_id": np.arange(8), **positive}, batch_size=4)
    model.score({"regions": regions}, {"token_ids": token_ids}).shape  # (8, 8)
    ```

    Reference: Gong, Mai and Huang, AsCL: An Asymmetry-Sensitive Contrastive Learning Method for Image-Text Retrieval
    with Cross-Modal Fusion, ICME 2024; the inner forms after the code of ACF-R+. The two-stage search, trained gates,
    pairs of one image as no negatives of each other, and `coarse_weight` are our choice.
    """

    dot_product = False
    second_stage = True

    def __init__(
        self,
        backbone,
        embedding_dim=1024,
        num_heads=8,
        local_weight=0.8,
        image_to_text_scale=4.0,
        text_to_image_scale=9.0,
        temperature=0.1,
        original_weight=0.5,
        positive_weight=0.5,
        coarse_weight=0.0,
        negatives=("noise", "dropout", "zero_feature", "zero_token"),
        negatives_per_text=1,
        drop_false_negatives=True,
        conditioning="pairwise",
        freeze_backbones=True,
        rerank_top_k=100,
        text_chunk_size=None,
        preprocessor=None,
        plugins=(),
        image_global_dim=None,
        **kwargs,
    ):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        image_tower, text_tower = backbone.image_tower, backbone.text_tower
        for tower in (image_tower, text_tower):
            if tower.token_dim is None:
                raise ValueError(f"AsCL compares local features, and {type(tower).__name__} has none.")
        term_weights = {"original": original_weight, "positive": positive_weight, "coarse": coarse_weight}
        term_weights = {name: weight for name, weight in term_weights.items() if weight}
        if not term_weights:
            raise ValueError("AsCL needs a weight other than 0 for at least one of original, positive and coarse.")
        # Layers.
        self.region_projection = _projection(image_tower.token_dim, embedding_dim, "region_projection")
        self.word_projection = _projection(text_tower.token_dim, embedding_dim, "word_projection")
        self.text_negatives = TextNegatives(tuple(negatives), name="text_negatives") if negatives else None
        self.hierarchical_similarity = HierarchicalSimilarity(
            embedding_dim,
            num_heads,
            local_weight,
            conditioning,
            image_to_text_scale,
            text_to_image_scale,
            text_chunk_size,
            name="hierarchical_similarity",
        )
        local = (None, None, embedding_dim)
        self.hierarchical_similarity.build(local, local, (None, image_global_dim or image_tower.output_dim))
        if freeze_backbones:
            for weight in backbone.variables:
                weight.trainable = False
        # Configuration.
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.local_weight = local_weight
        self.image_to_text_scale = image_to_text_scale
        self.text_to_image_scale = text_to_image_scale
        self.temperature = temperature
        self.original_weight = original_weight
        self.positive_weight = positive_weight
        self.coarse_weight = coarse_weight
        self.negatives = tuple(negatives)
        self.negatives_per_text = negatives_per_text
        self.drop_false_negatives = drop_false_negatives
        self.conditioning = conditioning
        self.freeze_backbones = freeze_backbones
        self.rerank_top_k = rerank_top_k
        self.text_chunk_size = text_chunk_size
        self.image_global_dim = image_global_dim
        self.declare_terms(term_weights, plugins=plugins)

    def encode_images(self, inputs, training=False):
        features = self.backbone.image_tower(inputs, training=training and not self.freeze_backbones)
        mask, whole = features["mask"], features["pooled"]
        if self.image_global_dim is None:
            if "image_global" in inputs:
                raise ValueError(
                    "the inputs have 'image_global', and this AsCL was made without it: pass image_global_dim="
                    f"{inputs['image_global'].shape[-1]} to the constructor, or leave the key out."
                )
        else:
            if "image_global" not in inputs:
                raise ValueError(f"'image_global' (B, {self.image_global_dim}) is missing; the model was made for it.")
            whole = inputs["image_global"]
        regions = unit_rows(self.region_projection(without_padding(features["tokens"], mask)))
        embedding = unit_rows(masked_mean(regions, mask[:, :, None], axis=1))
        return {"embedding": embedding, "tokens": regions, "mask": mask, "image_global": whole}

    def encode_texts(self, inputs, training=False):
        features = self.backbone.text_tower(inputs, training=training and not self.freeze_backbones)
        mask = features["mask"]
        words = self.word_projection(without_padding(features["tokens"], mask))
        return {"embedding": unit_rows(masked_mean(words, mask[:, :, None], axis=1)), "tokens": words, "mask": mask}

    def similarity(self, image_features, text_features):
        # Pairwise, whatever the conditioning of the training is.
        return self.hierarchical_similarity.pairwise(*_parts(image_features, text_features))["similarity"]

    def pair_scores(self, image_features, text_features):
        image = self.prepare_candidates("image", image_features)
        text = self.prepare_candidates("text", text_features)
        return self.hierarchical_similarity.prepared_pairs(image, text)["similarity"]

    def prepare_candidates(self, side, features):
        if "heads" in features:
            return features
        if side == "text":
            return self.hierarchical_similarity.prepare_texts(features["tokens"], features["mask"])
        return self.hierarchical_similarity.prepare_images(
            features["tokens"], features["image_global"], features["mask"]
        )

    def pair_cost(self, regions, words):
        # Attention both ways; context projection, the text half of the gate, text projection.
        return 4 * regions * words * self.embedding_dim + 3 * self.embedding_dim**2

    # Training.

    def objectives(self, image_features, text_features, inputs, training=False):
        ids = self.image_ids(inputs, required=False)
        terms = {}
        if self.original_weight:
            negatives = self._negatives(text_features, training) + self._other_orders(inputs, training)
            terms["original"] = self._term(image_features, [text_features, *negatives], ids, training)
        if self.positive_weight:
            positive = self._given_text("positive", inputs, training)
            if positive is None:
                self._warn(training)
                positive = text_features
            negatives = self._negatives(positive, training)
            terms["positive"] = self._term(image_features, [positive, *negatives], ids, training)
        if self.coarse_weight:
            products = super().similarity(image_features, text_features)
            terms["coarse"] = symmetric_contrastive(products, ids, COARSE_TEMPERATURE)
        return terms

    def _term(self, image_features, texts, ids, training):
        """`L(S(I, texts))`, the captions first and generated negatives behind them."""
        texts = {key: ops.concatenate([text[key] for text in texts]) for key in ("tokens", "mask")}
        if training:
            similarity = self.hierarchical_similarity(*_parts(image_features, texts), training=True)
        else:
            similarity = self.similarity(image_features, texts)
        return asymmetry_sensitive_contrastive(similarity, self.temperature, self.drop_false_negatives, ids)

    def _negatives(self, text, training):
        if self.text_negatives is None or not training:
            return []
        return [
            {**text, "tokens": self.text_negatives(text["tokens"], text["mask"], training=True)}
            for _ in range(self.negatives_per_text)
        ]

    def _other_orders(self, inputs, training):
        text = self._given_text("negative", inputs, training) if training else None
        return [] if text is None else [text]

    def _given_text(self, kind, inputs, training):
        """Features of the captions called `kind` in the inputs, or None."""
        key = f"{kind}_token_ids"
        if key not in inputs:
            return None
        text = {"token_ids": inputs[key]}
        if f"{kind}_padding_mask" in inputs:
            text["padding_mask"] = inputs[f"{kind}_padding_mask"]
        return self.encode_texts(text, training=training)

    def _warn(self, training):
        if training and not getattr(self, "_warned", False):
            self._warned = True
            warnings.warn(
                "AsCL trains without generated positives: 'positive_token_ids' is not among the inputs, and the "
                "captions themselves take their place. data.positives in a recipe makes them.",
                stacklevel=2,
            )

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "num_heads": self.num_heads,
            "local_weight": self.local_weight,
            "image_to_text_scale": self.image_to_text_scale,
            "text_to_image_scale": self.text_to_image_scale,
            "temperature": self.temperature,
            "original_weight": self.original_weight,
            "positive_weight": self.positive_weight,
            "coarse_weight": self.coarse_weight,
            "negatives": self.negatives,
            "negatives_per_text": self.negatives_per_text,
            "drop_false_negatives": self.drop_false_negatives,
            "conditioning": self.conditioning,
            "freeze_backbones": self.freeze_backbones,
            "rerank_top_k": self.rerank_top_k,
            "text_chunk_size": self.text_chunk_size,
            "image_global_dim": self.image_global_dim,
        }


def _projection(width, embedding_dim, name):
    projection = keras.layers.Dense(embedding_dim, name=name)
    projection.build((None, None, width))
    return projection


def _parts(image, text):
    return image["tokens"], text["tokens"], image["image_global"], image["mask"], text["mask"]
