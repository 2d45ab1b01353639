import numpy as np

from keras_itr.data.augmentation import draw_per_example

# What becomes of a touched word: hidden, else swapped, else deleted (upper bounds of one draw).
HIDDEN, SWAPPED = 0.5, 0.6


class RegionDropout:
    """Leave out some regions of every image, keyed per example: they are masked, the features stay as they are.

    Each valid region is dropped with the rate, independently of the others. At
    least one survives where there was one.

    Args:
        rate: float in 0..1, default 0.2.

    Call arguments:
        batch: dict with `"regions"` `(B, R, D)`, a TF tensor, and perhaps
            `"region_mask"` `(B, R)` bool, True = valid.
        keys: `(B, 2)` int64, one pair per example.

    Returns:
        The dict with `"region_mask"` `(B, R)` bool.

    Raises:
        ValueError: if the rate is outside 0..1.

    Example:

    ```python
    import numpy as np
    from keras_itr.data import RegionDropout

    batch = {"regions": np.zeros((1, 36, 2048), "float32")}
    RegionDropout(0.2)(batch, np.array([[5, 7]], "int64"))["region_mask"].shape  # (1, 36)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, and its official code; the
    survivor and the keys are our choice.
    """

    changes = ("region_mask",)

    def __init__(self, rate=0.2):
        self.rate = _checked(rate)

    def __call__(self, batch, keys):
        import tensorflow as tf

        count = batch["regions"].shape[1]
        draws = draw_per_example(keys, "region dropout", (count,))
        valid = batch["region_mask"] if "region_mask" in batch else tf.ones_like(draws, tf.bool)
        # The valid region with the largest draw survives at any rate.
        largest = tf.reduce_max(tf.where(valid, draws, 0.0), axis=1, keepdims=True)
        return {**batch, "region_mask": valid & (draws >= tf.minimum(largest, self.rate))}


class WordDropout:
    """Hide, swap or delete some words of every training caption, keyed per example.

    Each word is touched with the rate, independently of the others. Of the
    touched words 50 % become mask tokens, 10 % random tokens (uniform over the
    vocabulary without its special tokens), both piece by piece, and 40 % are
    deleted. So a rate of 0.2 deletes 8 % of the words. The start and the end of
    a caption stay, and at least one word is not deleted where there was one.

    Args:
        tokenizer: a `VocabularyTokenizer` with a vocabulary; it made the ids.
        rate: float in 0..1, default 0.2.

    Call arguments:
        batch: dict with `"token_ids"` `(B, L)` int32 and `"padding_mask"`
            `(B, L)` bool, True = valid, right-padded TF tensors.
        keys: `(B, 2)` int64, one pair per example.

    Returns:
        The dict with both of the same shape, right-padded again.

    Raises:
        ValueError: if the rate is outside 0..1, or the tokenizer has no vocabulary.

    Example:

    ```python
    import numpy as np
    from keras_itr.data import WordDropout
    from keras_itr.preprocessing import WordTokenizer

    tokenizer = WordTokenizer.from_captions(["a red hat"], sequence_length=6)
    batch = {"token_ids": np.array([[2, 4, 6, 5, 3, 0]], "int32"), "padding_mask": np.array([[True] * 5 + [False]])}
    WordDropout(tokenizer)(batch, np.array([[5, 7]], "int64"))["token_ids"].shape  # (1, 6)
    ```

    Reference: Chen et al., VSE-infinity, CVPR 2021, and its official code; the
    survivor, the keys, random tokens that are never special, and the mask token
    of a vocabulary without `[MASK]` are our choice.
    """

    changes = ("token_ids", "padding_mask")

    def __init__(self, tokenizer, rate=0.2):
        self.tokenizer = tokenizer
        self.rate = _checked(rate)
        special = [tokenizer.token_to_id(token) for token in tokenizer.special_token_names]
        special += [tokenizer.pad_token_id, tokenizer.mask_token_id]
        self.random_ids = np.setdiff1d(np.arange(tokenizer.vocabulary_size(), dtype="int32"), special)

    def __call__(self, batch, keys):
        import tensorflow as tf

        ids, mask = tf.convert_to_tensor(batch["token_ids"]), batch["padding_mask"]
        draws = draw_per_example(keys, "word dropout", (2, ids.shape[1]))
        # The start token is word 0; all pieces of a word share the draw of its number.
        words = tf.cumsum(tf.cast(self.tokenizer.begins_word(ids), tf.int32), axis=1) - 1
        fate = tf.gather(draws[:, 0], words, batch_dims=1)
        inside = mask & (ids != self.tokenizer.start_token_id) & (ids != self.tokenizer.end_token_id)
        deleted = inside & (fate >= SWAPPED * self.rate) & (fate < self.rate)
        emptied = tf.reduce_all(deleted | ~inside, axis=1, keepdims=True)
        kept = mask & ~(deleted & ~(emptied & (words == 1)))
        pieces = tf.gather(self.random_ids, tf.cast(draws[:, 1] * len(self.random_ids), tf.int32))
        changed = tf.where(fate < HIDDEN * self.rate, self.tokenizer.mask_token_id, pieces)
        ids = tf.where(inside & (fate < SWAPPED * self.rate), changed, ids)
        return {**batch, **self._packed(ids, kept)}

    def _packed(self, ids, kept):
        """The kept tokens moved to the left, padding behind them."""
        import tensorflow as tf

        length = ids.shape[1]
        packed = tf.ragged.boolean_mask(ids, kept).to_tensor(self.tokenizer.pad_token_id, shape=[None, length])
        counts = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)
        return {"token_ids": tf.ensure_shape(packed, ids.shape), "padding_mask": tf.sequence_mask(counts, length)}


def _checked(rate):
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must be from 0 to 1, got {rate!r}.")
    return rate
