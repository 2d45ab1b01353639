import types

import keras
import numpy as np
import pytest
from support import draw

from keras_itr.conversion import Plan
from keras_itr.conversion.layouts import rows_at, rows_from


def checkpoint(**tensors):
    tensors = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return types.SimpleNamespace(source="source", shapes=shapes, tensor=tensors.__getitem__)


def dense(units=4, width=3):
    layer = keras.layers.Dense(units)
    layer.build((None, width))
    return layer


def test_a_dense_layer():
    layer, kernel = dense(), draw(4, 3)
    plan = Plan(checkpoint(fc__weight=kernel, fc__bias=draw(4), step=np.ones(())))
    plan.dense(layer, "fc")
    plan.leave_out("step", "a counter")
    plan.check(layer.weights)
    plan.run()
    np.testing.assert_array_equal(layer.get_weights()[0], kernel.T)
    assert plan.left_out == {"step": "a counter"}


def test_all_faults_come_at_once_and_nothing_changes():
    layer, other = dense(), dense()
    before = layer.get_weights()
    plan = Plan(checkpoint(fc__weight=draw(5, 3), more=draw(2)))
    plan.dense(layer, "fc")
    with pytest.raises(ValueError) as raised:
        plan.check([*layer.weights, *other.weights])
    message = str(raised.value)
    assert "source: its tensors do not fit the model. 1 missing: fc.bias; 1 not used: more;" in message
    assert "1 of another shape: fc.weight (5, 3), must be (4, 3); 2 without source: " in message
    np.testing.assert_array_equal(layer.get_weights()[0], before[0])


def test_many_names_are_cut():
    plan = Plan(checkpoint(**{f"x{index}": draw(1) for index in range(9)}))
    with pytest.raises(ValueError, match="9 not used: x0, x1, x2, x3, x4, x5 and 3 more"):
        plan.check([])


def test_parts_and_attention():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, None, 6), (None, None, 6))
    fused, bias = draw(18, 6), draw(18)
    tensors = {"in_proj_weight": fused, "in_proj_bias": bias, "out_proj__weight": draw(6, 6), "out_proj__bias": draw(6)}
    plan = Plan(checkpoint(**{f"attn__{name}": tensor for name, tensor in tensors.items()}))
    plan.fused_attention(layer, "attn")
    plan.check(layer.weights)
    plan.run()
    x = draw(1, 5, 6)
    key = x @ fused[6:12].T + bias[6:12]
    ours = keras.ops.convert_to_numpy(keras.ops.stop_gradient(layer.key_dense(x))).reshape(1, 5, 6)
    np.testing.assert_allclose(ours, key, rtol=1e-4, atol=1e-5)
    short = Plan(checkpoint(attn__in_proj_weight=draw(17, 6)))
    short.fused_attention(layer, "attn")
    with pytest.raises(ValueError, match=r"attn\.in_proj_weight \(17, 6\), must be \(18, 6\)"):
        short.check(layer.weights)


@pytest.mark.parametrize(
    ("layout", "rows"), [(rows_from(0), [0, 1]), (rows_from(2), [2, 3]), (rows_at([3, 1]), [3, 1])]
)
def test_some_of_the_rows(layout, rows):
    table = keras.Variable(np.zeros((2, 3), "float32"))
    plan = Plan(checkpoint(rows=draw(5, 3)))
    plan.take(table, "rows", layout)
    plan.check([table])
    plan.run()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(table), draw(5, 3)[rows])
    plan = Plan(checkpoint(rows=draw(1, 3)))
    plan.take(table, "rows", layout)
    with pytest.raises(ValueError, match=r"rows \(1, 3\), must be"):
        plan.check([table])
