import keras
from keras import ops

from keras_itr.layers.cross_modal_attention import CrossModalAttention, expanded, in_text_chunks
from keras_itr.numerics import at_least_float32

EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="keras_itr")
class HierarchicalSimilarity(keras.layers.Layer):
    """Similarity of images and texts from local and global evidence.

    The local part is the score of a `CrossModalAttention`. The global part
    compares a vector of the image, gated between its pooled feature `x` and the
    regions that the text attends to, with one of the words that the image
    attends to, where `norm(x) = x / (|x| + 1e-8)`:

    ```
    a = A norm(x) + b_a                     b = C context_image + b_c
    g = sigmoid(G [a; b] + b_g)             image = norm(g * a + (1 - g) * b)
    text = norm(P context_text + b_p)       global = <image, text>
    similarity = local_weight * local + (1 - local_weight) * global
    ```

    So both vectors belong to a pair: similarity is no product of embeddings.
    `conditioning="paired"` takes the vector of image i from its own text i and
    that of text j from its own image `j mod I`. This lets the true pairing into
    the vectors and is for training alone.

    Attention, norms and the mix are at least float32 under any dtype policy;
    the dense layers follow it.

    Args:
        embedding_dim: int, width of regions, words and all vectors.
        num_heads: int, divides `embedding_dim`, default 8.
        local_weight: float in 0..1, default 0.8.
        conditioning: `"pairwise"` (default) or `"paired"`.
        image_to_text_scale, text_to_image_scale, text_chunk_size: of the
            `CrossModalAttention`. The global part is split in the same chunks.

    The widths of the inputs come with `build(regions_shape, words_shape,
    image_global_shape)`; call it in the constructor of whatever holds the layer.

    Call arguments:
        regions: `(I, R, D)` float, unit rows.
        words: `(T, L, D)` float; with `"paired"` T is a multiple of I.
        image_global: `(I, Dc)` float, the pooled image feature, of any length.
        region_mask: `(I, R)` bool, True = valid; all True if None.
        word_mask: `(T, L)` bool, likewise.
        training: bool, only read by `"paired"`.
        return_parts: bool, default False.

    Returns:
        `(I, T)` float; with `return_parts=True` a dict of `similarity`, `local`
        and `global`.

    Methods:
        pairs(regions, words, image_global, region_mask=None, word_mask=None,
            return_parts=False): matched pairs, `(P, R, D)`, `(P, L, D)` and
            `(P, Dc)` to `(P,)`. Two leading axes broadcast as in
            `CrossModalAttention.pairs`. A pair sees itself alone, whatever
            `conditioning` says.
        prepare_images(regions, image_global, region_mask=None),
            prepare_texts(words, word_mask=None): dicts of what an item brings to
            all its pairs, one row per item.
        prepared_pairs(images, texts): `pairs` of two such dicts, with its parts.

    Raises:
        ValueError: for another `conditioning`, a `local_weight` outside 0..1,
            inputs of another width, or `"paired"` outside of training or with a
            number of texts that is no multiple of that of the images.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import HierarchicalSimilarity

    draw = lambda *shape: np.random.normal(size=shape).astype("float32")
    similarity = HierarchicalSimilarity(embedding_dim=8, num_heads=2)
    similarity(draw(3, 5, 8), draw(4, 6, 8), draw(3, 7)).shape  # (3, 4)
    similarity.pairs(draw(3, 5, 8), draw(3, 6, 8), draw(3, 7)).shape  # (3,)
    ```

    Reference: the mix is that of Gong et al., AsCL, ICME 2024; its parts follow
    the code of the same author's ACF-R+. Pairwise conditioning as the default,
    and no gradient of a direction at zero, are our choice.
    """

    def __init__(
        self,
        embedding_dim,
        num_heads=8,
        local_weight=0.8,
        conditioning="pairwise",
        image_to_text_scale=4.0,
        text_to_image_scale=9.0,
        text_chunk_size=None,
        **kwargs,
    ):
        # The dense layers cast for themselves; attention and norms stay what they are.
        super().__init__(autocast=False, **kwargs)
        if conditioning not in ("pairwise", "paired"):
            raise ValueError(f"conditioning must be 'pairwise' or 'paired', received {conditioning!r}.")
        if not 0 <= local_weight <= 1:
            raise ValueError(f"local_weight must be between 0 and 1, received {local_weight}.")
        if embedding_dim % num_heads:
            raise ValueError(f"num_heads must divide embedding_dim, received {num_heads} and {embedding_dim}.")
        # Layers.
        # Chunks are made here, for both parts.
        self.attention = CrossModalAttention(
            num_heads, image_to_text_scale, text_to_image_scale, dtype=self.dtype_policy, name="attention"
        )
        self.image_projection = self._dense(embedding_dim, "image_projection")
        self.context_projection = self._dense(embedding_dim, "context_projection")
        self.gate = self._dense(embedding_dim, "gate")
        self.text_projection = self._dense(embedding_dim, "text_projection")
        # Configuration.
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.local_weight = local_weight
        self.conditioning = conditioning
        self.image_to_text_scale = image_to_text_scale
        self.text_to_image_scale = text_to_image_scale
        self.text_chunk_size = text_chunk_size
        self.supports_masking = True

    def build(self, regions_shape, words_shape, image_global_shape):
        if regions_shape[-1] != self.embedding_dim or words_shape[-1] != self.embedding_dim:
            raise ValueError(
                f"regions and words must have the width embedding_dim={self.embedding_dim}, received "
                f"{regions_shape[-1]} and {words_shape[-1]}. Project them first."
            )
        self.image_projection.build((None, image_global_shape[-1]))
        self.context_projection.build((None, self.embedding_dim))
        self.gate.build((None, 2 * self.embedding_dim))
        self.text_projection.build((None, self.embedding_dim))

    def call(self, regions, words, image_global, region_mask=None, word_mask=None, training=None, return_parts=False):
        if self.conditioning == "paired":
            parts = self._paired(regions, words, image_global, region_mask, word_mask, training)
        else:
            parts = self.pairwise(regions, words, image_global, region_mask, word_mask)
        return parts if return_parts else parts["similarity"]

    def pairs(self, regions, words, image_global, region_mask=None, word_mask=None, return_parts=False):
        images = self.prepare_images(regions, image_global, region_mask)
        parts = self.prepared_pairs(images, self.prepare_texts(words, word_mask))
        return parts if return_parts else parts["similarity"]

    def pairwise(self, regions, words, image_global, region_mask=None, word_mask=None):
        # What an image says without a text is made once, whatever the number of texts and chunks.
        images = expanded(self.prepare_images(regions, image_global, region_mask), 1)

        def parts(words, word_mask):
            return self.prepared_pairs(images, expanded(self.prepare_texts(words, word_mask), 0))

        return in_text_chunks(parts, words, word_mask, self.text_chunk_size)

    def prepare_images(self, regions, image_global, region_mask=None):
        vector, gate = self._image_parts(image_global)
        return {**self.attention.prepare(regions, region_mask), "vector": vector, "gate": gate}

    def prepare_texts(self, words, word_mask=None):
        return self.attention.prepare(words, word_mask)

    def prepared_pairs(self, images, texts):
        attended = self.attention.prepared_pairs(images, texts)
        return self._mix(attended["scores"], _norm_product(*self._vectors(images["vector"], images["gate"], attended)))

    def _paired(self, regions, words, image_global, region_mask, word_mask, training):
        self._check_paired(regions, words, training)

        def scores(words, word_mask):
            return {"local": self.attention(regions, words, region_mask, word_mask)["scores"]}

        local = in_text_chunks(scores, words, word_mask, self.text_chunk_size)["local"]
        # Text j as (j div I, j mod I) next to its own image: (M, I) pairs.
        images = ops.shape(regions)[0]
        own_mask = None if word_mask is None else ops.reshape(word_mask, (-1, images, words.shape[1]))
        attended = self.attention.pairs(
            ops.expand_dims(regions, 0),
            ops.reshape(words, (-1, images, *words.shape[1:])),
            None if region_mask is None else ops.expand_dims(region_mask, 0),
            own_mask,
        )
        image, text = self._vectors(*self._image_parts(image_global), attended)
        text = ops.reshape(text, (-1, self.embedding_dim))
        return self._mix(local, ops.matmul(_norm(image[0]), ops.transpose(_norm(text))))

    def _image_parts(self, image_global):
        """The vector `a` `(..., D)` and its share in the gate."""
        image = self.image_projection(_norm(at_least_float32(image_global)))
        return at_least_float32(image), self._gate_share(image, slice(None, self.embedding_dim)) + self._gate_bias()

    def _vectors(self, image, image_share, attended):
        """Vectors of image and text `(..., D)` before their norm, from the contexts."""
        context = self.context_projection(attended["context_image"])
        gate = ops.sigmoid(image_share + self._gate_share(context, slice(self.embedding_dim, None)))
        context = at_least_float32(context)
        return context + gate * (image - context), at_least_float32(self.text_projection(attended["context_text"]))

    def _gate_share(self, x, rows):
        """What `x` adds to the logits of the gate through its `rows` of the kernel."""
        kernel = ops.cast(self.gate.kernel, self.compute_dtype)[rows]
        return at_least_float32(ops.matmul(ops.cast(x, self.compute_dtype), kernel))

    def _gate_bias(self):
        return at_least_float32(self.gate.bias)

    def _mix(self, local, global_):
        local = ops.cast(local, global_.dtype)
        similarity = self.local_weight * local + (1 - self.local_weight) * global_
        return {"similarity": similarity, "local": local, "global": global_}

    def _dense(self, units, name):
        return keras.layers.Dense(units, dtype=self.dtype_policy, name=name)

    def _check_paired(self, regions, words, training):
        if training is not True:
            raise ValueError(
                f"conditioning='paired' shows every image its own text, received training={training}. Score with "
                "conditioning='pairwise', or with `pairs`, in evaluation; pass training=True in training."
            )
        images, texts = regions.shape[0], words.shape[0]
        if None not in (images, texts) and texts % images:
            raise ValueError(
                "conditioning='paired' takes text j to belong to image j mod I: the number of texts must be a multiple "
                f"of that of the images, received {texts} and {images}."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "num_heads": self.num_heads,
            "local_weight": self.local_weight,
            "conditioning": self.conditioning,
            "image_to_text_scale": self.image_to_text_scale,
            "text_to_image_scale": self.text_to_image_scale,
            "text_chunk_size": self.text_chunk_size,
        }


def _norm(x):
    """`x / (|x| + epsilon)`; a zero vector has no direction, and receives no gradient."""
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    x = ops.where(square > EPSILON**2, x, ops.stop_gradient(x))
    return x / _length(square)


def _norm_product(x, y):
    """`<norm(x), norm(y)>` of the last axis, without making the two norms."""
    squares = [ops.sum(ops.square(vector), axis=-1) for vector in (x, y)]
    product = ops.sum(x * y, axis=-1)
    product = ops.where(ops.minimum(*squares) > EPSILON**2, product, ops.stop_gradient(product))
    return product / (_length(squares[0]) * _length(squares[1]))


def _length(square):
    # The maximum under the root keeps its gradient finite, and is nothing next to epsilon.
    return ops.sqrt(ops.maximum(square, 1e-30)) + EPSILON
