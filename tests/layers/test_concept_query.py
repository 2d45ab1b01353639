import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients, load_fixture

from keras_itr.layers import ConceptQuery


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def query(units=4, **kwargs):
    layer = ConceptQuery(units, **kwargs)
    layer.build((None, 6), (None, 5))
    return layer


def test_fixture():
    case, description = load_fixture("coder", "graph_00_toy")
    layer = ConceptQuery(case["wq"].shape[1], description["settings"]["smoothing"])
    layer.build(case["x"].shape, case["concepts_complex"].shape)
    for variable, key in (
        (layer.query.kernel, "wq"),
        (layer.query.bias, "bq"),
        (layer.key.kernel, "wk"),
        (layer.key.bias, "bk"),
        (layer.score_kernel, "ws"),
        (layer.score_bias, "bs"),
    ):
        variable.assign(case[key])
    descriptor, attention = layer(case["x"], case["concepts_complex"])
    np.testing.assert_allclose(numpy(descriptor), case["descriptor"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(numpy(attention), case["attention"], rtol=1e-4, atol=1e-6)


def plain(x, concepts, wq, bq, wk, bk, ws, bs):
    """The formula in NumPy, pair by pair of its dtype."""
    q, k = np.tanh(x @ wq + bq), np.tanh(concepts @ wk + bk)
    score = 10 * ((q[:, None] * k[None]) @ ws + bs)
    chances = np.exp(score - score.max(1, keepdims=True))
    mixture = chances / chances.sum(1, keepdims=True) @ concepts
    return mixture / np.linalg.norm(mixture, axis=1, keepdims=True)


def test_gradients_equal_differences():
    layer = query()
    cotangent = draw(3, 5, seed=2)
    inputs = [draw(3, 6), draw(7, 5, seed=1)]
    variables = [layer.query.kernel, layer.query.bias, layer.key.kernel, layer.key.bias, layer.score_kernel,
                 layer.score_bias]  # fmt: skip
    _, grads = gradients(
        lambda x, concepts: ops.sum(layer(x, concepts)[0] * ops.convert_to_tensor(cotangent)), inputs, variables
    )
    exact = [np.asarray(array, "float64") for array in (*inputs, *map(numpy, variables))]
    for position, (array, grad) in enumerate(zip(exact, grads, strict=True)):
        direction = np.asarray(draw(*array.shape, seed=3), "float64")
        values = []
        for step in (1e-5, -1e-5):
            moved = [*exact]
            moved[position] = array + step * direction
            values.append((plain(*moved) * cotangent).sum())
        difference = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose((grad * direction).sum(), difference, rtol=1e-4, atol=1e-4)


def test_rows_are_of_unit_length_and_shares():
    descriptor, attention = query()(draw(3, 6), draw(7, 5))
    np.testing.assert_allclose(np.linalg.norm(numpy(descriptor), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(numpy(attention).sum(axis=1), 1, atol=1e-6)
    assert np.isfinite(numpy(query()(np.zeros((2, 6), "float32"), np.zeros((7, 5), "float32"))[0])).all()


def test_configuration_and_weights_round_trip(tmp_path):
    layer = query(smoothing=3.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config() and copy.smoothing == 3.0
    keras.saving.save_weights(layer, tmp_path / "query.weights.h5")
    keras.saving.load_weights(copy, tmp_path / "query.weights.h5")
    x, concepts = draw(3, 6), draw(7, 5)
    np.testing.assert_allclose(numpy(copy(x, concepts)[0]), numpy(layer(x, concepts)[0]), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer, plain = query(dtype=policy), query()
    plain.set_weights(layer.get_weights())
    x, concepts = draw(3, 6), draw(7, 5)
    for output, expected in zip(layer(x, concepts), plain(x, concepts), strict=True):
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        assert np.isfinite(numpy(output)).all()
        np.testing.assert_allclose(numpy(output), numpy(expected), atol=0.1)
