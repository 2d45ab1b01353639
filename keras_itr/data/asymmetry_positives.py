import math

from keras_itr.preprocessing.cleaning import clean_ascl, first_words
from keras_itr.preprocessing.tensors import to_strings

MODES = ("join", "truncate")
INPUTS = ("captions", "num_captions", "anchor", "example_id", "epoch")


class AsymmetryPositives:
    """One more caption that is true of the image: longer than the own one (`"join"`), or shorter (`"truncate"`).

    - `"join"`: two captions of the image, cleaned, with one blank between them. They are drawn independently and
      uniformly: both may be the same, and each may be the anchor. An empty one is dropped.
    - `"truncate"`: the first `max(min_words, floor(keep_ratio * n))` of the `n` words of the cleaned anchor; all of
      them if it has fewer, and nothing if it has none.

    Two captions have up to `2 * max_words` words: the tokenizer should take 64 tokens or more, or it cuts them.

    The draws of an example are `tf.random.stateless_uniform([3], [seed, epoch * 2**32 + example_id], float32,
    alg="philox")`: two picks, and the mode. All three are drawn whatever the mode is, so that the caption depends on
    nothing but seed, epoch and example: not on the order, the batch or parallel calls. TensorFlow operations only.

    Args:
        modes: one or both of `"join"` and `"truncate"`, default both. A single one always applies.
        probabilities: of the modes, in their order, default 0.5 each. Not read where there is a single mode.
        keep_ratio: float, share of the words that truncation keeps, default 0.5.
        min_words: int, words that truncation keeps at least, default 1.
        max_words: int, words that cleaning keeps of a caption, default 60.
        seed: int, default 0.

    Call arguments:
        batch: dict of one example, or of a batch of them:
            - `"captions"`: string `(N,)` or `(B, N)`, the captions of the image, at least one;
            - `"num_captions"`: int, scalar or `(B,)`: how many of a row are captions, if there is padding behind them;
            - `"anchor"`: the own caption, string, or its place among the captions, int; scalar or `(B,)`;
            - `"example_id"`: int, scalar or `(B,)`, a number of the example that does not change with its order;
            - `"epoch"`: int, scalar or `(B,)`.

    Returns:
        The dict with `"positive_text"`, a string scalar or `(B,)`.

    Raises:
        ValueError: if there is no mode, an unknown one or one twice, if the probabilities are not one for each mode
            that add up to 1, or if a length is out of its range.

    Example:

    ```python
    from keras_itr.data import AsymmetryPositives

    captions = ["A man rides a horse, slowly.", "Someone on horseback."]
    example = {"captions": captions, "anchor": captions[0], "example_id": 12345, "epoch": 0}
    AsymmetryPositives()(example)["positive_text"]  # "a man rides"
    AsymmetryPositives(modes=["join"])(example)["positive_text"]  # "someone on horseback someone on horseback"
    ```

    Reference: Gong et al., AsCL, ICME 2024, for the types of asymmetry; the operators are those of the first author's
    follow-up system, and to join cleaned captions and to keep one word are our choice.
    """

    def __init__(self, modes=MODES, probabilities=(0.5, 0.5), keep_ratio=0.5, min_words=1, max_words=60, seed=0):
        self.modes = _checked_modes(modes)
        self.probabilities = _checked_probabilities(probabilities, self.modes)
        if not 0 <= keep_ratio <= 1:
            raise ValueError(f"`keep_ratio` must be from 0 to 1, got {keep_ratio!r}.")
        if min_words < 1 or max_words < 1:
            raise ValueError(f"`min_words` and `max_words` must be at least 1, got {min_words!r} and {max_words!r}.")
        self.keep_ratio = keep_ratio
        self.min_words = min_words
        self.max_words = max_words
        self.seed = seed

    def __call__(self, batch):
        import tensorflow as tf

        with tf.device("CPU:0"):
            given = {key: tf.convert_to_tensor(batch[key]) for key in INPUTS if key in batch}
            if given["captions"].shape.rank > 1:
                return {**batch, "positive_text": self._texts(**given)}
            one = {key: tensor[None] for key, tensor in given.items()}
            return {**batch, "positive_text": self._texts(**one)[0]}

    def _texts(self, captions, anchor, example_id, epoch, num_captions=None):
        """The positives of a batch, string (B,)."""
        import tensorflow as tf

        if anchor.dtype != tf.string:
            anchor = tf.gather(captions, anchor, batch_dims=1)
        draws = self.draw(example_id, epoch)
        count = tf.cast(tf.shape(captions)[1] if num_captions is None else num_captions, tf.float32)
        count = tf.reshape(count, [-1, 1])
        picks = tf.cast(tf.minimum(tf.floor(draws[:, :2] * count), count - 1), tf.int32)
        # What was picked is cleaned, not all that might have been.
        texts = tf.concat([tf.gather(captions, picks, batch_dims=1), anchor[:, None]], axis=1)
        first, second, anchor = tf.unstack(self.clean(texts), 3, axis=1)
        return tf.where(draws[:, 2] < self._truncated_share(), self.truncate(anchor), self.join(first, second))

    def draw(self, example_id, epoch):
        """The uniform draws of examples, float32 `(B, 3)`: two for the picks, one for the mode."""
        import tensorflow as tf

        counters = tf.cast(epoch, tf.int64) * 2**32 + tf.cast(example_id, tf.int64)
        keys = tf.stack([tf.fill(tf.shape(counters), tf.constant(self.seed, tf.int64)), counters], axis=1)
        return tf.map_fn(
            lambda key: tf.random.stateless_uniform([3], key, alg="philox"),
            keys,
            fn_output_signature=tf.TensorSpec([3], tf.float32),
        )

    def clean(self, texts):
        """Cleaned captions, string of the same shape: lower case, no punctuation, single blanks, `max_words` words."""
        return clean_ascl(to_strings(texts), self.max_words)

    def join(self, first, second):
        """Two cleaned captions with a blank between them, without one that is empty."""
        import tensorflow as tf

        # A blank at an end is that of an empty caption.
        return tf.strings.strip(tf.strings.join([first, second], separator=" "))

    def truncate(self, texts):
        """The first words of cleaned captions."""
        import tensorflow as tf

        # In double precision, as Python's own `floor(keep_ratio * n)`.
        texts = to_strings(texts)
        counts = tf.cast(tf.strings.split(tf.reshape(texts, [-1])).row_lengths(), tf.float64)
        return first_words(texts, tf.maximum(tf.cast(tf.floor(self.keep_ratio * counts), tf.int32), self.min_words))

    def _truncated_share(self):
        """The bound below which the third draw means truncation."""
        return dict(zip(self.modes, self.probabilities, strict=True)).get("truncate", 0.0)


def _checked_modes(modes):
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes or len(set(modes)) < len(modes):
        raise ValueError(f"`modes` must be one or both of {list(MODES)}, got {list(modes)}.")
    return modes


def _checked_probabilities(probabilities, modes):
    if len(modes) == 1:
        return (1.0,)
    probabilities = tuple(probabilities)
    whole = len(probabilities) == len(modes) and math.isclose(sum(probabilities), 1.0, abs_tol=1e-6)
    if not whole or min(probabilities) < 0:
        raise ValueError(
            f"`probabilities` must be {len(modes)} numbers from 0 to 1 that add up to 1, for {' and '.join(modes)}; "
            f"got {list(probabilities)}."
        )
    return probabilities
