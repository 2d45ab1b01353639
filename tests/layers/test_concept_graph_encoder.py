import types

import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients, load_fixture

from keras_itr.layers import ConceptGraphEncoder

GRAPH = {"embeddings": draw(5, 3), "propagation": np.abs(draw(5, 5, seed=1))}


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def test_fixture():
    case, description = load_fixture("coder", "graph_00_toy")
    for mode in ("complex", "scale", "binary"):
        layer = ConceptGraphEncoder(
            {"embeddings": case["embeddings"], "propagation": case[f"propagation_{mode}"]},
            units=case["w2"].shape[1],
            hidden_units=case["w2"].shape[0],
            negative_slope=description["settings"]["negative_slope"],
        )
        layer.kernel_1.assign(case["w1"])
        layer.kernel_2.assign(case["w2"])
        np.testing.assert_allclose(numpy(layer()), case[f"concepts_{mode}"], rtol=1e-4, atol=1e-6)


def test_gradients_equal_those_of_a_plain_stack():
    layer = ConceptGraphEncoder(GRAPH, units=4, hidden_units=6, trainable_embeddings=True)
    cotangent = draw(5, 4, seed=2)
    variables = [layer.embeddings, layer.kernel_1, layer.kernel_2]
    _, grads = gradients(lambda: ops.sum(layer() * ops.convert_to_tensor(cotangent)), variables=variables)
    x, w1, w2 = (numpy(v).astype("float64") for v in variables)
    a = GRAPH["propagation"].astype("float64")
    before = a @ x @ w1
    hidden = np.where(before > 0, before, 0.2 * before)
    out = a @ hidden @ w2
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    unit = out / norm
    np.testing.assert_allclose(numpy(layer()), unit, rtol=1e-4, atol=1e-6)
    d_out = (cotangent - unit * (unit * cotangent).sum(1, keepdims=True)) / norm
    d_before = a.T @ d_out @ w2.T * np.where(before > 0, 1.0, 0.2)
    expected = a.T @ d_before @ w1.T, (a @ x).T @ d_before, (a @ hidden).T @ d_out
    for grad, exact in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


def test_graphs_of_every_form_are_equal(tmp_path):
    plain = ConceptGraphEncoder(GRAPH, units=4, hidden_units=6)
    np.savez(tmp_path / "graph.npz", **GRAPH)
    attributes = types.SimpleNamespace(**GRAPH)
    method = types.SimpleNamespace(embeddings=GRAPH["embeddings"], propagation=lambda: GRAPH["propagation"])
    for graph in (tmp_path / "graph.npz", str(tmp_path / "graph.npz"), attributes, method, (5, 3)):
        layer = ConceptGraphEncoder(graph, units=4, hidden_units=6)
        assert layer.get_config()["graph"] == (5, 3)
        if not isinstance(graph, tuple):
            np.testing.assert_array_equal(numpy(layer.embeddings), GRAPH["embeddings"])
        layer.set_weights(plain.get_weights())
        np.testing.assert_array_equal(numpy(layer()), numpy(plain()))


def test_a_saved_layer_needs_no_graph(tmp_path):
    layer = ConceptGraphEncoder(GRAPH, units=4, hidden_units=6, negative_slope=0.1)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config()
    assert np.isfinite(numpy(copy())).all() and not numpy(copy()).any()
    keras.saving.save_weights(layer, tmp_path / "graph.weights.h5")
    keras.saving.load_weights(copy, tmp_path / "graph.weights.h5")
    np.testing.assert_array_equal(numpy(copy()), numpy(layer()))


@pytest.mark.parametrize("trainable", [True, False])
def test_what_trains(trainable):
    layer = ConceptGraphEncoder(GRAPH, units=4, hidden_units=6, trainable_embeddings=trainable)
    names = {variable.name for variable in layer.trainable_variables}
    assert names == {"kernel_1", "kernel_2"} | ({"embeddings"} if trainable else set())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays_float32(policy):
    layer, plain = (ConceptGraphEncoder(GRAPH, units=4, hidden_units=6, dtype=dtype) for dtype in (policy, "float32"))
    plain.set_weights(layer.get_weights())
    assert keras.backend.standardize_dtype(layer().dtype) == "float32"
    np.testing.assert_allclose(numpy(layer()), numpy(plain()), atol=1e-6)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="needs embeddings and propagation, has embeddings"):
        ConceptGraphEncoder({"embeddings": draw(5, 3)})
    with pytest.raises(ValueError, match=r"propagation \(K, K\), received \(5, 3\) and \(4, 4\)"):
        ConceptGraphEncoder({"embeddings": draw(5, 3), "propagation": draw(4, 4)})
    with pytest.raises(ValueError, match="graph: embeddings hold a number that is not finite; make the graph anew"):
        ConceptGraphEncoder({"embeddings": np.full((5, 3), np.nan), "propagation": draw(5, 5)})
    np.savez(tmp_path / "other.npz", counts=draw(3))
    with pytest.raises(ValueError, match=r"other.npz: needs embeddings and propagation, has neither"):
        ConceptGraphEncoder(tmp_path / "other.npz")
