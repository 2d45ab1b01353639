import keras
from keras import ops

from keras_itr.layers import (
    ClampedTemperature,
    FeatureQueue,
    FusionEncoder,
    HardNegativeSampler,
    MomentumTwin,
    TrainingScalar,
)
from keras_itr.losses import (
    image_text_contrastive,
    image_text_matching,
    intra_modal_separability,
    local_mutual_information,
)
from keras_itr.losses.local_mutual_information import check_estimator
from keras_itr.models.encoding import matched_rows
from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.numerics import unit_rows

SECOND_VIEW = "_view2"


@keras.saving.register_keras_serializable(package="keras_itr")
class AAI(ImageTextRetriever):
    """Adequate alignment and interaction: momentum keys, three alignment losses, a fusion encoder.

    A reconstruction from the public summary of the article and the code of its
    relatives; not the authors' settings, and no result of it is theirs.

    Alignment works on the pooled unit embeddings v and w of image and text
    against keys of momentum twins (of towers and their aggregators) and of
    queues, at one learned temperature: ITC across modalities, with soft targets
    of the twins; IMS inside each, with the twin's view as the positive; LMIM of
    an embedding with the twin's local features of the same item. Interaction is
    a fusion encoder in which words read regions, with a matching head, trained
    on matched pairs and hard negatives of the batch (ITM).

    `L = w_itc ITC + w_ims IMS + w_lmim LMIM + w_itm ITM`

    Search has two stages: the dot product of embeddings makes a shortlist of
    `rerank_top_k`, `rerank` scores its pairs by the matching head. Twins and
    queues are for training alone and not part of a preset.

    Momentum branches read the second views (`"region_mask_view2"`, `"regions_view2"`,
    `"images_view2"`, `"token_ids_view2"`, `"padding_mask_view2"`); an absent one
    falls back to the first view.

    Args:
        backbone: a `DualEncoderBackbone` whose towers pool with `"gpo"`. Local
            features must have its width D, in which embeddings live; a text
            tower without any (ready sentence vectors) counts as one token.
        queue_size: int, slots per modality, default 4096; 0 for no queue.
        momentum: float, of the twins, default 0.995.
        temperature: float, initial, default 0.07.
        temperature_range: `(minimum, maximum)`, default `(0.001, 0.5)`.
        distillation_weight: float, share of the soft targets in ITC, default 0.4.
        distillation_ramp_steps: int, steps over which it rises from 0; a recipe
            gives those of an epoch. Default 0, no ramp.
        lmim_estimator: `"infonce"` (default) or `"jsd"`.
        local_pool_size: int or None (default): grid cells of a pixel tower are
            averaged in squares of this side before LMIM; regions never.
        fusion_layers, fusion_heads, fusion_hidden_dim, fusion_intermediate_dim,
            fusion_dropout: of the `FusionEncoder`; 6, 12, 768, 3072, 0.1.
        itc_weight, ims_weight, lmim_weight: float, default 1/3 each; 0 leaves a
            term out.
        itm_weight: float, default 1; 0 leaves the fusion encoder out, and there
            is no second stage.
        rerank_top_k: int, length of the shortlist, default 128.
        rerank_mode: `"itm"` (default): the second stage is the log odds of a
            match; `"sum"`: plus `v.w / t`.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`.

    Raises:
        ValueError: for local features of another width, an unknown
            `rerank_mode` or `lmim_estimator`, a `distillation_weight` outside
            0..1, a `rerank_top_k` below 1, all weights 0, or in training without
            `"image_id"`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RecurrentTextTower, RegionTower
    from keras_itr.models import AAI, DualEncoderBackbone

    backbone = DualEncoderBackbone(RegionTower(32, 16), RecurrentTextTower(50, 16, word_dim=8))
    model = AAI(
        backbone, queue_size=16, fusion_layers=1, fusion_heads=2, fusion_hidden_dim=16, fusion_intermediate_dim=32
    )
    model.compile(optimizer="adam")
    regions = np.random.normal(size=(8, 4, 32)).astype("float32")
    token_ids = np.random.randint(4, 50, (8, 6)).astype("int32")
    model.fit({"regions": regions, "token_ids": token_ids, "image_id": np.arange(8, dtype="int32")}, batch_size=4)
    model.rerank({"regions": regions}, {"token_ids": token_ids}, [[0, 0], [0, 1]])  # two log odds
    ```

    Reference: Adequate alignment and interaction for cross-modal retrieval,
    Virtual Reality & Intelligent Hardware 5(6), 2023, its public summary; the
    parts follow Yang et al., TCL, CVPR 2022, Li et al., ALBEF, NeurIPS 2021, and
    Chen et al., VSE-infinity, CVPR 2021. All defaults are our choice.
    """

    second_stage = True
    no_second_stage = "itm_weight=0 leaves it out, and score() is all there is."

    def __init__(
        self,
        backbone,
        queue_size=4096,
        momentum=0.995,
        temperature=0.07,
        temperature_range=(0.001, 0.5),
        distillation_weight=0.4,
        distillation_ramp_steps=0,
        lmim_estimator="infonce",
        local_pool_size=None,
        fusion_layers=6,
        fusion_heads=12,
        fusion_hidden_dim=768,
        fusion_intermediate_dim=3072,
        fusion_dropout=0.1,
        itc_weight=1 / 3,
        ims_weight=1 / 3,
        lmim_weight=1 / 3,
        itm_weight=1.0,
        rerank_top_k=128,
        rerank_mode="itm",
        preprocessor=None,
        plugins=(),
        **kwargs,
    ):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        if rerank_mode not in ("itm", "sum"):
            raise ValueError(f"rerank_mode must be 'itm' or 'sum', received {rerank_mode!r}.")
        check_estimator(lmim_estimator, "lmim_estimator")
        if not 0 <= distillation_weight <= 1:
            raise ValueError(f"distillation_weight must be from 0 to 1, a share, received {distillation_weight}.")
        if rerank_top_k < 1:
            raise ValueError(f"rerank_top_k must be 1 or more, received {rerank_top_k}.")
        term_weights = {"itc": itc_weight, "ims": ims_weight, "lmim": lmim_weight, "itm": itm_weight}
        term_weights = {name: weight for name, weight in term_weights.items() if weight}
        if not term_weights:
            raise ValueError("AAI needs a weight other than 0 for at least one of ITC, IMS, LMIM and ITM.")
        if lmim_weight:
            _check_local_width(backbone)
        # Layers.
        width = backbone.embedding_dim
        self.tau = ClampedTemperature(temperature, *temperature_range, name="tau")
        self.momentum_backbone = MomentumTwin(backbone, momentum, name="momentum_backbone")
        self.image_queue = FeatureQueue(queue_size, width, name="image_queue") if queue_size else None
        self.text_queue = FeatureQueue(queue_size, width, name="text_queue") if queue_size else None
        self.steps = TrainingScalar("int32", name="steps")
        self.second_stage = bool(itm_weight)
        if self.second_stage:
            self.sampler = HardNegativeSampler(name="sampler")
            self.fusion = FusionEncoder(
                fusion_layers, fusion_heads, fusion_hidden_dim, fusion_intermediate_dim, fusion_dropout, name="fusion"
            )
            self.fusion.build(
                *((None, None, tower.token_dim or width) for tower in (backbone.text_tower, backbone.image_tower))
            )
            self.matching_head = keras.layers.Dense(2, name="matching_head")
            self.matching_head.build((None, fusion_hidden_dim))
        # Configuration.
        self.queue_size = queue_size
        self.momentum = momentum
        self.temperature = temperature
        self.temperature_range = tuple(temperature_range)
        self.distillation_weight = distillation_weight
        self.distillation_ramp_steps = distillation_ramp_steps
        self.lmim_estimator = lmim_estimator
        self.local_pool_size = local_pool_size
        self.fusion_layers = fusion_layers
        self.fusion_heads = fusion_heads
        self.fusion_hidden_dim = fusion_hidden_dim
        self.fusion_intermediate_dim = fusion_intermediate_dim
        self.fusion_dropout = fusion_dropout
        self.itc_weight = itc_weight
        self.ims_weight = ims_weight
        self.lmim_weight = lmim_weight
        self.itm_weight = itm_weight
        self.rerank_top_k = rerank_top_k
        self.rerank_mode = rerank_mode
        self.declare_terms(term_weights, monitors=("tau",), plugins=plugins)

    def encode_images(self, inputs, training=False):
        return self._embed(self.backbone.encode_images(inputs, training=training))

    def encode_texts(self, inputs, training=False):
        return self._embed(self.backbone.encode_texts(inputs, training=training))

    def pair_scores(self, image_features, text_features):
        image_features, text_features, shape = matched_rows(image_features, text_features)
        logits = self._matching_logits(image_features, text_features)
        scores = ops.cast(logits[:, 1] - logits[:, 0], "float32")
        if self.rerank_mode == "sum":
            scores += ops.sum(image_features["embedding"] * text_features["embedding"], axis=-1) / self.tau()
        return ops.reshape(scores, shape)

    # Training.

    def objectives(self, image_features, text_features, inputs, training=False):
        ids = self.image_ids(inputs)
        if training:
            self.momentum_backbone.update()
        momentum = self.momentum_backbone(_second_views(inputs))
        image_key, text_key = unit_rows(momentum["image_global"]), unit_rows(momentum["text_global"])
        image, text, tau = image_features["embedding"], text_features["embedding"], self.tau()
        image_keys, text_keys, key_ids = self._with_queues(image_key, text_key, ids)
        terms = {"tau": tau}
        if self.itc_weight:
            # The targets are constants: the temperature learns from the online logits alone.
            soft_image = _soft_targets(image_key, text_keys, ops.stop_gradient(tau), key_ids)
            soft_text = _soft_targets(text_key, image_keys, ops.stop_gradient(tau), key_ids)
            terms["itc"] = image_text_contrastive(
                image, text, image_keys, text_keys, tau, ids, key_ids, soft_image, soft_text, self._distillation()
            )
        if self.ims_weight:
            terms["ims"] = intra_modal_separability(image, text, image_keys, text_keys, tau, ids, key_ids)
        if self.lmim_weight:
            terms["lmim"] = self._local_mutual_information(image, text, momentum, tau, ids)
        if self.itm_weight:
            to_text = ops.matmul(image, ops.transpose(text_key)) / tau
            to_image = ops.matmul(text, ops.transpose(image_key)) / tau
            terms["itm"] = self._matching(image_features, text_features, to_text, to_image, ids, training)
        if training:
            self.steps.assign(self.steps() + 1)
            if self.queue_size:
                self.image_queue.enqueue(image_key, ids)
                self.text_queue.enqueue(text_key, ids)
        return terms

    def _embed(self, features):
        vector = features["global"]
        # A tower without local features says all it has in one token.
        tokens = features.get("tokens", vector[:, None, :])
        mask = features.get("mask", ops.ones_like(tokens[:, :, 0], dtype="bool"))
        return {"embedding": unit_rows(vector), "tokens": tokens, "mask": mask}

    def _with_queues(self, image_key, text_key, ids):
        """Keys of the batch first, then those of the queues: `(C, D)` twice and their ids `(C,)`."""
        if not self.queue_size:
            return image_key, text_key, ids
        # Both queues are written together, so that their ids are the same.
        return (
            ops.concatenate([image_key, self.image_queue.features()]),
            ops.concatenate([text_key, self.text_queue.features()]),
            ops.concatenate([ids, self.image_queue.ids()]),
        )

    def _distillation(self):
        if not self.distillation_ramp_steps:
            return self.distillation_weight
        done = ops.cast(self.steps(), "float32") / self.distillation_ramp_steps
        return self.distillation_weight * ops.minimum(done, 1.0)

    def _local_mutual_information(self, image, text, momentum, tau, ids):
        total = 0.0
        if "image_tokens" in momentum:
            tokens, mask = self._pooled_cells(momentum["image_tokens"], momentum["image_mask"])
            total += local_mutual_information(image, unit_rows(tokens), mask, tau, self.lmim_estimator, ids)
        if "text_tokens" in momentum:
            # Without the start token, which is no word.
            tokens, mask = momentum["text_tokens"][:, 1:], momentum["text_mask"][:, 1:]
            total += local_mutual_information(text, unit_rows(tokens), mask, tau, self.lmim_estimator, ids)
        return total / 2

    def _pooled_cells(self, tokens, mask):
        if not self.local_pool_size or self.backbone.image_tower.input_key != "images":
            return tokens, mask
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1] or side % self.local_pool_size:
            raise ValueError(
                f"local_pool_size {self.local_pool_size} needs a square grid whose side it divides, "
                f"but the image tower has {tokens.shape[1]} local features."
            )
        cells = ops.reshape(tokens, (-1, side, side, tokens.shape[-1]))
        cells = ops.average_pool(cells, self.local_pool_size, self.local_pool_size, data_format="channels_last")
        return ops.reshape(cells, (-1, cells.shape[1] * cells.shape[2], cells.shape[3])), None

    def _matching(self, image_features, text_features, to_text, to_image, ids, training):
        """ITM on the matched pairs, each image with a negative caption, each caption with a negative image."""
        draw = self.sampler if training else self.sampler.hardest
        caption, image_has_one = draw(to_text, ids)
        photo, text_has_one = draw(to_image, ids)
        images = {key: ops.concatenate([x, ops.take(x, photo, axis=0), x]) for key, x in image_features.items()}
        texts = {key: ops.concatenate([x, x, ops.take(x, caption, axis=0)]) for key, x in text_features.items()}
        logits = self._matching_logits(images, texts, training)
        labels = [
            ops.ones_like(photo),
            ops.where(text_has_one, 0, -1),
            ops.where(image_has_one, 0, -1),
        ]
        return image_text_matching(logits, ops.concatenate([ops.cast(label, "int32") for label in labels]))

    def _matching_logits(self, image_features, text_features, training=False):
        fused = self.fusion(
            text_features["tokens"],
            image_features["tokens"],
            text_mask=text_features["mask"],
            image_mask=image_features["mask"],
            training=training,
        )
        return self.matching_head(fused[:, 0])

    def get_config(self):
        return {
            **super().get_config(),
            "queue_size": self.queue_size,
            "momentum": self.momentum,
            "temperature": self.temperature,
            "temperature_range": self.temperature_range,
            "distillation_weight": self.distillation_weight,
            "distillation_ramp_steps": self.distillation_ramp_steps,
            "lmim_estimator": self.lmim_estimator,
            "local_pool_size": self.local_pool_size,
            "fusion_layers": self.fusion_layers,
            "fusion_heads": self.fusion_heads,
            "fusion_hidden_dim": self.fusion_hidden_dim,
            "fusion_intermediate_dim": self.fusion_intermediate_dim,
            "fusion_dropout": self.fusion_dropout,
            "itc_weight": self.itc_weight,
            "ims_weight": self.ims_weight,
            "lmim_weight": self.lmim_weight,
            "itm_weight": self.itm_weight,
            "rerank_top_k": self.rerank_top_k,
            "rerank_mode": self.rerank_mode,
        }


def _second_views(inputs):
    """The inputs with their second views in place of the first."""
    second = {key.removesuffix(SECOND_VIEW): x for key, x in inputs.items() if key.endswith(SECOND_VIEW)}
    return {**inputs, **second}


def _soft_targets(query, keys, tau, key_ids):
    """Probabilities `(B, C)` of momentum queries over the keys, 0 at empty slots."""
    similarity = ops.matmul(query, ops.transpose(keys)) / tau
    return ops.softmax(ops.where(key_ids != -1, similarity, -1e9), axis=-1)


def _check_local_width(backbone):
    for tower in (backbone.image_tower, backbone.text_tower):
        if tower.token_dim not in (None, backbone.embedding_dim):
            raise ValueError(
                f"AAI compares embeddings of width {backbone.embedding_dim} with local features, but those of the "
                f"{tower.side} tower have width {tower.token_dim}: give both towers and the backbone one width."
            )
