import keras
from keras import ops

OPERATORS = ("noise", "dropout", "shuffle", "zero_feature", "zero_token")


@keras.saving.register_keras_serializable(package="keras_itr")
class TextNegatives(keras.layers.Layer):
    """Word features of a text with something wrong in them, in training.

    Each text is changed by one of the operators, drawn uniformly:

    - `"noise"`: normal noise on every word;
    - `"dropout"`: elements zeroed at random, the others divided by `1 - rate`;
    - `"shuffle"`: the words in another order. An attention that knows no order
      sees no difference, so that it is off by default: such a negative has to
      be made before the text encoder;
    - `"zero_feature"`: one feature zeroed in every word;
    - `"zero_token"`: one word zeroed.

    Only valid positions change; padding stays as it is. Draws come from the
    layer's own generator and do not depend on the mode of any other layer.
    Gradients pass through all operators.

    Args:
        operators: the names to draw from, default all but `"shuffle"`.
        noise_stddev: float, default 1.
        dropout_rate: float in 0..1, 1 excluded, default 0.5.
        per_example: bool. True (default) draws an operator, a feature and a
            word for every text, False one of each for a whole call (of a text
            that word is the one with the highest key, among its own).
        seed: int, of the draws; None (default) takes Keras' global one.

    Call arguments:
        words: `(T, L, D)` float.
        mask: `(T, L)` bool, True = valid; all True if None.
        training: bool; without it the words come back as they are.

    Returns:
        `(T, L, D)` of the dtype of `words`.

    Methods:
        add_noise(words, mask, noise): `noise` `(T, L, D)`, added at valid
            positions.
        drop(words, keep): `keep` `(T, L, D)` bool.
        shuffle(words, mask, order): `order` `(T, L)` float; valid positions are
            sorted by ascending key, padding keeps its place.
        zero_feature(words, feature): int, or `(T,)` int.
        zero_token(words, token): int, or `(T,)` int; -1 for none.

    Raises:
        ValueError: for no or an unknown operator, a negative `noise_stddev`, or
            a `dropout_rate` outside of 0..1.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import TextNegatives

    words = np.ones((4, 6, 8), "float32")
    TextNegatives(seed=0)(words, training=True)  # each of the four texts is wrong somewhere
    ```

    Reference: the code of Gong et al., ACF-R+, as related code of AsCL (ICME
    2024). One draw per text, valid positions only, and the order of words off
    by default are our choice.
    """

    def __init__(
        self,
        operators=("noise", "dropout", "zero_feature", "zero_token"),
        noise_stddev=1.0,
        dropout_rate=0.5,
        per_example=True,
        seed=None,
        **kwargs,
    ):
        # Word features stay what they are under any dtype policy.
        super().__init__(autocast=False, **kwargs)
        operators = tuple(operators)
        if not operators or not set(operators) <= set(OPERATORS):
            raise ValueError(f"operators must be one or more of {', '.join(OPERATORS)}, received {operators}.")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must be at least 0 and less than 1, received {dropout_rate}.")
        if noise_stddev < 0:
            raise ValueError(f"noise_stddev must be at least 0, received {noise_stddev}.")
        self.operators = operators
        self.noise_stddev = noise_stddev
        self.dropout_rate = dropout_rate
        self.per_example = per_example
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        self.built = True

    def call(self, words, mask=None, training=None):
        words = ops.convert_to_tensor(words)
        if not training:
            return words
        mask = ops.ones(ops.shape(words)[:2], "bool") if mask is None else ops.cast(mask, "bool")
        draws = ops.shape(words)[0] if self.per_example else 1
        choice = keras.random.randint((draws, 1, 1), 0, len(self.operators), seed=self.seed_generator)
        result = words
        # All are cheap next to the similarity, and a select is the same on every backend.
        for index, name in enumerate(self.operators):
            result = ops.where(ops.equal(choice, index), self._drawn(name, words, mask, draws), result)
        return ops.where(mask[:, :, None], result, words)

    def add_noise(self, words, mask, noise):
        words = ops.convert_to_tensor(words)
        return words + ops.where(ops.cast(mask, "bool")[:, :, None], ops.cast(noise, words.dtype), 0)

    def drop(self, words, keep):
        words = ops.convert_to_tensor(words)
        return ops.where(ops.cast(keep, "bool"), words / (1 - self.dropout_rate), 0)

    def shuffle(self, words, mask, order):
        words, valid = ops.convert_to_tensor(words), ops.cast(mask, "bool")
        # Valid positions by ascending key come first; the k-th of them goes to the k-th valid place.
        ordered = ops.argsort(ops.where(valid, ops.cast(order, "float32"), float("inf")), axis=1)
        rank = ops.maximum(ops.cumsum(ops.cast(valid, "int32"), axis=1) - 1, 0)
        source = ops.take_along_axis(ops.cast(ordered, "int32"), rank, axis=1)
        source = ops.where(valid, source, ops.arange(ops.shape(words)[1], dtype="int32")[None, :])
        return ops.take_along_axis(words, source[:, :, None], axis=1)

    def zero_feature(self, words, feature):
        words = ops.convert_to_tensor(words)
        zeroed = ops.equal(ops.arange(words.shape[2], dtype="int32")[None, None, :], _per_text(feature))
        return ops.where(zeroed, 0, words)

    def zero_token(self, words, token):
        words = ops.convert_to_tensor(words)
        zeroed = ops.equal(ops.arange(ops.shape(words)[1], dtype="int32")[None, :, None], _per_text(token))
        return ops.where(zeroed, 0, words)

    def _drawn(self, name, words, mask, draws):
        """The operator called `name` with random numbers of its own, for each text or for all."""
        seed, shape = self.seed_generator, ops.shape(words)
        if name == "noise":
            return self.add_noise(
                words, mask, self.noise_stddev * keras.random.normal(shape, dtype="float32", seed=seed)
            )
        if name == "dropout":
            uniform = keras.random.uniform(shape, dtype="float32", seed=seed)
            return self.drop(words, uniform >= self.dropout_rate)
        if name == "zero_feature":
            return self.zero_feature(words, keras.random.randint((draws,), 0, words.shape[2], seed=seed))
        keys = keras.random.uniform((draws, shape[1]), dtype="float32", seed=seed)
        if name == "shuffle":
            return self.shuffle(words, mask, keys)
        highest = ops.cast(ops.argmax(ops.where(mask, keys, -1.0), axis=1), "int32")
        return self.zero_token(words, ops.where(ops.any(mask, axis=1), highest, -1))

    def compute_output_shape(self, words_shape):
        return words_shape

    def get_config(self):
        return {
            **super().get_config(),
            "operators": self.operators,
            "noise_stddev": self.noise_stddev,
            "dropout_rate": self.dropout_rate,
            "per_example": self.per_example,
            "seed": self.seed,
        }


def _per_text(index):
    """`(T, 1, 1)` or `(1, 1, 1)` of an index per text or for all."""
    return ops.reshape(ops.cast(index, "int32"), (-1, 1, 1))
