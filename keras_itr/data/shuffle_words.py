from keras_itr.data.augmentation import draw_per_example


class ShuffleWords:
    """A negative caption for every example: the own words in another order, keyed per example.

    The words between the start and the end token are put in a random order. The pieces of a word stay together and in
    their order; start, end and padding stay in place. The rule that makes the order another one: where the drawn one
    gives the same ids, the words are turned by one place instead, the last word to the front. So the ids differ
    wherever two words do. A caption of no word, of one, or of one word many times stays as it is; and words that the
    vocabulary does not know are all one word.

    The ids are read as they are when the augmentation is called: it belongs before `WordDropout`, which would have its
    hidden and swapped words shuffled. It changes no key that was there, so that second views have no negatives of
    their own.

    Args:
        tokenizer: a `VocabularyTokenizer`; it made the ids.
        seed: int, default 0: another order for the same keys, which hold the pipeline's own seed.

    Call arguments:
        batch: dict with `"token_ids"` `(B, L)` int32 and `"padding_mask"`
            `(B, L)` bool, True = valid, right-padded TF tensors.
        keys: `(B, 2)` int64, one pair per example.

    Returns:
        The dict with `"negative_token_ids"` `(B, L)` int32 and `"negative_padding_mask"` `(B, L)` bool besides.

    Raises:
        ValueError: if the tokenizer has no vocabulary.

    Example:

    ```python
    import numpy as np
    from keras_itr.data import ShuffleWords
    from keras_itr.preprocessing import WordTokenizer

    tokenizer = WordTokenizer.from_captions(["red hat"], sequence_length=6)
    batch = {"token_ids": np.array([[2, 5, 4, 3, 0, 0]], "int32"), "padding_mask": np.array([[True] * 4 + [False] * 2])}
    ShuffleWords(tokenizer)(batch, np.array([[5, 7]], "int64"))["negative_token_ids"]  # [[2, 4, 5, 3, 0, 0]]
    ```

    Our choice. Shuffled after the encoder, as in the follow-up system of AsCL (Gong et al., ICME 2024), the words
    would leave similarities that do not depend on their order unchanged.
    """

    changes = ()

    def __init__(self, tokenizer, seed=0):
        tokenizer.get_vocabulary()  # raises where there is none, as here and not in a worker
        self.tokenizer = tokenizer
        self.seed = seed

    def __call__(self, batch, keys):
        import tensorflow as tf

        ids, mask = tf.convert_to_tensor(batch["token_ids"]), batch["padding_mask"]
        draws = draw_per_example(keys, f"word order {self.seed}", (ids.shape[1],))
        inside = mask & (ids != self.tokenizer.start_token_id) & (ids != self.tokenizer.end_token_id)
        # The start token is word 0, the end token the one after the last; padding comes behind.
        words = tf.cumsum(tf.cast(self.tokenizer.begins_word(ids), tf.int32), axis=1) - 1
        places = tf.cast(words, draws.dtype)
        shuffled = _sorted_by(tf.where(inside, tf.gather(draws, words, batch_dims=1), places), ids)
        last = tf.reduce_max(tf.where(inside, words, 0), axis=1, keepdims=True)
        turned = _sorted_by(tf.where(inside & (words == last), tf.constant(0.5, draws.dtype), places), ids)
        same = tf.reduce_all(shuffled == ids, axis=1, keepdims=True)
        return {**batch, "negative_token_ids": tf.where(same, turned, shuffled), "negative_padding_mask": mask}


def _sorted_by(places, ids):
    """The ids in ascending order of their places; equal ones, such as the pieces of a word, stay in order."""
    import tensorflow as tf

    return tf.gather(ids, tf.argsort(places, axis=1, stable=True), batch_dims=1)
