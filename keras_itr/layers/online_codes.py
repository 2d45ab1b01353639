import keras
from keras import ops

from keras_itr.numerics import at_least_float32, unit_rows


@keras.saving.register_keras_serializable(package="keras_itr")
class OnlineCodes(keras.layers.Layer):
    """Pseudo labels by online clustering: balanced soft assignments to prototypes.

    `codes = Sinkhorn(x Z^T / epsilon)`: rows sum to 1, and the columns share the
    batch about equally. Codes carry no gradient, neither to `x` nor to the
    prototypes; those learn from the loss that predicts the codes
    (`keras_itr.losses.pseudo_label_prediction`), and the optimizer puts them
    back to unit length after every update. In logarithms and float32, so that a
    small epsilon underflows nowhere.

    With fewer rows than prototypes an equal share means little: give further
    features, such as those of a queue, as `extra`.

    Args:
        num_prototypes: int, P.
        dim: int, D.
        epsilon: float, of the assignment, default 0.05; smaller is harder.
        iterations: int, of the balancing, at least 1, default 3.
        temperature: float, default 0.1: for the prediction of the codes, kept
            here beside the prototypes.

    Call arguments:
        x: `(N, D)` float, unit rows.
        extra: `(M, D)` float, unit rows that are balanced along and left out of
            the result; optional.
        extra_valid: `(M,)` bool, False leaves a row of `extra` out, such as an
            empty slot (`queue.ids() != -1`); all True if None.

    Returns:
        codes `(N, P)` float32, rows sum to 1. `assign` is the same function.

    Attributes:
        prototypes: the variable Z `(P, D)`, unit rows.

    Raises:
        ValueError: if `epsilon` is not positive or `iterations` is below 1.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import OnlineCodes

    codes = OnlineCodes(num_prototypes=4, dim=8)
    codes.assign(np.eye(8, dtype="float32")).shape  # (8, 4)
    ```

    Reference: Caron et al., SwAV, NeurIPS 2020, for the balancing; pseudo labels
    after Wang et al., CODER, ECCV 2022. `extra` is our choice.
    """

    def __init__(self, num_prototypes, dim, epsilon=0.05, iterations=3, temperature=0.1, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if epsilon <= 0 or iterations < 1:
            raise ValueError(f"codes need epsilon > 0 and iterations >= 1, received {epsilon} and {iterations}.")
        self.num_prototypes = num_prototypes
        self.dim = dim
        self.epsilon = epsilon
        self.iterations = iterations
        self.temperature = temperature
        self.prototypes = self.add_weight(
            (num_prototypes, dim),
            lambda shape, dtype: unit_rows(keras.initializers.RandomNormal()(shape, dtype)),
            dtype="float32",
            autocast=False,
            constraint=keras.constraints.UnitNorm(axis=1),
            name="prototypes",
        )
        self.built = True

    def call(self, x, extra=None, extra_valid=None):
        return self.assign(x, extra, extra_valid)

    def assign(self, x, extra=None, extra_valid=None):
        x = at_least_float32(x)
        count = ops.shape(x)[0]
        valid = ops.ones((count,), dtype="bool")
        if extra is not None:
            extra = at_least_float32(extra)
            if extra_valid is None:
                extra_valid = ops.ones((ops.shape(extra)[0],), dtype="bool")
            x = ops.concatenate([x, extra], axis=0)
            valid = ops.concatenate([valid, ops.cast(extra_valid, "bool")], axis=0)
        scores = ops.matmul(ops.stop_gradient(x), ops.transpose(ops.stop_gradient(self.prototypes)))
        return self._balanced(scores / self.epsilon, valid)[:count]

    def _balanced(self, logits, valid):
        """Sinkhorn: divide by the mass of each prototype over the samples, then by that of each sample."""
        for _ in range(self.iterations):
            mass = ops.logsumexp(ops.where(valid[:, None], logits, -1e30), axis=0, keepdims=True)
            logits = ops.log_softmax(logits - mass, axis=1)
        return ops.stop_gradient(ops.exp(logits))

    def compute_output_shape(self, x_shape, extra_shape=None, extra_valid_shape=None):
        return (x_shape[0], self.num_prototypes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_prototypes": self.num_prototypes,
            "dim": self.dim,
            "epsilon": self.epsilon,
            "iterations": self.iterations,
            "temperature": self.temperature,
        }
