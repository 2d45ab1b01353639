import math

import keras
from keras import ops

from keras_itr.numerics import at_least_float32, unit_rows


@keras.saving.register_keras_serializable(package="keras_itr")
class ConceptQuery(keras.layers.Layer):
    """An embedding asks a matrix of concepts and gets a descriptor made of them.

    ```
    q = tanh(x Wq + bq)     k = tanh(C Wk + bk)     a_ik = ws . (q_i * k_k) + bs
    p_i = softmax_k(smoothing * a_ik)               u_i = l2(sum_k p_ik C_k)
    ```

    Scores, softmax and descriptor are float32 under any dtype policy. `bs`
    shifts all scores alike and so never learns; published models have it.

    Args:
        units: int, width of the joint space of queries and keys, default 1024.
        smoothing: float, factor before the softmax, default 10.

    The widths of the inputs come with `build(x_shape, concepts_shape)`; call it
    in the constructor of whatever holds the layer.

    Call arguments:
        x: `(B, D)` float, embeddings.
        concepts: `(K, C)` float, as of `ConceptGraphEncoder`.

    Returns:
        descriptor `(B, C)`, unit rows, and attention `(B, K)`, rows sum to 1;
        both at least float32.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import ConceptQuery

    draw = lambda *shape: np.random.normal(size=shape).astype("float32")
    descriptor, attention = ConceptQuery(units=8)(draw(2, 16), draw(5, 16))
    descriptor.shape, attention.shape  # (2, 16), (2, 5)
    ```

    Reference: Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020,
    as related code of CODER (ECCV 2022). The first kernels, of standard
    deviation 0.5 for inputs of unit length, are our choice.
    """

    def __init__(self, units=1024, smoothing=10.0, **kwargs):
        # Concepts stay what they are: the dense layers cast for themselves.
        super().__init__(autocast=False, **kwargs)
        self.units = units
        self.smoothing = smoothing

    def build(self, x_shape, concepts_shape):
        self.query = self._dense(x_shape[-1], "query")
        self.key = self._dense(concepts_shape[-1], "key")
        bound = math.sqrt(6 / (self.units + 1))
        uniform = keras.initializers.RandomUniform(-bound, bound)
        self.score_kernel = self.add_weight((self.units,), uniform, "float32", autocast=False, name="score_kernel")
        self.score_bias = self.add_weight((), "zeros", "float32", autocast=False, name="score_bias")

    def call(self, x, concepts):
        concepts = at_least_float32(concepts)
        query, key = at_least_float32(self.query(x)), at_least_float32(self.key(concepts))
        # ws . (q * k) for all pairs at once.
        score = ops.matmul(query * self.score_kernel, ops.transpose(key)) + self.score_bias
        attention = ops.softmax(self.smoothing * score, axis=-1)
        return unit_rows(ops.matmul(attention, concepts)), attention

    def _dense(self, width, name):
        # Rows of unit length: the usual initializers, made for entries near 1, would leave every attention uniform, and
        # all descriptors equal.
        kernel = keras.initializers.RandomNormal(stddev=0.5)
        dense = keras.layers.Dense(
            self.units, activation="tanh", kernel_initializer=kernel, dtype=self.dtype_policy, name=name
        )
        dense.build((None, width))
        return dense

    def compute_output_shape(self, x_shape, concepts_shape):
        return (x_shape[0], concepts_shape[-1]), (x_shape[0], concepts_shape[0])

    def get_config(self):
        return {**super().get_config(), "units": self.units, "smoothing": self.smoothing}
