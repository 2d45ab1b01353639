import itertools

import keras
import numpy as np
import pytest
from loss_support import assert_finite, assert_matches_oracle, compiled, value
from support import draw, gradients, load_fixture

from keras_itr.losses import hard_negative_triplet, same_image_pairs

CASES = ("triplet_00_hard", "triplet_01_sum", "triplet_03_zero", "triplet_05_same_image", "triplet_06_all_positive")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
SWITCHES = {
    "numpy": lambda hardest: np.float32(hardest),
    "tensor": lambda hardest: keras.ops.convert_to_tensor(hardest, dtype="bool"),
    "float variable": lambda hardest: keras.Variable(float(hardest), trainable=False),
    "bool variable": lambda hardest: keras.Variable(hardest, dtype="bool", trainable=False),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(name):
    case, description = load_fixture("triplet", name)
    settings = dict(description["settings"], positives=case.get("positives"))
    check_similarity(case, settings)

    def from_embeddings(image, text):
        return hard_negative_triplet(keras.ops.matmul(image, keras.ops.transpose(text)), **settings)

    loss, grads = gradients(compiled(from_embeddings), [case["image"], case["text"]])
    np.testing.assert_allclose(loss, case["loss"], **TOLERANCE)
    np.testing.assert_allclose(grads[0], case["grad_image"], **TOLERANCE)
    np.testing.assert_allclose(grads[1], case["grad_text"], **TOLERANCE)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", ("triplet_01_sum", "triplet_05_same_image"))
def test_hardest_as_a_tensor(name, switch):
    case, description = load_fixture("triplet", name)
    settings = dict(description["settings"], positives=case.get("positives"))
    check_similarity(case, {**settings, "hardest": SWITCHES[switch](settings["hardest"])})


def check_similarity(case, settings):
    loss, (grad,) = gradients(compiled(lambda s: hard_negative_triplet(s, **settings)), [case["similarity"]])
    np.testing.assert_allclose(loss, case["loss"], **TOLERANCE)
    np.testing.assert_allclose(grad, case["grad_similarity"], **TOLERANCE)


def oracle(similarity, margin, hardest, positives):
    """Costs of the pairs, by loops."""
    count = len(similarity)
    rows = np.zeros(count)
    for pair in range(count):
        others = [j for j in range(count) if j != pair]
        images = [margin + similarity[pair, j] - similarity[pair, pair] for j in others if not positives[pair, j]]
        captions = [margin + similarity[j, pair] - similarity[pair, pair] for j in others if not positives[j, pair]]
        for costs in (images, captions):
            costs = [max(cost, 0.0) for cost in costs]
            rows[pair] += (max(costs, default=0.0)) if hardest else sum(costs)
    return rows


# A one-sided mask tells rows from columns.
MASKS = {"none": np.zeros((6, 6), bool), "one-sided": np.triu(np.ones((6, 6), bool), 3)}


@pytest.mark.parametrize("hardest, mask, margin", itertools.product((True, False), MASKS, (0.0, 0.35)))
def test_against_loops(hardest, mask, margin):
    similarity = 0.3 * draw(6, 6)
    positives = None if mask == "none" else MASKS[mask]
    rows = oracle(similarity, margin, hardest, MASKS[mask])
    for reduction, reduce in (("sum", np.sum), ("mean", np.mean)):
        assert_matches_oracle(
            lambda s, reduction=reduction: hard_negative_triplet(s, margin, hardest, reduction, positives),
            lambda s, reduce=reduce: reduce(oracle(s, margin, hardest, MASKS[mask])),
            [similarity],
        )
    each = hard_negative_triplet(similarity, margin, hardest, "none", positives)
    np.testing.assert_allclose(value(each), rows, **TOLERANCE)


@pytest.mark.parametrize("hardest", (True, False))
@pytest.mark.parametrize("positives", (None, [[True]], [[False]]))
def test_batch_of_one_is_zero(hardest, positives):
    loss, (grad,) = assert_finite(
        lambda s: hard_negative_triplet(s, hardest=hardest, positives=positives), [np.ones((1, 1), "float32")]
    )
    assert loss == 0 and grad == 0


@pytest.mark.parametrize("hardest", (True, False))
def test_excluded_pairs_do_not_count(hardest):
    similarity, ids = 0.3 * draw(6, 6), np.array([4, 4, 9, 9, 9, 4])
    same = ids[:, None] == ids[None, :]
    loss, (grad,) = gradients(
        lambda s: hard_negative_triplet(s, hardest=hardest, positives=same_image_pairs(ids)), [similarity]
    )
    assert not grad[same & ~np.eye(6, dtype=bool)].any()
    extreme = np.where(same & ~np.eye(6, dtype=bool), np.float32(1e30), similarity)
    again, (extreme_grad,) = assert_finite(
        lambda s: hard_negative_triplet(s, hardest=hardest, positives=same), [extreme]
    )
    assert again == loss and (extreme_grad == grad).all()


@pytest.mark.parametrize("hardest", (True, False))
def test_all_ids_equal_is_zero(hardest):
    loss, (grad,) = assert_finite(
        lambda s: hard_negative_triplet(s, hardest=hardest, positives=same_image_pairs([3] * 6)), [draw(6, 6)]
    )
    assert loss == 0 and not grad.any()


def test_collapse_costs_twice_the_margin_per_pair():
    loss, _ = assert_finite(lambda s: hard_negative_triplet(s, margin=0.2), [np.ones((6, 6), "float32")])
    np.testing.assert_allclose(loss, 2 * 0.2 * 6, rtol=1e-6)


def test_hinge_at_zero_is_inactive():
    similarity = np.array([[0.5, 0.25], [0.25, 0.5]], "float32")
    loss, (grad,) = gradients(compiled(lambda s: hard_negative_triplet(s, margin=0.25)), [similarity])
    assert loss == 0 and not grad.any()


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_half_precision_is_computed_in_float32(dtype):
    half = keras.ops.cast(draw(6, 6), dtype)
    loss = hard_negative_triplet(half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(value(loss), value(hard_negative_triplet(keras.ops.cast(half, "float32"))), rtol=1e-6)


def test_order_of_the_batch_does_not_matter():
    similarity, order = draw(6, 6), np.random.default_rng(1).permutation(6)
    positives = np.eye(6, k=2, dtype=bool)
    shuffled = hard_negative_triplet(similarity[order][:, order], positives=positives[order][:, order])
    np.testing.assert_allclose(
        value(shuffled), value(hard_negative_triplet(similarity, positives=positives)), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ("float32", "bool"))
def test_switch_is_read_inside_the_graph(dtype):
    hard, full = (load_fixture("triplet", name)[0] for name in ("triplet_00_hard", "triplet_01_sum"))
    switch = keras.Variable(keras.ops.cast(False, dtype), dtype=dtype, trainable=False)
    traces = []

    def loss(similarity):
        traces.append(similarity)
        return hard_negative_triplet(similarity, hardest=switch)

    compiled = traced(loss, switch)
    for hardest, case in ((False, full), (True, hard), (False, full)):
        switch.assign(keras.ops.cast(hardest, dtype))
        np.testing.assert_allclose(value(compiled(case["similarity"])), case["loss"], **TOLERANCE)
    assert len(traces) == (3 if keras.backend.backend() == "torch" else 1)


def traced(function, variable):
    """`function` compiled once by the backend, the state of `variable` read at every call; PyTorch runs eagerly."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Neither side of the matrix is known to the trace.
        return tf.function(function, input_signature=[tf.TensorSpec((None, None))])
    if keras.backend.backend() == "torch":
        return lambda x: function(keras.ops.convert_to_tensor(x))
    import jax

    def pure(x, state):
        with keras.StatelessScope(state_mapping=[(variable, state)]):
            return function(x)

    compiled = jax.jit(pure)
    return lambda x: compiled(x, variable.value)


def test_errors():
    with pytest.raises(ValueError, match=r"similarity must be \(B, B\).*\(2, 3\)"):
        hard_negative_triplet(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"reduction must be .* 'max'"):
        hard_negative_triplet(np.zeros((2, 2), "float32"), reduction="max")
    with pytest.raises(ValueError, match=r"margin must be 0 or more.*received -0.1"):
        hard_negative_triplet(np.zeros((2, 2), "float32"), margin=-0.1)
