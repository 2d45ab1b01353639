import keras
from keras import ops

from keras_itr.layers import RegionWordSimilarity, TrainingScalar, TransformerStack
from keras_itr.losses import consistent_multimodal_contrastive, hard_negative_triplet, same_image_pairs
from keras_itr.losses.pairs import masked_mean
from keras_itr.models.encoding import features_of, score_blocks
from keras_itr.models.freezing import FrozenWeights
from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.numerics import unit_rows, without_padding

# What each stage trains: the terms of the loss.
STAGES = {"local": ("local",), "global": ("inter", "intra"), "joint": ("inter", "intra", "local")}
MODES = ("mixed", "global", "local")
WHOLE_IMAGE, NOWHERE = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0)


@keras.saving.register_keras_serializable(package="keras_itr")
class TGDT(ImageTextRetriever):
    """Token-guided dual Transformer: one global vector and many local tokens of every image and caption.

    On either side the tower's tokens, led by one for the whole item, pass the
    local encoder, which gives the local tokens, and on top of it the global
    head, which gives the global vector. Images have no token for the whole: one
    is put before them.

    - global similarity `Sg = <g_v, g_t>`, local `Sl = alpha sum_w max_r <v_r, t_w>`;
    - `L = w_g inter + w_i intra + w_l local`: the two-way hinge of `Sg`, the
      agreement of the geometries (together the CMC loss), the two-way hinge of `Sl`;
    - the score is mixed, `w_l Sl + w_g Sg`. Search has two stages: `Sg` makes a
      shortlist, the mixed score orders it (`rerank`, `search.TwoStageSearch`).

    Training is staged or joint, see `set_training_stage`.

    Args:
        backbone: a `DualEncoderBackbone` whose towers have local features, such
            as `RegionTransformerTower` and `BertTextTower`. Its joint space is
            not used. The first token of a text is the start token, the last
            valid one the end token.
        embedding_dim: int, width E, default 1024. Towers of another width get a
            projection.
        local_layers, global_layers: int, Transformer layers of the local
            encoders and of the global heads, default 2 each.
        num_heads: int, default 4.
        intermediate_dim: int, default 2048.
        dropout: float, default 0.1.
        share_local_encoder: bool, default False: one local encoder on both sides.
        global_token: the token of a whole image: `"zeros"` (default), `"mean"`
            of the regions with a box of the whole image, or `"learned"`.
        use_padding_mask: bool, default True; False as in the official code, whose
            global heads read padding.
        margin: float, of both hinges, default 0.2.
        intra_margin: float, default 0.3.
        local_scale: float, alpha, default 10.
        hardest: bool, default True; False stays with all negatives. A warm-up
            (`keras_itr.training.HardestNegativeWarmup`) takes all for a while.
        global_weight, intra_weight, local_weight: float, default 1 each.
        top_k_image_to_text, top_k_text_to_image: int, lengths of the shortlists,
            default 50 captions of an image and 100 images of a caption.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`, over the mixed score.
        masked_value, trim_last_word: of `RegionWordSimilarity`, for parity with
            the official code.
        training_stage: see `set_training_stage`, default `"joint"`.

    Raises:
        ValueError: for a tower without local features, or an unknown
            `global_token` or stage.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RecurrentTextTower, RegionTransformerTower
    from keras_itr.models import TGDT, DualEncoderBackbone

    backbone = DualEncoderBackbone(
        RegionTransformerTower(32, 16, num_layers=1, intermediate_dim=32, grid=(2, 2)),
        RecurrentTextTower(50, 16, word_dim=8, pooling="mean"),
    )
    model = TGDT(backbone, embedding_dim=16, local_layers=1, global_layers=1, intermediate_dim=32)
    model.compile(optimizer="adam")
    regions = np.random.normal(size=(8, 4, 32)).astype("float32")
    token_ids = np.random.randint(4, 50, (8, 6)).astype("int32")
    model.fit({"regions": regions, "token_ids": token_ids, "image_id": np.arange(8, dtype="int32")}, batch_size=4)
    model.score({"regions": regions}, {"token_ids": token_ids}, mode="local").shape  # (8, 8)
    ```

    Reference: Liu et al., Efficient Token-Guided Image-Text Retrieval with
    Consistent Multimodal Contrastive Training, IEEE TIP 32, 2023, in the form of
    the official code. Stages, masks in the heads, pairs of one image as no
    negatives of each other, and acting weights are our choice.
    """

    dot_product = False
    second_stage = True
    training_stages = tuple(STAGES)

    def __init__(
        self,
        backbone,
        embedding_dim=1024,
        local_layers=2,
        global_layers=2,
        num_heads=4,
        intermediate_dim=2048,
        dropout=0.1,
        share_local_encoder=False,
        global_token="zeros",
        use_padding_mask=True,
        margin=0.2,
        intra_margin=0.3,
        local_scale=10.0,
        hardest=True,
        global_weight=1.0,
        intra_weight=1.0,
        local_weight=1.0,
        top_k_image_to_text=50,
        top_k_text_to_image=100,
        preprocessor=None,
        plugins=(),
        masked_value="-inf",
        trim_last_word=False,
        training_stage="joint",
        **kwargs,
    ):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        image_tower, text_tower = backbone.image_tower, backbone.text_tower
        for tower in (image_tower, text_tower):
            if tower.token_dim is None:
                raise ValueError(f"TGDT compares local features, and {type(tower).__name__} has none.")
        if global_token not in ("zeros", "mean", "learned"):
            raise ValueError(f"global_token must be 'zeros', 'mean' or 'learned', received {global_token!r}.")

        def stack(layers, name):
            return TransformerStack(embedding_dim, layers, num_heads, intermediate_dim, dropout, name=name)

        # Layers.
        self.image_projection = _projection(image_tower.token_dim, embedding_dim, "image_projection")
        self.text_projection = _projection(text_tower.token_dim, embedding_dim, "text_projection")
        self.text_local_encoder = stack(local_layers, "text_local_encoder")
        self.image_local_encoder = (
            self.text_local_encoder if share_local_encoder else stack(local_layers, "image_local_encoder")
        )
        self.image_global_head = stack(global_layers, "image_global_head")
        self.text_global_head = stack(global_layers, "text_global_head")
        self.region_word_similarity = RegionWordSimilarity(
            scale=local_scale, masked_value=masked_value, trim_last_word=trim_last_word, name="region_word_similarity"
        )
        self.warmup = TrainingScalar(name="warmup")
        self.learned_token = None
        if global_token == "learned":
            width = image_tower.feature_dim if image_tower.takes_global_row else image_tower.token_dim
            self.learned_token = self.add_weight(shape=(width,), initializer="zeros", name="learned_token")
        # Configuration.
        self.embedding_dim = embedding_dim
        self.local_layers = local_layers
        self.global_layers = global_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.share_local_encoder = share_local_encoder
        self.global_token = global_token
        self.use_padding_mask = use_padding_mask
        self.margin = margin
        self.intra_margin = intra_margin
        self.local_scale = local_scale
        self.hardest = hardest
        self.global_weight = global_weight
        self.intra_weight = intra_weight
        self.local_weight = local_weight
        self.top_k_image_to_text = top_k_image_to_text
        self.top_k_text_to_image = top_k_text_to_image
        self.masked_value = masked_value
        self.trim_last_word = trim_last_word
        self.declare_terms({"inter": global_weight, "intra": intra_weight, "local": local_weight}, plugins=plugins)
        self.idle_weights = FrozenWeights()
        self.set_training_stage(training_stage)

    def set_training_stage(self, stage):
        """Choose what is trained; compile afterwards, since an optimizer belongs to the weights it was made for.

        | stage | trained | terms | the rest |
        |---|---|---|---|
        | `"local"` | backbone, projections, local encoders | `local` | |
        | `"global"` | the two global heads | `inter`, `intra` | frozen, without dropout |
        | `"joint"` | everything | all three | |

        What was frozen otherwise, such as the network of a tower, stays frozen in every stage.

        Args:
            stage: one of the three. Saved with the configuration.

        Raises:
            ValueError: for another stage.
        """
        if stage not in STAGES:
            raise ValueError(f"the training stage must be one of {', '.join(map(repr, STAGES))}, received {stage!r}.")
        self.training_stage = stage
        heads = [self.image_global_head, self.text_global_head]
        below = [layer for layer in self._layers_to_train() if layer not in heads]
        idle = {"local": heads, "global": below, "joint": []}[stage]
        self.idle_weights.thaw()
        self.idle_weights.freeze([weight for layer in idle for weight in layer.variables])
        if self.learned_token is not None and stage == "global":
            self.idle_weights.freeze([self.learned_token])
        self.idle_terms = tuple(term for term in STAGES["joint"] if term not in STAGES[stage])
        self.compiled = False

    def encode_images(self, inputs, training=False):
        below = training and self.training_stage != "global"
        tower = self.backbone.image_tower
        if tower.takes_global_row:
            features = tower(self._led_by_whole(inputs), training=below)
            tokens, mask = features["tokens"], features["mask"]
        else:
            features = tower(inputs, training=below)
            whole = self._whole_image(features["tokens"], features["mask"])
            tokens, mask = _prepend(whole, features["tokens"]), _prepend_valid(features["mask"])
        encoders = self.image_projection, self.image_local_encoder, self.image_global_head
        embedding, tokens = self._branch(tokens, mask, *encoders, below, training)
        return {"embedding": embedding, "tokens": tokens, "mask": mask[:, 1:]}

    def encode_texts(self, inputs, training=False):
        below = training and self.training_stage != "global"
        features = self.backbone.text_tower(inputs, training=below)
        mask = features["mask"]
        encoders = self.text_projection, self.text_local_encoder, self.text_global_head
        embedding, tokens = self._branch(features["tokens"], mask, *encoders, below, training)
        # A word is a valid position between the start token and the end token, the last valid one.
        followed = ops.concatenate([mask[:, 2:], ops.zeros_like(mask[:, :1])], axis=1)
        return {"embedding": embedding, "tokens": tokens, "mask": ops.logical_and(mask[:, 1:], followed)}

    def similarity(self, image_features, text_features, mode="mixed"):
        """`(I, T)` similarity: `"mixed"`, `"global"` or `"local"`."""
        coarse = super().similarity(image_features, text_features)
        if mode == "global":
            return coarse
        local = self._local_similarity(self.region_word_similarity, image_features, text_features)
        return local if mode == "local" else self.mixed(coarse, local)

    def pair_scores(self, image_features, text_features):
        coarse = ops.sum(image_features["embedding"] * text_features["embedding"], axis=-1)
        return self.mixed(
            coarse, self._local_similarity(self.region_word_similarity.pairs, image_features, text_features)
        )

    def shortlist_lengths(self):
        return self.top_k_image_to_text, self.top_k_text_to_image

    def pair_cost(self, regions, words):
        return regions * words * self.embedding_dim

    def mixed(self, coarse, local):
        """The mixed score of global and local similarities of any one shape."""
        return self.local_weight * local + self.global_weight * coarse

    def objectives(self, image_features, text_features, inputs, training=False):
        positives = same_image_pairs(self.image_ids(inputs, required=False))
        hardest = ops.equal(self.warmup(), 0.0) if self.hardest else False
        terms = {}
        if self.training_stage != "local":
            terms = consistent_multimodal_contrastive(
                image_features["embedding"],
                text_features["embedding"],
                self.margin,
                self.intra_margin,
                hardest,
                positives,
            )
        if self.training_stage != "global":
            local = self._local_similarity(self.region_word_similarity, image_features, text_features)
            terms["local"] = hard_negative_triplet(local, self.margin, hardest, positives=positives)
        return terms

    def score(self, images, texts, mode="mixed", batch_size=64, verbose=True):
        """Similarity of every image with every text.

        Args:
            images, texts: as for `embed_images` and `embed_texts`, or the features of `search.TwoStageSearch`.
            mode: `"mixed"` (default), `"global"` or `"local"`.
            batch_size: int, rows encoded, and scored, at a time.
            verbose: bool, a progress bar on work over two seconds.

        Returns:
            float32 NumPy array `(I, T)`.

        Raises:
            ValueError: for another mode.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, received {mode!r}.")
        image = features_of(self, "image", images, batch_size, verbose)
        text = features_of(self, "text", texts, batch_size, verbose)
        return score_blocks(self, image, text, batch_size, verbose, mode=mode)

    # Parts.

    def _branch(self, tokens, mask, projection, local_encoder, global_head, below, training):
        """Tower tokens to the global unit vector `(B, E)` and the local unit tokens `(B, N - 1, E)`."""
        tokens = tokens if projection is None else projection(tokens)
        if self.use_padding_mask:
            # The official heads read it.
            tokens = without_padding(tokens, mask)
        tokens = local_encoder(tokens, mask, training=below)
        whole = global_head(tokens, mask if self.use_padding_mask else None, training=training)[:, 0]
        return unit_rows(whole), unit_rows(tokens[:, 1:])

    def _local_similarity(self, similarity, image_features, text_features):
        return similarity(
            image_features["tokens"], text_features["tokens"], image_features["mask"], text_features["mask"]
        )

    def _led_by_whole(self, inputs):
        """The inputs with one more region, box and mask entry in front, for the image as a whole."""
        tower = self.backbone.image_tower
        regions, mask = inputs["regions"], tower.mask_of(inputs, "region_mask", inputs["regions"])
        boxes = tower.boxes_of(inputs)
        box = ops.broadcast_to(
            ops.convert_to_tensor(WHOLE_IMAGE if self.global_token == "mean" else NOWHERE, boxes.dtype),
            ops.shape(boxes[:, 0]),
        )
        return {
            **inputs,
            "regions": _prepend(self._whole_image(regions, mask), regions),
            "region_boxes": _prepend(box, boxes),
            "region_mask": _prepend_valid(mask),
        }

    def _whole_image(self, rows, mask):
        """`(B, D)`, the row of the whole image before those of its regions."""
        if self.global_token == "mean":
            return masked_mean(rows, mask[:, :, None], axis=1)
        empty = ops.zeros_like(rows[:, 0])
        return empty if self.learned_token is None else empty + self.learned_token

    def _layers_to_train(self):
        layers = (
            self.backbone,
            self.image_projection,
            self.text_projection,
            self.image_local_encoder,
            self.text_local_encoder,
            self.image_global_head,
            self.text_global_head,
        )
        return [layer for layer in layers if layer is not None]

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "local_layers": self.local_layers,
            "global_layers": self.global_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "share_local_encoder": self.share_local_encoder,
            "global_token": self.global_token,
            "use_padding_mask": self.use_padding_mask,
            "margin": self.margin,
            "intra_margin": self.intra_margin,
            "local_scale": self.local_scale,
            "hardest": self.hardest,
            "global_weight": self.global_weight,
            "intra_weight": self.intra_weight,
            "local_weight": self.local_weight,
            "top_k_image_to_text": self.top_k_image_to_text,
            "top_k_text_to_image": self.top_k_text_to_image,
            "masked_value": self.masked_value,
            "trim_last_word": self.trim_last_word,
            "training_stage": self.training_stage,
        }


def _projection(width, embedding_dim, name):
    if width == embedding_dim:
        return None
    projection = keras.layers.Dense(embedding_dim, name=name)
    projection.build((None, None, width))
    return projection


def _prepend(row, rows):
    """`row` `(B, D)` before `rows` `(B, N, D)`."""
    return ops.concatenate([ops.cast(row, rows.dtype)[:, None], rows], axis=1)


def _prepend_valid(mask):
    return ops.concatenate([ops.ones_like(mask[:, :1]), mask], axis=1)
