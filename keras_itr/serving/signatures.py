"""The functions of an export: raw captions and encoded images in, vectors and scores out."""

from keras_itr.preprocessing.decoding import MAX_PIXELS, decode_image

# A photo of 100 million pixels as a JPEG; what is larger is no photo to search with.
MAX_BYTES = 1 << 25


class ServedFunctions:
    """The signatures of a retriever, each a traced TensorFlow function of named tensors.

    | signature | inputs | outputs |
    |---|---|---|
    | `embed_image` | `image_bytes` string (B,) | `image_embedding` float32 (B, D), unit rows |
    | `embed_text`, also `serving_default` | `text` string (B,) | `text_embedding` float32 (B, D) |
    | `embed_image_uni_modal`, and so of text | the same | `image_uni_modal` (B, D), for image-image search |
    | `score_pairs` | `image_bytes`, `text` | `score` (B,), the method's best; `cosine` (B,), of the vectors |
    | `encode_image`, `encode_text` | as above | the vectors, and the local features of the second stage |
    | `rerank_tokens` | outputs of these two, one row per pair | `score` (B,) |

    The uni-modal two are there where the method has such vectors, the last three where it has a second stage. A model
    that reads region features in place of photos has `embed_regions` and `encode_regions`, with `regions`
    (B, R, W) and what goes with them; one that reads sentence vectors `embed_text_features`, with `text_features`
    (B, W); one without a tokenizer `embed_tokens`, with `token_ids` and `padding_mask` (B, L).

    Args:
        model: an `ImageTextRetriever` under the TensorFlow backend.
        max_pixels: int, largest image that is decoded, known from its header.
        max_bytes: int, largest encoded image.

    Attributes:
        functions: dict of signature name to `tf.types.experimental.ConcreteFunction`.
        inputs: dict of signature name to dict of input name to `tf.TensorSpec`.

    Raises:
        ValueError: if the model takes photos and has no image converter.

    Example:

    ```python
    import keras_itr

    functions = keras_itr.serving.ServedFunctions(keras_itr.models.from_preset("cusa_shapes"))
    list(functions.functions)
    ```
    """

    def __init__(self, model, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES):
        self.model = model
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.functions, self.inputs = {}, {}
        self.image_name, self.text_name = signature_name(model, "image"), signature_name(model, "text")
        self.image_specs, read_images = self._image_side()
        self.text_specs, read_texts = self._text_side()
        # One trace of either encoder, which all signatures call.
        encode_images = _shared(lambda inputs: model.encode_images(read_images(inputs), training=False))
        encode_texts = _shared(lambda inputs: model.encode_texts(read_texts(inputs), training=False))
        self._add_side("image", self.image_name, self.image_specs, encode_images)
        self._add_side("text", self.text_name, self.text_specs, encode_texts)
        self._add_pairs(encode_images, encode_texts)
        self.functions["serving_default"] = self.functions[f"embed_{self.text_name}"]
        self.inputs["serving_default"] = self.text_specs

    def module(self):
        """A `tf.Module` that holds the weights and tables of the functions, each once, and nothing else."""
        import tensorflow as tf

        module = tf.Module()
        variables = {id(variable): variable for function in self.functions.values() for variable in function.variables}
        module.weights = list(variables.values())
        tokenizer = getattr(self.model.preprocessor, "tokenizer", None)
        tables = [] if tokenizer is None else vars(tokenizer).values()
        module.tables = [table for table in tables if isinstance(table, tf.lookup.StaticHashTable)]
        return module

    def _add_side(self, side, name, specs, encode):
        model = self.model
        self._add(f"embed_{name}", specs, lambda x: {f"{side}_embedding": encode(x)["embedding"]})
        if model.uni_modal:
            vectors = model.uni_modal_images if side == "image" else model.uni_modal_texts
            self._add(f"embed_{name}_uni_modal", specs, lambda x: {f"{side}_uni_modal": vectors(encode(x))})
        if model.second_stage:
            self._add(f"encode_{name}", specs, lambda x: named(side, encode(x)))

    def _add_pairs(self, encode_images, encode_texts):
        import tensorflow as tf

        model = self.model

        def score_pairs(x):
            sizes = [tf.shape(x[next(iter(specs))])[0] for specs in (self.image_specs, self.text_specs)]
            # One image with many captions would be broadcast.
            paired = tf.debugging.Assert(
                tf.equal(*sizes), ["score_pairs takes as many images as texts, received", *sizes]
            )
            with tf.control_dependencies([paired]):
                x = {key: tf.identity(value) for key, value in x.items()}
            image, text = encode_images(_only(self.image_specs, x)), encode_texts(_only(self.text_specs, x))
            cosine = tf.reduce_sum(image["embedding"] * text["embedding"], axis=-1)
            return {"score": model.pair_scores(image, text) if model.second_stage else cosine, "cosine": cosine}

        self._add("score_pairs", {**self.image_specs, **self.text_specs}, score_pairs)
        if not model.second_stage:
            return
        image, text = (self._feature_specs(side) for side in ("image", "text"))

        def rerank_tokens(x):
            return {"score": model.pair_scores(unnamed("image", _only(image, x)), unnamed("text", _only(text, x)))}

        self._add("rerank_tokens", {**image, **text}, rerank_tokens)

    def _feature_specs(self, side):
        """The outputs of a side's `encode` as inputs."""
        import tensorflow as tf

        outputs = self.functions[f"encode_{getattr(self, f'{side}_name')}"].structured_outputs
        return {key: tf.TensorSpec([None, *x.shape[1:]], x.dtype, name=key) for key, x in outputs.items()}

    def _add(self, name, specs, function):
        import tensorflow as tf

        def call(*tensors):
            return {key: _floats(x) for key, x in function(dict(zip(specs, tensors, strict=True))).items()}

        traced = tf.function(call, input_signature=list(specs.values()), autograph=False, jit_compile=False)
        self.functions[name], self.inputs[name] = traced.get_concrete_function(), specs

    def _image_side(self):
        if self.image_name == "regions":
            return self._region_specs(self.model.backbone.image_tower), lambda inputs: inputs
        converter = getattr(self.model.preprocessor, "image_converter", None)
        if converter is None:
            raise ValueError(
                "the model takes photos and has no image converter: give it "
                "preprocessor=RetrievalPreprocessor(tokenizer, RetrievalImageConverter(...)), to serve encoded images."
            )
        return _specs(image_bytes=([None], "string")), lambda inputs: {"images": self._pixels(inputs, converter)}

    def _region_specs(self, tower):
        specs = {"regions": ([None, None, tower.feature_dim], "float32"), "region_mask": ([None, None], "bool")}
        if needs_boxes(tower):
            specs["region_boxes"] = ([None, None, 4], "float32")
        width = getattr(self.model, "image_global_dim", None)
        if width is not None:
            specs["image_global"] = ([None, width], "float32")
        return _specs(**specs)

    def _text_side(self):
        if self.text_name == "text":
            return _specs(text=([None], "string")), self.model.preprocessor
        if self.text_name == "text_features":
            width = self.model.backbone.text_tower.feature_dim
            return _specs(text_features=([None, width], "float32")), lambda inputs: inputs
        specs = _specs(token_ids=([None, None], "int32"), padding_mask=([None, None], "bool"))
        return specs, lambda inputs: inputs

    def _pixels(self, inputs, converter):
        import tensorflow as tf

        def read(contents):
            return converter.convert_pixels(decode_image(contents, self.max_pixels))

        encoded = inputs["image_bytes"]
        fits = tf.debugging.Assert(
            tf.reduce_all(tf.strings.length(encoded) <= self.max_bytes),
            [f"An encoded image may have at most {self.max_bytes} bytes."],
        )
        with tf.control_dependencies([fits]):
            encoded = tf.identity(encoded)
        return tf.map_fn(read, encoded, fn_output_signature=tf.TensorSpec((*converter.image_size, 3), tf.float32))


