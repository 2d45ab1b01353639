import keras
from keras import ops

from keras_itr.numerics import at_least_float32, without_padding

# Below any product of features, and finite: minus infinity would turn into NaN in the gradient of a maximum.
_NEVER = -3.0e38


@keras.saving.register_keras_serializable(package="keras_itr")
class RegionWordSimilarity(keras.layers.Layer):
    """Every word looks for its best region: the local similarity of images and captions.

    `S_ij = scale * sum_w max_r <v_ir, t_jw>` over the valid regions `r` of image
    `i` and the valid words `w` of caption `j`, from one matrix product of all
    regions with all words. Without a valid word or a valid region it is 0, with
    gradient 0. Padding changes nothing, whatever it holds, NaN included.

    Args:
        reduction: over words: `"sum"` (default) or `"mean"`, the sum divided by
            the number of valid words.
        scale: float, default 10.
        masked_value: `"-inf"` (default): an invalid region never wins. `0.0`: it
            enters the maximum with similarity 0, so that the best match of a word
            in a padded image is not below 0.
        trim_last_word: bool, default False; True leaves out the last valid word
            of every caption.
        chunk_size: int, captions compared at a time, for less memory; None
            (default) all at once. The result is the same.

    Call arguments:
        regions: `(I, R, D)` float, unit rows in the method it is from.
        words: `(T, L, D)` float.
        region_mask: `(I, R)` bool, True = valid; all True if None.
        word_mask: `(T, L)` bool, True for real words only (no start, end or
            padding); all True if None.

    Returns:
        `(I, T)`, at least float32.

    Raises:
        ValueError: if `reduction`, `masked_value` or `chunk_size` is none of these.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import RegionWordSimilarity

    regions, words = np.eye(4, dtype="float32")[None], np.eye(4, dtype="float32")[None, :3]
    RegionWordSimilarity()(regions, words)  # [[30.0]]
    RegionWordSimilarity()(regions, words, word_mask=np.array([[True, True, False]]))  # [[20.0]]
    ```

    Reference: Liu et al., TGDT, IEEE TIP 2023, in the form of the official code,
    which has `masked_value=0.0` and `trim_last_word=True`; the defaults, the mean
    and the chunks are our choice.
    """

    def __init__(
        self, reduction="sum", scale=10.0, masked_value="-inf", trim_last_word=False, chunk_size=None, **kwargs
    ):
        # Half precision would lose digits of the maxima; features come as they are.
        super().__init__(autocast=False, **kwargs)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', received {reduction!r}.")
        if masked_value not in ("-inf", 0.0):
            raise ValueError(f"masked_value must be '-inf' or 0.0, received {masked_value!r}.")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be a positive number of captions or None, received {chunk_size!r}.")
        self.reduction = reduction
        self.scale = scale
        self.masked_value = masked_value
        self.trim_last_word = trim_last_word
        self.chunk_size = chunk_size
        self.supports_masking = True
        self.built = True

    def call(self, regions, words, region_mask=None, word_mask=None):
        regions, region_mask = _valid_rows(regions, region_mask)
        words, word_mask = _valid_rows(words, word_mask)
        if self.trim_last_word:
            word_mask = ops.logical_and(word_mask, ops.logical_not(_last_valid(word_mask)))
        chunk, count = self.chunk_size, words.shape[0]
        if chunk is None or (count is not None and count <= chunk):
            return self._similarity(regions, words, region_mask, word_mask)
        if count is None:
            raise ValueError("chunk_size needs a static number of captions; give the batch a fixed size.")
        parts = [
            self._similarity(regions, words[start : start + chunk], region_mask, word_mask[start : start + chunk])
            for start in range(0, count, chunk)
        ]
        return ops.concatenate(parts, axis=1)

    def _similarity(self, regions, words, region_mask, word_mask):
        (images, count), (texts, length, width) = ops.shape(regions)[:2], ops.shape(words)
        # (I * R, D) x (D, T * L): the products of all regions with all words, and nothing larger.
        products = ops.matmul(
            ops.reshape(regions, (images * count, width)), ops.transpose(ops.reshape(words, (texts * length, width)))
        )
        products = ops.reshape(products, (images, count, texts * length))
        best = self._best_region(products, region_mask)
        # Masked after the maximum, by a selection: what padding won must not reach a sum or a gradient.
        best = ops.where(word_mask, ops.reshape(best, (images, texts, length)), 0.0)
        return self.scale * self._over_words(best, word_mask)

    def _best_region(self, products, region_mask):
        """`(..., N)`, the best valid region of each of N words, from `(..., R, N)`; 0 in an image without any."""
        invalid = _NEVER if self.masked_value == "-inf" else 0.0
        best = ops.max(ops.where(region_mask[..., None], products, invalid), axis=-2)
        return ops.where(ops.any(region_mask, axis=-1)[..., None], best, 0.0)

    def _over_words(self, best, word_mask):
        total = ops.sum(best, axis=-1)
        if self.reduction == "sum":
            return total
        return total / ops.maximum(ops.sum(ops.cast(word_mask, best.dtype), axis=-1), 1.0)

    def pairs(self, regions, words, region_mask=None, word_mask=None):
        """The similarity of matched rows: image `p` with caption `p`, or whatever the leading axes broadcast to.

        Args:
            regions: `(..., R, D)` float.
            words: `(..., L, D)` float.
            region_mask: `(..., R)` bool, or None.
            word_mask: `(..., L)` bool, or None.

        Returns:
            `(...)`, at least float32: `(P, R, D)` with `(P, L, D)` gives `(P,)`, `(Q, 1, R, D)` with
            `(Q, K, L, D)`, an image and its candidates, `(Q, K)`.
        """
        regions, region_mask = _valid_rows(regions, region_mask)
        words, word_mask = _valid_rows(words, word_mask)
        if self.trim_last_word:
            word_mask = ops.logical_and(word_mask, ops.logical_not(_last_valid(word_mask)))
        products = ops.matmul(regions, ops.swapaxes(words, -1, -2))
        best = self._best_region(products, region_mask)
        return self.scale * self._over_words(ops.where(word_mask, best, 0.0), word_mask)

    def compute_output_shape(self, regions_shape, words_shape, region_mask_shape=None, word_mask_shape=None):
        return (regions_shape[0], words_shape[0])

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "scale": self.scale,
            "masked_value": self.masked_value,
            "trim_last_word": self.trim_last_word,
            "chunk_size": self.chunk_size,
        }


def _valid_rows(rows, mask):
    """Rows in at least float32 with zeros in place of padding, and their mask."""
    rows = at_least_float32(rows)
    if mask is None:
        return rows, ops.ones(ops.shape(rows)[:-1], dtype="bool")
    mask = ops.cast(mask, "bool")
    return without_padding(rows, mask), mask


def _last_valid(mask):
    """bool `(..., L)`, True at the last valid position of every row."""
    behind = ops.flip(ops.cumsum(ops.flip(ops.cast(mask, "int32"), axis=-1), axis=-1), axis=-1)
    return ops.logical_and(mask, ops.equal(behind, 1))
