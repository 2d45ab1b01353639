import math

import keras


@keras.saving.register_keras_serializable(package="keras_itr")
class UniversalHead(keras.layers.Layer):
    """Layer normalisation and one dense map, the head of each of CUSA's branches.

    No activation, no dropout, no residual. The output is not normalised.

    Args:
        dim: int, output width; None (default) keeps the input width.
        epsilon: float, of the layer normalisation, default 1e-5.
        kernel_stddev: float, the kernel starts from N(0, kernel_stddev), default
            0.02; the bias from uniform(+-1/sqrt(input width)).

    Call arguments:
        x: `(B, D)` float.

    Returns:
        `(B, dim or D)` float.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import UniversalHead

    UniversalHead()(np.ones((2, 8), "float32")).shape  # (2, 8)
    ```

    Reference: the code of Huang et al., CUSA, AAAI 2024.
    """

    def __init__(self, dim=None, epsilon=1e-5, kernel_stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.epsilon = epsilon
        self.kernel_stddev = kernel_stddev

    def build(self, x_shape):
        width = x_shape[-1]
        bound = 1 / math.sqrt(width)
        self.normalization = keras.layers.LayerNormalization(
            epsilon=self.epsilon, dtype=self.dtype_policy, name="normalization"
        )
        self.dense = keras.layers.Dense(
            self.dim or width,
            kernel_initializer=keras.initializers.RandomNormal(stddev=self.kernel_stddev),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.normalization.build(x_shape)
        self.dense.build(x_shape)

    def call(self, x):
        return self.dense(self.normalization(x))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.dim or x_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "epsilon": self.epsilon,
            "kernel_stddev": self.kernel_stddev,
        }
