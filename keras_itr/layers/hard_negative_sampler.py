import keras
from keras import ops

from keras_itr.numerics import at_least_float32

# Below this logarithm a softmax weight is no normal float32 number: it has vanished, on every backend alike.
VANISHED = -87.0


@keras.saving.register_keras_serializable(package="keras_itr")
class HardNegativeSampler(keras.layers.Layer):
    """Draws one in-batch negative per row, more often the more similar it is.

    The chance of column j in row i is that of a softmax over the row, limited
    to columns of another image and divided by their sum. A row whose own pair
    takes everything, so that all other weights vanish in float32, draws
    uniformly among the other images. A row without any is invalid: its
    probabilities are zero and its index means nothing. No gradient.

    A draw is the first column whose cumulative probability exceeds a uniform
    number.

    Args:
        seed: int, of the uniform numbers; None (default) takes Keras' global one.

    Call arguments:
        similarity: `(B, B)` float, already divided by the temperature; row i is
            item i against all candidates. Transpose it for the other direction.
        ids: `(B,)` int, equal ids = the same image; None: all rows differ.
        uniforms: `(B,)` float in `[0, 1)`, in place of the layer's own draws.

    Returns:
        index `(B,)` int32 of the drawn column, valid `(B,)` bool.

    Methods:
        probabilities(similarity, ids=None): `(B, B)`, rows sum to 1 or are zero.
        hardest(similarity, ids=None): like a call, but always the most probable.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import HardNegativeSampler

    sampler = HardNegativeSampler(seed=0)
    similarity = np.random.normal(size=(4, 4)).astype("float32")
    index, valid = sampler(similarity, ids=np.array([0, 0, 1, 2]))
    ```

    Reference: Li et al., Align before Fuse, NeurIPS 2021, and Yang et al., TCL,
    CVPR 2022. The fallback and the draw by inverse distribution are our choice.
    """

    def __init__(self, seed=None, **kwargs):
        # Logits stay what they are under any dtype policy.
        super().__init__(autocast=False, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, similarity, ids=None, uniforms=None):
        chances = self.probabilities(similarity, ids)
        if uniforms is None:
            uniforms = keras.random.uniform((ops.shape(chances)[0],), dtype="float32", seed=self.seed_generator)
        possible = chances > 0
        exceeds = ops.cumsum(chances, axis=1) > ops.cast(uniforms, chances.dtype)[:, None]
        # The sum may round to less than a uniform number near 1: the last possible column then.
        last = ops.cumsum(ops.cast(possible, "int32"), axis=1) == ops.sum(ops.cast(possible, "int32"), 1, keepdims=True)
        index = ops.argmax(ops.cast(ops.logical_and(possible, ops.logical_or(exceeds, last)), "int32"), axis=1)
        return ops.cast(index, "int32"), ops.any(possible, axis=1)

    def probabilities(self, similarity, ids=None):
        similarity = ops.stop_gradient(at_least_float32(similarity))
        if ids is None:
            ids = ops.arange(ops.shape(similarity)[0])
        allowed = ops.not_equal(ops.expand_dims(ids, 1), ops.expand_dims(ids, 0))
        weights = ops.where(allowed, ops.log_softmax(similarity, axis=1), -ops.ones_like(similarity) * 1e30)
        vanished = ops.max(weights, axis=1, keepdims=True) < VANISHED
        # A softmax over the allowed columns alone is the same and loses no digits.
        chances = ops.softmax(ops.where(vanished, ops.where(allowed, 0.0, -1e30), weights), axis=1)
        return ops.where(allowed, chances, 0.0)

    def hardest(self, similarity, ids=None):
        chances = self.probabilities(similarity, ids)
        return ops.cast(ops.argmax(chances, axis=1), "int32"), ops.any(chances > 0, axis=1)

    def compute_output_shape(self, similarity_shape):
        return (similarity_shape[0],), (similarity_shape[0],)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
