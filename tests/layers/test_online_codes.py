import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients, load_fixture

from keras_itr.layers import OnlineCodes


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def rows(*shape, seed=0):
    x = draw(*shape, seed=seed)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sinkhorn(scores, epsilon=0.05, iterations=3):
    """The balancing of the reference, in float64."""
    share = np.exp((scores.astype("float64") - scores.max()) / epsilon).T
    share /= share.sum()
    for _ in range(iterations):
        share /= share.sum(axis=1, keepdims=True) * len(share)
        share /= share.sum(axis=0, keepdims=True) * share.shape[1]
    return (share * share.shape[1]).T


def test_fixture():
    case, description = load_fixture("coder", "codes_00")
    layer = OnlineCodes(*case["prototypes"].shape, **description["settings"])
    layer.prototypes.assign(case["prototypes"])
    np.testing.assert_allclose(numpy(layer(case["instance"])), case["codes"], rtol=1e-4, atol=1e-6)

    def loss(instance, concept):
        logits = ops.matmul(concept, ops.transpose(layer.prototypes)) / layer.temperature
        return -ops.mean(ops.sum(layer.assign(instance) * ops.log_softmax(logits, axis=1), axis=1))

    value, grads = gradients(loss, [case["instance"], case["concept"]], [layer.prototypes])
    np.testing.assert_allclose(value, case["loss"], rtol=1e-4, atol=1e-6)
    # The codes are constants: nothing for the instance, and no second path to the prototypes.
    assert not grads[0].any()
    np.testing.assert_allclose(grads[1], case["grad_concept"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads[2], case["grad_prototypes"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 1), (0.05, 3), (0.5, 20), (0.005, 3)])
def test_equal_to_the_plain_balancing(epsilon, iterations):
    layer = OnlineCodes(5, 4, epsilon, iterations)
    x = rows(9, 4)
    codes = numpy(layer.assign(x))
    np.testing.assert_allclose(codes.sum(axis=1), 1, atol=1e-6)
    expected = sinkhorn(x.astype("float64") @ numpy(layer.prototypes).T.astype("float64"), epsilon, iterations)
    # A score of float32 is off by 1e-7, its logit by that over epsilon.
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-6 * 0.05 / min(epsilon, 0.05))


def test_many_iterations_balance():
    codes = numpy(OnlineCodes(4, 6, epsilon=0.5, iterations=50).assign(rows(12, 6)))
    np.testing.assert_allclose(codes.sum(axis=0), 3, atol=1e-3)


def test_a_small_epsilon_underflows_nowhere():
    codes = numpy(OnlineCodes(5, 4, epsilon=1e-4).assign(rows(9, 4)))
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, atol=1e-6)


def test_extra_rows_are_balanced_along_and_cut():
    layer = OnlineCodes(6, 4)
    x, extra = rows(3, 4), rows(8, 4, seed=1)
    together = numpy(layer.assign(np.concatenate([x, extra])))
    np.testing.assert_allclose(numpy(layer.assign(x, extra)), together[:3], atol=1e-6)
    valid = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
    extra[~valid] = 0
    expected = numpy(layer.assign(np.concatenate([x, extra[valid]])))[:3]
    np.testing.assert_allclose(numpy(layer(x, extra, valid)), expected, atol=1e-6)
    nobody = numpy(layer.assign(x, extra, np.zeros(8, bool)))
    np.testing.assert_allclose(nobody, numpy(layer.assign(x)), atol=1e-6)


def test_prototypes_stay_of_unit_length_in_training():
    class Learner(keras.Model):
        def __init__(self):
            super().__init__()
            self.codes = OnlineCodes(5, 4)
            self.dense = keras.layers.Dense(4)
            self.dense.build((None, 4))
            self.built = True

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            logits = ops.matmul(y_pred, ops.transpose(self.codes.prototypes)) / self.codes.temperature
            return -ops.mean(ops.sum(self.codes.assign(x) * ops.log_softmax(logits, axis=1), axis=1))

    model = Learner()
    before = numpy(model.codes.prototypes)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, atol=1e-6)
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    model.fit(rows(10, 4), batch_size=4, verbose=0)
    after = numpy(model.codes.prototypes)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-6)


def test_configuration_and_weights_round_trip(tmp_path):
    layer = OnlineCodes(5, 4, 0.1, 2, 0.2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config() and copy.temperature == 0.2
    keras.saving.save_weights(layer, tmp_path / "codes.weights.h5")
    keras.saving.load_weights(copy, tmp_path / "codes.weights.h5")
    np.testing.assert_array_equal(numpy(copy(rows(3, 4))), numpy(layer(rows(3, 4))))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer, plain = OnlineCodes(5, 4, dtype=policy), OnlineCodes(5, 4)
    plain.set_weights(layer.get_weights())
    for call in (lambda codes: codes(rows(6, 4)), lambda codes: codes.assign(rows(6, 4))):
        assert keras.backend.standardize_dtype(call(layer).dtype) == "float32"
        np.testing.assert_allclose(numpy(call(layer)), numpy(call(plain)), atol=1e-6)
    half = numpy(layer.assign(ops.cast(rows(6, 4), "float16")))
    assert np.isfinite(half).all()


def test_errors():
    with pytest.raises(ValueError, match="epsilon > 0 and iterations >= 1, received 0 and 3"):
        OnlineCodes(5, 4, epsilon=0)
    with pytest.raises(ValueError, match=r"received 0\.05 and 0"):
        OnlineCodes(5, 4, iterations=0)