def signature_name(model, side):
    """What a side's signatures are called behind `embed_`: `"image"` or `"regions"`, `"text"`, `"text_features"` or
    `"tokens"`."""
    if side == "image":
        return "image" if model.backbone.image_tower.input_key == "images" else "regions"
    if model.backbone.text_tower.input_key != "token_ids":
        return "text_features"
    return "tokens" if getattr(model.preprocessor, "tokenizer", None) is None else "text"


def needs_boxes(image_tower):
    """Whether regions must come with their boxes: they have places, and are no cells of a known grid."""
    return hasattr(image_tower, "boxes_of") and image_tower.grid is None


def named(side, features):
    """Features of one side by the names that they have in a signature: `"tokens"` is `"image_tokens"`."""
    return {key if key.startswith(f"{side}_") else f"{side}_{key}": value for key, value in features.items()}


def unnamed(side, tensors):
    """The features behind such names. `"image_global"` is the one whose name began with its side."""
    own = ("image_global",)
    return {key if key in own else key.removeprefix(f"{side}_"): value for key, value in tensors.items()}


def _specs(**shapes):
    import tensorflow as tf

    return {key: tf.TensorSpec(shape, dtype, name=key) for key, (shape, dtype) in shapes.items()}


def _only(specs, tensors):
    return {key: tensors[key] for key in specs}


def _shared(function):
    import tensorflow as tf

    return tf.function(function, autograph=False, jit_compile=False, reduce_retracing=True)


def _floats(tensor):
    """A tensor as float32 if it is one of another precision: clients know no bfloat16."""
    import tensorflow as tf

    return tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor
