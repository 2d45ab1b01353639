from typing import NamedTuple

import keras
from keras import ops

from keras_itr.numerics import at_least_float32, without_padding

EPSILON = 1e-8
# Finite, so that a row without any valid key has a softmax; next to any real logit its exponential is exactly zero.
MASKED = -1e9


@keras.saving.register_keras_serializable(package="keras_itr")
class CrossModalAttention(keras.layers.Layer):
    """Regions ask words and words ask regions: local scores and contexts of pairs.

    With `H` heads of width `D / H`, without any weight:

    ```
    p[r, l] = softmax_l(image_to_text_scale * v_r . w_l)   c_r = sum_l p[r, l] w_l
    q[l, r] = softmax_r(text_to_image_scale * w_l . v_r)   d_l = sum_r q[l, r] v_r
    image_to_text = mean_r cos(v_r, c_r)    context_text = mean_r c_r
    text_to_image = mean_l cos(w_l, d_l)    context_image = mean_l d_l
    ```

    The softmax is that of each head; cosines are over the full width, with the
    denominator `max(|x||y|, 1e-8)`. Everything is at least float32 under any
    dtype policy.

    The vectors `c_r` and `d_l` are never made for each pair: `v_r . c_r` comes
    from the logits, `|c_r|^2` from products of words with words. What grows
    with the number of pairs is `(I, T, H, R, L)` and `(I, T, D)`.

    Padding changes nothing, whatever it holds, NaN included. Without a valid
    word or region, scores and contexts of a pair are 0. A zero vector has
    cosine 0 and receives no gradient from it.

    Args:
        num_heads: int, divides the width, default 8.
        image_to_text_scale: float, factor before the softmax over words,
            default 4.
        text_to_image_scale: float, factor before the softmax over regions,
            default 9.
        text_chunk_size: int, a call works on so many texts at a time; None
            (default) on all at once. Same result, less memory without
            gradients. A number of texts not known when a graph is made is not
            split.

    Call arguments:
        regions: `(I, R, D)` float, unit rows.
        words: `(T, L, D)` float.
        region_mask: `(I, R)` bool, True = valid; all True if None.
        word_mask: `(T, L)` bool, likewise.

    Returns:
        dict of `scores` (the mean of the two directions), `image_to_text` and
        `text_to_image`, all `(I, T)`, `context_text` and `context_image`, both
        `(I, T, D)`.

    Methods:
        pairs(regions, words, region_mask=None, word_mask=None): matched pairs,
            `(P, R, D)` and `(P, L, D)` to the same dict of `(P,)` and `(P, D)`.
            Two leading axes broadcast: `(Q, 1, R, D)` with `(Q, K, L, D)` gives
            `(Q, K)` and `(Q, K, D)`. Never in chunks.
        prepare(tokens, mask=None): what one side brings to all its pairs: dict
            of `heads` `(..., H, N, D / H)`, `gram` `(..., H, N, N)`, `mask`.
        prepared_pairs(regions, words): `pairs` of two such dicts, for items that
            are in many pairs.

    Raises:
        ValueError: if `num_heads` does not divide the width, regions and words
            have different widths or numbers of axes or more than two leading
            ones, or a number is not positive.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import CrossModalAttention

    draw = lambda *shape: np.random.normal(size=shape).astype("float32")
    attention = CrossModalAttention(num_heads=2)
    parts = attention(draw(3, 5, 8), draw(4, 6, 8))
    parts["scores"].shape, parts["context_text"].shape  # (3, 4), (3, 4, 8)
    attention.pairs(draw(3, 5, 8), draw(3, 6, 8))["scores"].shape  # (3,)
    ```

    Reference: the code of Gong et al., ACF-R+, as related code of AsCL (ICME
    2024), whose body could not be read. Masks, the form by products and the
    gradient at zero are our choice.
    """

    def __init__(self, num_heads=8, image_to_text_scale=4.0, text_to_image_scale=9.0, text_chunk_size=None, **kwargs):
        # Half precision would lose digits of the logits: the call casts for itself.
        super().__init__(autocast=False, **kwargs)
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, received {num_heads}.")
        if text_chunk_size is not None and text_chunk_size < 1:
            raise ValueError(
                f"text_chunk_size must be a positive number of texts, or None for all at once, received "
                f"{text_chunk_size}."
            )
        self.num_heads = num_heads
        self.image_to_text_scale = image_to_text_scale
        self.text_to_image_scale = text_to_image_scale
        self.text_chunk_size = text_chunk_size
        self.supports_masking = True
        self.built = True

    def call(self, regions, words, region_mask=None, word_mask=None):
        self._check_shapes(regions, words)
        images = expanded(self.prepare(regions, region_mask), 1)

        def parts(words, word_mask):
            return self.prepared_pairs(images, expanded(self.prepare(words, word_mask), 0))

        return in_text_chunks(parts, words, word_mask, self.text_chunk_size)

    def pairs(self, regions, words, region_mask=None, word_mask=None):
        self._check_shapes(regions, words)
        return self.prepared_pairs(self.prepare(regions, region_mask), self.prepare(words, word_mask))

    def prepare(self, tokens, mask=None):
        tokens = at_least_float32(tokens)
        mask = ops.ones(ops.shape(tokens)[:-1], "bool") if mask is None else ops.cast(mask, "bool")
        tokens = without_padding(tokens, mask)
        heads = ops.reshape(tokens, (*ops.shape(tokens)[:-1], self.num_heads, tokens.shape[-1] // self.num_heads))
        # Heads before tokens, once: all products of pairs are then batches of matrices as they lie.
        heads = ops.swapaxes(heads, -3, -2)
        return {"heads": heads, "gram": ops.matmul(heads, ops.swapaxes(heads, -1, -2)), "mask": mask}

    def prepared_pairs(self, regions, words):
        region_axes, word_axes, axes = _leading_axes(regions["mask"].shape[:-1], words["mask"].shape[:-1])
        regions, words = _tokens(regions, region_axes, axes), _tokens(words, word_axes, axes)
        # The one product of all regions with all words, in the order that suits each direction.
        over_words, over_regions = _order(words, regions), _order(regions, words)
        products = ops.einsum(f"{region_axes}hrd,{word_axes}hld->{over_words}rl", regions.heads, words.heads)
        image_to_text, context_text = _attend(products, regions, words, self.image_to_text_scale)
        products = ops.einsum(f"{over_words}rl->{over_regions}lr", products)
        text_to_image, context_image = _attend(products, words, regions, self.text_to_image_scale)
        over_words, over_regions = over_words.replace("h", ""), over_regions.replace("h", "")
        image_to_text, context_text = (_aligned(x, over_words, axes) for x in (image_to_text, context_text))
        text_to_image, context_image = (_aligned(x, over_regions, axes) for x in (text_to_image, context_image))
        return {
            "scores": 0.5 * (image_to_text + text_to_image),
            "image_to_text": image_to_text,
            "text_to_image": text_to_image,
            "context_text": context_text,
            "context_image": context_image,
        }

    def _check_shapes(self, regions, words):
        rank, other = len(regions.shape), len(words.shape)
        # A softmax of more than five axes does not exist everywhere.
        if rank != other or rank not in (3, 4) or regions.shape[-1] != words.shape[-1]:
            raise ValueError(
                "regions and words must be (P, R, D) and (P, L, D), or have two leading axes each, with the same width "
                f"D, received shapes {tuple(regions.shape)} and {tuple(words.shape)}. Insert axes of size one to "
                "broadcast; project both to one width."
            )
        if regions.shape[-1] % self.num_heads:
            raise ValueError(
                f"num_heads must divide the width of regions and words, received {self.num_heads} and "
                f"{regions.shape[-1]}."
            )

    def compute_output_shape(self, regions_shape, words_shape):
        pairs = (regions_shape[0], words_shape[0])
        shapes = dict.fromkeys(("scores", "image_to_text", "text_to_image"), pairs)
        return {**shapes, **dict.fromkeys(("context_text", "context_image"), (*pairs, regions_shape[-1]))}

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "image_to_text_scale": self.image_to_text_scale,
            "text_to_image_scale": self.text_to_image_scale,
            "text_chunk_size": self.text_chunk_size,
        }


def in_text_chunks(function, words, word_mask, size):
    """`function(words, word_mask)`, a dict of `(I, T, ...)`, from `size` texts at a time; None for all at once."""
    count = words.shape[0]
    if size is None or count is None or count <= size:
        return function(words, word_mask)
    parts = []
    for start in range(0, count, size):
        chunk = slice(start, start + size)
        parts.append(function(words[chunk], None if word_mask is None else word_mask[chunk]))
    return {name: ops.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def expanded(prepared, axis):
    """What `prepare` returned, with one more leading axis to broadcast over."""
    return {name: ops.expand_dims(x, axis) for name, x in prepared.items()}


class _Tokens(NamedTuple):
    """One side: what `prepare` returned, and a letter for each leading axis."""

    heads: object
    gram: object
    mask: object
    axes: str


def _tokens(prepared, axes, all_axes):
    """One side without the leading axes that only broadcast."""
    broadcast = [position for position, name in enumerate(all_axes) if name not in axes]
    parts = (prepared[name] for name in ("heads", "gram", "mask"))
    return _Tokens(*(ops.squeeze(part, broadcast) if broadcast else part for part in parts), axes)


def _attend(products, queries, keys, scale):
    """One direction: score `(...)` and mean context `(..., D)` from products `(..., Q, K)` of the order `_order`.

    Results are in that order without the heads: no product below has to move its largest factor.
    """
    order, head = _order(keys, queries), len(keys.axes)
    axes = order.replace("h", "")
    masked = _aligned(ops.where(keys.mask, 0.0, MASKED), keys.axes, order)
    # Keys that are all masked are all zero: their equal shares sum zeros.
    attention = ops.softmax(scale * products + masked[..., None, :], axis=-1)
    matched = ops.sum(attention * products, axis=(head, -1))
    # |c|^2 = sum over heads of a (W W') a'.
    spread = ops.einsum(f"{order}qk,{keys.axes}hkj->{order}qj", attention, keys.gram)
    attended_square = ops.sum(attention * spread, axis=(head, -1))
    query_square = ops.sum(ops.diagonal(queries.gram, 0, -2, -1), axis=len(queries.axes))
    shares = _shares(queries)
    cosine = _cosine(matched, _aligned(query_square, queries.axes, axes) * attended_square)
    score = ops.sum(_aligned(shares, queries.axes, axes) * cosine, axis=-1)
    attention = ops.sum(_aligned(shares, queries.axes, order)[..., None] * attention, axis=-2)
    context = ops.einsum(f"{order}k,{keys.axes}hkd->{axes}hd", attention, keys.heads)
    return score, ops.reshape(context, (*ops.shape(score), keys.heads.shape[-3] * keys.heads.shape[-1]))


def _cosine(product, square):
    """`product / max(sqrt(square), epsilon)`; without gradient where a vector is zero, and has no direction."""
    # Rounding may take more from the square, which is a sum with both signs, than is left of words that cancel.
    square = ops.maximum(square, ops.square(product))
    product = ops.where(square > EPSILON**2, product, ops.stop_gradient(product))
    return product * ops.rsqrt(ops.maximum(square, EPSILON**2))


def _shares(tokens):
    """`(..., N)`, the weight of each token in the mean over the valid ones; 0 where there are none."""
    valid = ops.cast(tokens.mask, tokens.heads.dtype)
    return valid / ops.maximum(ops.sum(valid, axis=-1, keepdims=True), 1.0)


def _leading_axes(region_sizes, word_sizes):
    """Letters for the leading axes of regions, of words, and of both.

    An axis that one side only broadcasts over has no letter there: all regions
    meet all words in one large product, without a repeated copy.
    """
    axes = "uv"[: len(region_sizes)]
    sizes = list(zip(axes, region_sizes, word_sizes, strict=True))
    region_axes = "".join(name for name, own, other in sizes if own != 1 or other == 1)
    word_axes = "".join(name for name, other, own in sizes if own != 1 or other == 1)
    return region_axes, word_axes, axes


def _order(keys, queries):
    """The keys' leading axes, the heads, the other axes: the batch of a product with keys comes first."""
    return keys.axes + "h" + "".join(name for name in queries.axes if name not in keys.axes)


def _aligned(x, axes, order):
    """`x` with leading `axes`, with leading axes in `order`; of size one where `x` has none."""
    places = [axes.index(name) for name in order if name in axes]
    if places != sorted(places):
        x = ops.transpose(x, (*places, *range(len(axes), len(x.shape))))
    missing = [position for position, name in enumerate(order) if name not in axes]
    return ops.expand_dims(x, missing) if missing else x
