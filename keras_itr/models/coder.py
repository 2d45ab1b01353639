import math

import keras
from keras import ops

from keras_itr.layers import (
    ConceptGraphEncoder,
    ConceptQuery,
    FeatureQueue,
    MomentumTwin,
    OnlineCodes,
    TrainingScalar,
)
from keras_itr.losses import (
    batch_diversity_contrastive,
    diversity_sensitive_contrastive,
    negative_weights,
    pseudo_label_prediction,
    same_image_pairs,
)
from keras_itr.losses.coder import check_diversity
from keras_itr.losses.pairs import dot_products, masked
from keras_itr.models.retriever import ImageTextRetriever
from keras_itr.numerics import unit_rows


@keras.saving.register_keras_serializable(package="keras_itr")
class CODER(ImageTextRetriever):
    """Momentum dictionaries, negatives that weigh themselves, and concepts: a CODER-style model.

    Only the abstract of the paper was at hand: this is our design along it, no
    reproduction. Two branches see every item. The instance branch is the
    backbone's unit embedding `v` (of a caption `t`). The concept branch asks a
    matrix of concept vectors, made by a graph network from the co-occurrence
    of words in training captions, for a descriptor `u`. Dictionaries of
    momentum keys feed both; pseudo labels clustered online from the instance
    branch are predicted by the concept branch.

    `L = DCL(instance) + w_c DCL(concept) + w_p L_pl + w_b DCL(instance, in the batch)`

    with the diversity-sensitive contrastive loss (DCL) of
    `keras_itr.losses.diversity_sensitive_contrastive`. While the dictionaries
    are young, in the warm-up (`keras_itr.training.ObjectiveWarmup`), the last
    term trains alone.

    The score is `a v.t + (1 - a) u_v.u_t`, one dot product of the exported
    vectors `[sqrt(a) v, sqrt(1 - a) u]` of width 2 D. Momentum twins and
    dictionaries are for training alone and not part of a preset.

    Args:
        backbone: a `DualEncoderBackbone`; D is its width.
        graph: a `keras_itr.data.ConceptGraph`, the path of one, a dict with
            `"embeddings"` `(K, E)` and `"propagation"` `(K, K)`, or the pair
            `(K, E)` of a model whose weights will be loaded.
        queue_size: int, slots of each dictionary, default 4096.
        momentum: float, of the twins, default 0.999.
        mu: float, sharpness of the negative weights, default 90.
        gamma: float, similarity at which a negative starts to push, default 0.5.
        concept_weight: float, w_c, default 1; with `label_weight` 0 as well
            there is no concept branch, and vectors have width D.
        label_weight: float, w_p, default 1.
        batch_weight: float, w_b, default 1; 20 on Flickr30K.
        instance_weight: float, a, default 0.9.
        num_prototypes: int, clusters of the pseudo labels, default 300.
        mask_same_image: bool, default True: dictionary entries of the query's
            own image (`"image_id"`) are no negatives.
        code_epsilon: float, of the assignment to clusters, default 0.05; smaller
            makes labels harder. The wider the embeddings, the smaller their
            products with a cluster centre: 0.02 is about right for D = 512.
        swap: bool, default False; True: the image's code supervises the
            caption's descriptor and the other way round.
        positive, weighting, temperature: of the DCL over the dictionaries.
        preprocessor: a `RetrievalPreprocessor` for raw images and strings.
        plugins: such as `(SoftLabelAlignment(),)`.

    Raises:
        ValueError: for an `instance_weight` outside 0..1, a `queue_size`,
            `num_prototypes` or `mu` of 0 or less, an unknown `positive` or
            `weighting`, or in training without `"image_id"`.

    Example:

    ```python
    import numpy as np
    from keras_itr.data import ConceptGraph
    from keras_itr.layers import RegionTower, SentenceFeatureTower
    from keras_itr.models import CODER, DualEncoderBackbone

    graph = ConceptGraph.from_captions(["a man riding a horse", "a brown horse", "a man and a dog"], num_concepts=5)
    backbone = DualEncoderBackbone(RegionTower(32, 16), SentenceFeatureTower(24, 16))
    model = CODER(backbone, graph, queue_size=16, num_prototypes=4)
    model.compile(optimizer="adam")
    draw = lambda *shape: np.random.normal(size=shape).astype("float32")
    data = {"regions": draw(8, 4, 32), "text_features": draw(8, 24), "image_id": np.arange(8, dtype="int32")}
    model.fit(data, batch_size=4)
    model.embed_images({"regions": draw(3, 4, 32)}).shape  # (3, 32)
    ```

    Reference: the abstract of Wang et al., CODER, ECCV 2022. Graph and query
    follow related code of Wang et al., CVSE, ECCV 2020; loss and dictionaries
    that of Zhang et al., USER, TIP 2024; the balancing of codes Caron et al.,
    SwAV, NeurIPS 2020. Pseudo labels and mixed inference are our choice.
    """

    def __init__(
        self,
        backbone,
        graph,
        queue_size=4096,
        momentum=0.999,
        mu=90.0,
        gamma=0.5,
        concept_weight=1.0,
        label_weight=1.0,
        batch_weight=1.0,
        instance_weight=0.9,
        num_prototypes=300,
        mask_same_image=True,
        swap=False,
        code_epsilon=0.05,
        positive="log1p",
        weighting="self",
        temperature=0.07,
        preprocessor=None,
        plugins=(),
        **kwargs,
    ):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        if not 0 <= instance_weight <= 1:
            raise ValueError(f"instance_weight must be from 0 to 1, received {instance_weight}.")
        if queue_size < 1:
            raise ValueError(f"queue_size must be 1 or more, CODER needs its dictionaries, received {queue_size}.")
        if label_weight and num_prototypes < 1:
            raise ValueError(f"num_prototypes must be 1 or more, received {num_prototypes}; or set label_weight to 0.")
        check_diversity(mu, positive, weighting)
        width = backbone.embedding_dim
        # Layers.
        self.momentum_backbone = MomentumTwin(backbone, momentum, name="momentum_backbone")
        self.image_queue = FeatureQueue(queue_size, width, name="image_queue")
        self.text_queue = FeatureQueue(queue_size, width, name="text_queue")
        self.warmup = TrainingScalar(name="warmup")
        self.has_concepts = bool(concept_weight or label_weight)
        if self.has_concepts:
            self.concepts = ConceptGraphEncoder(graph, width, name="concepts")
            self.image_query = self._query("image_query")
            self.text_query = self._query("text_query")
            self.momentum_image_query = MomentumTwin(self.image_query, momentum, name="momentum_image_query")
            self.momentum_text_query = MomentumTwin(self.text_query, momentum, name="momentum_text_query")
            self.image_concept_queue = FeatureQueue(queue_size, width, name="image_concept_queue")
            self.text_concept_queue = FeatureQueue(queue_size, width, name="text_concept_queue")
        self.codes = OnlineCodes(num_prototypes, width, code_epsilon, name="codes") if label_weight else None
        # Configuration.
        self.graph = self.concepts.graph if self.has_concepts else None
        self.queue_size = queue_size
        self.momentum = momentum
        self.mu = mu
        self.gamma = gamma
        self.concept_weight = concept_weight
        self.label_weight = label_weight
        self.batch_weight = batch_weight
        self.instance_weight = instance_weight
        self.num_prototypes = num_prototypes
        self.mask_same_image = mask_same_image
        self.swap = swap
        self.code_epsilon = code_epsilon
        self.positive = positive
        self.weighting = weighting
        self.temperature = temperature
        weights = {"dcl_concept": concept_weight, "pseudo_label": label_weight, "batch_dcl": batch_weight}
        self.declare_terms(
            {"dcl_instance": 1.0, **{name: weight for name, weight in weights.items() if weight}},
            monitors=("queue_fill", "effective_negatives"),
            plugins=plugins,
        )

    def fit(self, *args, **kwargs):
        if self.has_concepts:
            self.concepts.require_graph()
        return super().fit(*args, **kwargs)

    # Two branches, one vector.

    def encode_images(self, inputs, training=False):
        return self._both_branches(self.backbone.encode_images(inputs, training=training), "image")

    def encode_texts(self, inputs, training=False):
        return self._both_branches(self.backbone.encode_texts(inputs, training=training), "text")

    def _both_branches(self, features, side):
        vector = features["global"]
        instance = unit_rows(vector)
        if not self.has_concepts:
            return {"embedding": instance, "instance": instance, "global": vector}
        query = self.image_query if side == "image" else self.text_query
        concept, _ = query(instance, self.concepts())
        # The dot product of two such vectors is a v.t + (1 - a) u_v.u_t.
        scaled = [math.sqrt(self.instance_weight) * instance, math.sqrt(1 - self.instance_weight) * concept]
        embedding = ops.concatenate(scaled, axis=-1)
        return {"embedding": embedding, "instance": instance, "concept": concept, "global": vector}

    # Training.

    def objectives(self, image_features, text_features, inputs, training=False):
        ids = self.image_ids(inputs)
        if training:
            for twin in self._twins():
                twin.update()
        keys = self._keys(inputs)
        terms = {"dcl_instance": self._coupled("instance", image_features, text_features, keys, ids)}
        if self.concept_weight:
            terms["dcl_concept"] = self._coupled("concept", image_features, text_features, keys, ids)
        if self.label_weight:
            terms["pseudo_label"] = self._pseudo_labels(image_features, text_features)
        # In the warm-up the dictionaries fill, and the term inside the batch trains alone.
        terms = {name: (1.0 - self.warmup()) * term for name, term in terms.items()}
        if self.batch_weight:
            similarity = ops.matmul(image_features["instance"], ops.transpose(text_features["instance"]))
            positives = same_image_pairs(ids) if self.mask_same_image else None
            terms["batch_dcl"] = batch_diversity_contrastive(similarity, self.mu, self.gamma, positives)
        terms["queue_fill"] = ops.mean(ops.cast(self.text_queue.ids() != -1, "float32"))
        terms["effective_negatives"] = self._effective_negatives(image_features, text_features, ids)
        if training:
            for name, queue in self._queues().items():
                queue.enqueue(keys[name], ids)
        return terms

    def negative_weights(self, image_features, text_features, ids):
        """How much each dictionary entry pushes each query away: the weights that the loss finds by itself.

        Args:
            image_features, text_features: of `encode_images` and `encode_texts`.
            ids: `(B,)` int, image ids of the queries.

        Returns:
            dict of `"image_to_text"` and `"text_to_image"`, `(B, queue_size)`: a row
            sums to less than 1 and is zero at empty slots and the query's own image.
        """
        return {
            "image_to_text": self._weights(image_features, self.text_queue, ids),
            "text_to_image": self._weights(text_features, self.image_queue, ids),
        }

    def _keys(self, inputs):
        """Momentum features of this batch by the name of their dictionary."""
        momentum = self.momentum_backbone(inputs)
        keys = {f"{side}_instance": unit_rows(momentum[f"{side}_global"]) for side in ("image", "text")}
        if self.has_concepts:
            concepts = ops.stop_gradient(self.concepts())
            keys["image_concept"], _ = self.momentum_image_query(keys["image_instance"], concepts)
            keys["text_concept"], _ = self.momentum_text_query(keys["text_instance"], concepts)
        return keys

    def _coupled(self, branch, image_features, text_features, keys, ids):
        """DCL of one branch: images against the captions' dictionary and captions against the images'."""
        total = 0.0
        for features, other in ((image_features, "text"), (text_features, "image")):
            queue = self._queues()[f"{other}_{branch}"]
            total += diversity_sensitive_contrastive(
                features[branch],
                keys[f"{other}_{branch}"],
                queue.features(),
                self._valid(queue, ids),
                self.mu,
                self.gamma,
                self.positive,
                self.weighting,
                self.temperature,
            )
        return total

    def _pseudo_labels(self, image_features, text_features):
        """The concept branch predicts the codes that the instance branch is clustered into."""
        image_codes = self._assigned(image_features, self.image_queue)
        text_codes = self._assigned(text_features, self.text_queue)
        if self.swap:
            image_codes, text_codes = text_codes, image_codes
        prototypes, temperature = self.codes.prototypes, self.codes.temperature
        return pseudo_label_prediction(
            image_features["concept"], image_codes, prototypes, temperature
        ) + pseudo_label_prediction(text_features["concept"], text_codes, prototypes, temperature)

    def _assigned(self, features, queue):
        # A batch is smaller than the number of prototypes: the dictionary makes an equal share mean something.
        return self.codes.assign(features["instance"], queue.features(), queue.ids() != -1)

    def _valid(self, queue, ids):
        # An id that no slot holds leaves out the empty slots alone.
        return queue.valid_for(ids if self.mask_same_image else ops.full_like(ids, -1))

    def _weights(self, features, queue, ids):
        return negative_weights(features["instance"], queue.features(), self._valid(queue, ids), self.mu, self.gamma)

    def _effective_negatives(self, image_features, text_features, ids):
        """`1 / sum_m (w_im / sum w)^2`, the mean over queries: of how many entries a push is made."""
        counts = [
            self._entries(features, queue, ids)
            for features, queue in ((image_features, self.text_queue), (text_features, self.image_queue))
        ]
        return ops.mean(ops.stack(counts))

    def _entries(self, features, queue, ids):
        """`(B,)` of `1 / sum_m share_im^2`, 0 for a query without a valid entry."""
        valid = self._valid(queue, ids)
        # Shares are a softmax: far below gamma the weights themselves vanish in float32.
        exponents = self.mu * dot_products(features["instance"], queue.features())
        shares = ops.softmax(masked(exponents, valid), axis=-1)
        return ops.where(ops.any(valid, axis=-1), 1.0 / ops.sum(ops.square(shares), axis=-1), 0.0)

    def _twins(self):
        concepts = (self.momentum_image_query, self.momentum_text_query) if self.has_concepts else ()
        return (self.momentum_backbone, *concepts)

    def _queues(self):
        queues = {"image_instance": self.image_queue, "text_instance": self.text_queue}
        if self.has_concepts:
            queues |= {"image_concept": self.image_concept_queue, "text_concept": self.text_concept_queue}
        return queues

    def _query(self, name):
        query = ConceptQuery(self.backbone.embedding_dim, name=name)
        query.build((None, self.backbone.embedding_dim), (None, self.backbone.embedding_dim))
        return query

    def get_config(self):
        return {
            **super().get_config(),
            "graph": self.graph,
            "queue_size": self.queue_size,
            "momentum": self.momentum,
            "mu": self.mu,
            "gamma": self.gamma,
            "concept_weight": self.concept_weight,
            "label_weight": self.label_weight,
            "batch_weight": self.batch_weight,
            "instance_weight": self.instance_weight,
            "num_prototypes": self.num_prototypes,
            "mask_same_image": self.mask_same_image,
            "swap": self.swap,
            "code_epsilon": self.code_epsilon,
            "positive": self.positive,
            "weighting": self.weighting,
            "temperature": self.temperature,
        }
