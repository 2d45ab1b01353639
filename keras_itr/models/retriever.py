import types

import keras
from keras import ops

from keras_itr.models.backbone import DualEncoderBackbone
from keras_itr.models.encoding import features_of, run_encoder, score_blocks, score_pairs
from keras_itr.models.freezing import settle_frozen_layers
from keras_itr.models.image_ids import checked_ids
from keras_itr.models.stored_task import StoredTask
from keras_itr.preprocessing import (
    CLIPTokenizer,
    RetrievalImageConverter,
    RetrievalPreprocessor,
    WordPieceTokenizer,
    WordTokenizer,
)

# keras-hub finds the parts of a preset by the class of its backbone.
for _part in (CLIPTokenizer, RetrievalImageConverter, RetrievalPreprocessor, WordPieceTokenizer, WordTokenizer):
    _part.backbone_cls = DualEncoderBackbone


@keras.saving.register_keras_serializable(package="keras_itr")
class ImageTextRetriever(StoredTask):
    """The contract of every method: two encoders, a similarity, named objectives.

    A method is a subclass that says these things, all in backend tensors:

    - its layers and its terms (`declare_terms`), in the constructor;
    - `encode_images` and `encode_texts`: inputs to a dict with `"embedding"`
      `(B, D)`, unit rows, and where a second stage needs them `"tokens"` and
      `"mask"`;
    - `similarity`: two such dicts to `(I, T)`, the dot product by default
      (another one sets `dot_product = False`);
    - `pair_scores`, where there is a second stage (`second_stage = True`): the
      slow and better score of matched rows, for pairs out of a shortlist;
    - `objectives`: a dict of named scalars. Those with a weight make up the
      loss, all of them are metrics.

    The rest is done here, once. Training is plain `compile()` and `fit()` on the
    three backends through `compute_loss`; raw images and strings are
    preprocessed on the way when there is a preprocessor, and arrays of model
    inputs need none.

    Args:
        backbone: a `DualEncoderBackbone`.
        preprocessor: a `RetrievalPreprocessor`, or None for model inputs only.

    Example: see `keras_itr.models.CLIP`.
    """

    backbone_cls = DualEncoderBackbone
    preprocessor_cls = RetrievalPreprocessor
    dot_product = True
    second_stage = False
    no_second_stage = "score() is all there is."
    # Terms that a training stage leaves out: neither computed, nor part of the loss, nor shown.
    idle_terms = ()

    def __init__(self, backbone, preprocessor=None, **kwargs):
        super().__init__(compile=False, **kwargs)
        self.backbone = backbone
        self.preprocessor = preprocessor
        # Compiled encoders, in an object that weight tracking does not enter.
        self.compiled_encoders = types.SimpleNamespace()

    # What a method says.

    def encode_images(self, inputs, training=False):
        raise NotImplementedError(f"{type(self).__name__} must define encode_images.")

    def encode_texts(self, inputs, training=False):
        raise NotImplementedError(f"{type(self).__name__} must define encode_texts.")

    def similarity(self, image_features, text_features):
        """`(I, T)` similarity of two dicts of features: the dot product of their embeddings."""
        return ops.matmul(image_features["embedding"], ops.transpose(text_features["embedding"]))

    def pair_scores(self, image_features, text_features):
        """`(P,)` second-stage scores of matched rows: row `p` of one dict with row `p` of the other.

        The axes before those of one item broadcast, as in `(Q, 1, ...)` queries with `(Q, K, ...)` candidates.
        """
        raise NotImplementedError(f"{type(self).__name__} has no second stage: {self.no_second_stage}")

    def prepare_candidates(self, side, features):
        """The features of a gallery as `pair_scores` takes them with the least work for each pair; one row per item.

        As they are, by default. A method overrides it where an item brings the same products to all its pairs.
        """
        return features

    def shortlist_lengths(self):
        """The method's own lengths of shortlists: captions of an image, images of a caption."""
        return self.rerank_top_k, self.rerank_top_k

    def pair_cost(self, regions, words):
        """Multiply-adds of the second-stage score of one pair of so many regions and words, or None if not known."""
        return None

    def objectives(self, image_features, text_features, inputs, training=False):
        raise NotImplementedError(f"{type(self).__name__} must define objectives.")

    def declare_terms(self, term_weights, monitors=(), plugins=()):
        """Name the terms of the loss; called once, at the end of a method's constructor.

        Args:
            term_weights: dict of name to weight in the loss.
            monitors: names of further values that `objectives` returns.
            plugins: plug-ins whose terms are added.
        """
        settle_frozen_layers(self.backbone)
        if not isinstance(plugins, list | tuple) or not all(map(_is_plugin, plugins)):
            raise ValueError(f"plugins must be a tuple such as (SoftLabelAlignment(),), received {plugins!r}.")
        self.plugins = list(plugins)
        self.term_weights = dict(term_weights)
        names = [*term_weights, *monitors]
        for plugin in self.plugins:
            if not plugin.built:
                plugin.build((None, getattr(self, "embedding_dim", self.backbone.embedding_dim)))
            names += [*plugin.term_weights, *plugin.monitors]
            self.term_weights.update(plugin.term_weights)
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{type(self).__name__} and its plug-ins have two objectives called {sorted(twice)[0]!r}.")
        self.term_metrics = [keras.metrics.Mean(name=name) for name in names]
        self.built = True

    # Training.

    def call(self, inputs, training=False):
        """The features of the sides whose inputs are there: dict with `"image"` and `"text"`."""
        features = {}
        if self.backbone.image_tower.input_key in inputs:
            features["image"] = self.encode_images(inputs, training=training)
        if self.backbone.text_tower.input_key in inputs:
            features["text"] = self.encode_texts(inputs, training=training)
        return features

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        for side in ("image", "text"):
            if side not in y_pred:
                key = getattr(self.backbone, f"{side}_tower").input_key
                raise ValueError(f"training needs {key!r} in the inputs, received {', '.join(map(repr, x))}.")
        image, text = y_pred["image"], y_pred["text"]
        terms = dict(self.objectives(image, text, x, training=training))
        for plugin in self.plugins:
            terms.update(plugin.objectives(self.similarity(image, text), image, text, x, training))
        for metric in self.term_metrics:
            if metric.name not in self.idle_terms:
                metric.update_state(terms[metric.name])
        weighted = [weight * terms[name] for name, weight in self.term_weights.items() if name not in self.idle_terms]
        return sum(weighted[1:], weighted[0])

    def zero_grad(self, set_to_none=True):
        """Drop the gradients of all variables; PyTorch's trainer calls it before every backward pass.

        Keras registers variables with PyTorch by their paths, and those of layers that were built by themselves repeat
        in one model: PyTorch's own method would leave the gradients of all but one to add up from step to step.
        """
        for variable in self.variables:
            variable.value.grad = None

    @property
    def metrics(self):
        return [metric for metric in super().metrics if metric.name not in self.idle_terms]

    # Once a functional task of keras-hub exists, Keras rewires the class that all tasks share; these two keep
    # a functional model's versions away, which look for a graph.

    @property
    def layers(self):
        return [layer for layer in keras.Model.layers.fget(self) if layer is not self.preprocessor]

    def _assert_input_compatibility(self, arg_0):
        """Nothing to check: any subset of the inputs will do."""

    def fit(self, x=None, *args, **kwargs):
        _check_arrays(x)
        missing, self.missing_weights = self.missing_weights, None
        try:
            if self.preprocessor is not None:
                return super().fit(x, *args, **kwargs)
            # keras-hub's own fit would pass arrays through a data library; plain Keras needs none.
            return keras.Model.fit(self, x, *args, **kwargs)
        except Exception:
            self.missing_weights = missing
            raise
        finally:
            # Its callback does not come to it where training is interrupted.
            if hasattr(self, "warmup"):
                self.warmup.reset()

    def evaluate(self, x=None, *args, **kwargs):
        _check_arrays(x)
        if self.preprocessor is not None:
            return super().evaluate(x, *args, **kwargs)
        return keras.Model.evaluate(self, x, *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        self.require_weights("predict")
        if self.preprocessor is not None:
            return super().predict(x, *args, **kwargs)
        return keras.Model.predict(self, x, *args, **kwargs)

    def image_ids(self, inputs, required=True):
        """`"image_id"` of the inputs as a `(B,)` int32 tensor: every method reads it here.

        Args:
            inputs: dict of model inputs.
            required: bool, default True, for methods that tell keys of earlier batches apart by it; False: None where
                it is absent.

        Raises:
            ValueError: if it is required and absent, or not one integer per pair.
        """
        if "image_id" in inputs:
            return checked_ids(inputs["image_id"])
        if not required:
            return None
        received = ", ".join(map(repr, inputs))
        raise ValueError(f"{type(self).__name__} needs 'image_id' in training, received {received}.")

    # Use.

    def embed_images(self, x, cross_modal=True, batch_size=64, verbose=True):
        """Unit vectors of images.

        Args:
            x: dict of model inputs (`{"regions": ...}`, `{"images": ...}`), or a
                list of paths, encoded bytes or pixel arrays `(H, W, 3)`, or one
                uint8 array `(N, H, W, 3)`.
            cross_modal: bool, default True: vectors for image-text search; False:
                for image-image search, where the method has such vectors.
            batch_size: int, default 64.
            verbose: bool, default True: a progress bar on work over two seconds.

        Returns:
            float32 NumPy array `(N, D)`.

        Raises:
            ValueError: if the model has no trained weights, or no preprocessor for
                raw images.
        """
        what = "embedding" if cross_modal else "uni_modal"
        return run_encoder(self, "image", what, x, batch_size, verbose)[what]

    def embed_texts(self, x, cross_modal=True, batch_size=64, verbose=True):
        """Unit vectors of captions; `x` is a list of strings or a dict of model inputs. See `embed_images`."""
        what = "embedding" if cross_modal else "uni_modal"
        return run_encoder(self, "text", what, x, batch_size, verbose)[what]

    @property
    def uni_modal(self):
        """Whether there are vectors of their own for image-image and text-text search, see `embed_images`."""
        return any(hasattr(plugin, "encode_texts") for plugin in self.plugins)

    def uni_modal_images(self, image_features):
        """Unit vectors `(B, D)` for image-image search, from the features of `encode_images`."""
        return self._uni_modal("encode_images")(image_features)

    def uni_modal_texts(self, text_features):
        """Unit vectors `(B, D)` for text-text search, from the features of `encode_texts`."""
        return self._uni_modal("encode_texts")(text_features)

    def score(self, images, texts, batch_size=64, verbose=True):
        """Similarity of every image with every text.

        Args:
            images, texts: as for `embed_images` and `embed_texts`; of a model whose
                score is no dot product also the features of `TwoStageSearch`.
            batch_size: int, rows encoded, and scored, at a time.
            verbose: bool, a progress bar on work over two seconds.

        Returns:
            float32 NumPy array `(I, T)`.
        """
        if self.dot_product:
            image = self.embed_images(images, batch_size=batch_size, verbose=verbose)
            return image @ self.embed_texts(texts, batch_size=batch_size, verbose=verbose).T
        image = features_of(self, "image", images, batch_size, verbose)
        text = features_of(self, "text", texts, batch_size, verbose)
        return score_blocks(self, image, text, batch_size, verbose)

    def rerank(self, images, texts, pairs, batch_size=256, verbose=True):
        """Second-stage score of given pairs, where the method has one.

        Args:
            images, texts: as for `embed_images` and `embed_texts`, or the features
                of `search.TwoStageSearch`.
            pairs: `(P, 2)` int, rows of `images` and of `texts`.
            batch_size: int, pairs scored at a time.
            verbose: bool, a progress bar on work over two seconds.

        Returns:
            float32 NumPy array `(P,)`.

        Raises:
            NotImplementedError: if the method has no second stage.
            ValueError: if `pairs` has another shape or names a row that is not there.
        """
        if not self.second_stage:
            raise NotImplementedError(f"{type(self).__name__} has no second stage: {self.no_second_stage}")
        image = features_of(self, "image", images, verbose=verbose)
        text = features_of(self, "text", texts, verbose=verbose)
        return score_pairs(self, image, text, pairs, batch_size, verbose)

    # Configuration.

    def get_config(self):
        return {
            **super().get_config(),
            "plugins": [keras.saving.serialize_keras_object(plugin) for plugin in self.plugins],
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("plugins"), list | tuple):
            config["plugins"] = [
                keras.saving.deserialize_keras_object(plugin) if isinstance(plugin, dict) else plugin
                for plugin in config["plugins"]
            ]
        return super().from_config(config)

    def _uni_modal(self, method):
        for plugin in self.plugins:
            if hasattr(plugin, method):
                return getattr(plugin, method)
        raise ValueError(
            f"{type(self).__name__} has no uni-modal vectors: "
            "add plugins=(SoftLabelAlignment(),) or use cross_modal=True."
        )


def _is_plugin(plugin):
    return hasattr(plugin, "term_weights") and not isinstance(plugin, type)


def _check_arrays(x):
    """Look at the ids while they are NumPy's: in a graph their values, and in an error their name, are gone."""
    if isinstance(x, dict) and "image_id" in x:
        checked_ids(x["image_id"])
