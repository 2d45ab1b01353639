import keras
import numpy as np
import pytest
from loss_support import assert_finite, assert_matches_oracle, compiled, unit, value
from support import draw, gradients, load_fixture

from keras_itr.losses import (
    batch_diversity_contrastive,
    diversity_sensitive_contrastive,
    negative_weights,
    pseudo_label_prediction,
    same_image_pairs,
)

CASES = ("dcl_00_soft", "dcl_03_same_image_mask", "dcl_04_empty_queue")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
# One shape for all: JAX compiles every operation once per shape.
QUERY, KEY, QUEUE = unit(4, 6, seed=1), unit(4, 6, seed=2), unit(9, 6, seed=3)
VALID = np.random.default_rng(4).random((4, 9)) > 0.4
VALID[2] = False


def directions(case, **options):
    """The loss of both modalities from `v` and `t`, and its halves."""

    def image_to_text(v):
        return diversity_sensitive_contrastive(v, case["t_key"], case["t_queue"], **options)

    def text_to_image(t):
        return diversity_sensitive_contrastive(t, case["v_key"], case["v_queue"], **options)

    return lambda v, t: image_to_text(v) + text_to_image(t), image_to_text, text_to_image


@pytest.mark.parametrize("name", CASES)
def test_loss_weights_and_gradients(name):
    case, description = load_fixture("coder", name)
    options = description["settings"] | {"valid": case.get("valid")}
    total, image_to_text, text_to_image = directions(case, **options)
    loss, grads = gradients(compiled(total), [case["v"], case["t"]])
    np.testing.assert_allclose(loss, case["loss"], **TOLERANCE)
    np.testing.assert_allclose(grads[0], case["grad_v"], **TOLERANCE)
    np.testing.assert_allclose(grads[1], case["grad_t"], **TOLERANCE)
    np.testing.assert_allclose(value(compiled(image_to_text)(case["v"])), case["loss_v2t"], **TOLERANCE)
    np.testing.assert_allclose(value(compiled(text_to_image)(case["t"])), case["loss_t2v"], **TOLERANCE)
    weights = compiled(lambda query, queue: negative_weights(query, queue, **options))
    np.testing.assert_allclose(value(weights(case["v"], case["t_queue"])), case["weights_v2t"], **TOLERANCE)
    np.testing.assert_allclose(value(weights(case["t"], case["v_queue"])), case["weights_t2v"], **TOLERANCE)


def test_same_image_mask_of_the_fixture():
    case, _ = load_fixture("coder", "dcl_03_same_image_mask")
    # The fixture has no empty slot, so that valid is the complement of "same image".
    assert (case["queue_ids"] != -1).all()
    same = value(same_image_pairs(case["image_ids"], case["queue_ids"]))
    np.testing.assert_array_equal(~same, case["valid"])


def test_against_the_relative():
    case, description = load_fixture("coder", "related_user_00")
    settings = description["settings"]

    def in_batch(v, t):
        return batch_diversity_contrastive(keras.ops.matmul(v, keras.ops.transpose(t)), **settings)

    for suffix, function in (("queue", directions(case, **settings)[0]), ("batch", in_batch)):
        loss, grads = gradients(compiled(function), [case["v"], case["t"]])
        np.testing.assert_allclose(loss, case[f"loss_{suffix}"], **TOLERANCE)
        np.testing.assert_allclose(grads[0], case[f"grad_v_{suffix}"], **TOLERANCE)
        np.testing.assert_allclose(grads[1], case[f"grad_t_{suffix}"], **TOLERANCE)


def test_pseudo_label_prediction():
    case, description = load_fixture("coder", "codes_00")

    def loss(concept, prototypes, codes):
        return pseudo_label_prediction(concept, codes, prototypes, description["settings"]["temperature"])

    inputs = [case["concept"], case["prototypes"], case["codes"]]
    actual, grads = gradients(compiled(loss), inputs)
    np.testing.assert_allclose(actual, case["loss"], **TOLERANCE)
    np.testing.assert_allclose(grads[0], case["grad_concept"], **TOLERANCE)
    np.testing.assert_allclose(grads[1], case["grad_prototypes"], **TOLERANCE)
    assert not grads[2].any()


# What the fixtures leave open, against plain loops.


def push(similarities, mu, gamma):
    return np.log(1 + sum(np.exp(mu * (s - gamma)) for s in similarities)) / mu


def diversity(query, key, queue, valid, mu, gamma, positive, weighting, temperature):
    total = 0.0
    for row in range(len(query)):
        negatives = [query[row] @ queue[m] for m in range(len(queue)) if valid[row, m]]
        matched = query[row] @ key[row]
        if weighting == "softmax":
            total += np.log(sum(np.exp(s / temperature) for s in [matched, *negatives])) - matched / temperature
        else:
            pull = np.log1p(max(matched, 0)) if positive == "log1p" else np.log(1 + np.exp(matched))
            total += push(negatives, mu, gamma) - pull
    return total / len(query)


@pytest.mark.parametrize("valid", (None, VALID), ids=("all", "some"))
@pytest.mark.parametrize(
    "options",
    (
        {"mu": 12.0, "gamma": 0.2, "positive": "log1p"},
        {"mu": 12.0, "gamma": 0.2, "positive": "softplus"},
        {"mu": 1e-3, "gamma": 0.5, "positive": "softplus"},
        {"weighting": "softmax", "temperature": 0.15},
        {"weighting": "softmax"},
        {},
    ),
    ids=str,
)
def test_options_against_loops(options, valid):
    full = {"mu": 90.0, "gamma": 0.5, "positive": "log1p", "weighting": "self", "temperature": 0.07} | options
    mask = np.ones((4, 9), bool) if valid is None else valid
    assert_matches_oracle(
        lambda query: diversity_sensitive_contrastive(query, KEY, QUEUE, valid, **options),
        lambda query: diversity(query, KEY.astype("float64"), QUEUE.astype("float64"), mask, **full),
        [QUERY],
    )


# A one-sided mask tells rows from columns.
@pytest.mark.parametrize("positives", (None, np.triu(np.ones((4, 4), bool), 2)), ids=("none", "one-sided"))
@pytest.mark.parametrize("mu, gamma", ((90.0, 0.5), (8.0, 0.1)))
def test_batch_form_against_loops(mu, gamma, positives):
    positive = np.zeros((4, 4), bool) if positives is None else positives

    def oracle(similarity):
        total = 0.0
        for i in range(4):
            images = [similarity[i, j] for j in range(4) if i != j and not positive[i, j]]
            captions = [similarity[j, i] for j in range(4) if i != j and not positive[j, i]]
            total += push(images, mu, gamma) + push(captions, mu, gamma) - np.log1p(max(similarity[i, i], 0))
        return total / 4

    assert_matches_oracle(
        lambda s: batch_diversity_contrastive(s, mu, gamma, positives), oracle, [QUERY @ KEY.T + 0.2 * np.eye(4, 4)]
    )


def test_pseudo_labels_against_loops():
    codes = np.exp(draw(4, 9, seed=5))
    codes /= codes.sum(axis=1, keepdims=True)

    def oracle(student, prototypes):
        total = 0.0
        for row in range(4):
            scores = [student[row] @ prototype / 0.25 for prototype in prototypes]
            log_mass = np.log(sum(np.exp(score) for score in scores))
            total -= sum(code * (score - log_mass) for code, score in zip(codes[row], scores, strict=True))
        return total / 4

    assert_matches_oracle(
        lambda student, prototypes: pseudo_label_prediction(student, codes, prototypes, 0.25), oracle, [QUERY, QUEUE]
    )


# Properties and edges.


@pytest.mark.parametrize("mu, gamma", ((90.0, 0.5), (10.0, 0.3)))
def test_weights_are_the_gradient_in_the_similarities(mu, gamma):
    # With unit vectors as dictionary, the similarities are the query's own components.
    queue, key = np.eye(6, dtype="float32"), np.zeros((4, 6), "float32")
    valid = VALID[:, :6]
    _, (grad,) = gradients(lambda query: diversity_sensitive_contrastive(query, key, queue, valid, mu, gamma), [QUERY])
    weights = value(negative_weights(QUERY, queue, valid, mu, gamma))
    np.testing.assert_allclose(4 * grad, weights, **TOLERANCE)
    assert (weights >= 0).all() and not weights[~valid].any()
    # Less than one in exact arithmetic; a saturated row rounds to one.
    assert (weights.sum(axis=1) <= 1 + 2**-22).all()


def test_weights_follow_sharpness():
    hardest = (QUERY @ QUEUE.T).argmax(axis=1)
    sharp = value(negative_weights(QUERY, QUEUE, mu=2000.0, gamma=-1.0))
    np.testing.assert_allclose(sharp, np.eye(9)[hardest], atol=1e-3)
    flat = value(negative_weights(QUERY, QUEUE, mu=1e-4))
    np.testing.assert_allclose(flat, np.full((4, 9), 1 / 10), rtol=1e-3)


@pytest.mark.parametrize("weighting", ("self", "softmax"))
def test_without_negatives_only_the_positive_remains(weighting):
    aligned = np.abs(QUERY)
    alone = -np.mean(np.log1p((aligned * aligned).sum(axis=1))) if weighting == "self" else 0.0
    for queue, valid in ((QUEUE, np.zeros((4, 9), bool)), (QUEUE[:0], None), (QUEUE[:0], np.zeros((4, 0), bool))):
        loss, (grad,) = assert_finite(
            lambda query, queue=queue, valid=valid: diversity_sensitive_contrastive(
                query, aligned, queue, valid, weighting=weighting
            ),
            [aligned],
        )
        np.testing.assert_allclose(loss, alone, rtol=1e-6, atol=1e-7)
        assert grad.any() == (weighting == "self")
        weights = value(negative_weights(aligned, queue, valid))
        assert weights.shape == (4, len(queue)) and not weights.any()


def test_batch_without_negatives():
    for similarity, positives in (
        (np.full((1, 1), 0.5, "float32"), None),
        (QUERY @ QUERY.T, same_image_pairs([7] * 4)),
    ):
        loss, (grad,) = assert_finite(
            lambda s, positives=positives: batch_diversity_contrastive(s, positives=positives), [similarity]
        )
        diagonal = np.diagonal(similarity)
        np.testing.assert_allclose(loss, -np.mean(np.log1p(diagonal)), rtol=1e-6)
        np.testing.assert_allclose(grad, np.diag(-1 / (1 + diagonal) / len(diagonal)), rtol=1e-6)


def test_one_query_and_zero_vectors_are_finite():
    zeros = np.zeros((4, 6), "float32")
    for query, key, queue in ((QUERY[:1], KEY[:1], QUEUE), (zeros, KEY, QUEUE), (QUERY, zeros, 0 * QUEUE)):
        for options in ({}, {"positive": "softplus"}, {"weighting": "softmax", "temperature": 0.001}):
            assert_finite(
                lambda x, key=key, queue=queue, options=options: diversity_sensitive_contrastive(
                    x, key, queue, **options
                ),
                [query],
            )
    assert_finite(batch_diversity_contrastive, [np.zeros((4, 4), "float32")])
    assert_finite(lambda x, z: pseudo_label_prediction(x, np.eye(4, 9), z, 0.001), [zeros, 0 * QUEUE])


def test_keys_and_dictionary_receive_no_gradient():
    for weighting in ("self", "softmax"):
        _, grads = gradients(
            lambda key, queue, weighting=weighting: diversity_sensitive_contrastive(
                QUERY, key, queue, VALID, weighting=weighting
            ),
            [KEY, QUEUE],
        )
        assert not any(grad.any() for grad in grads)


def test_softplus_pulls_opposite_pairs():
    for positive, pulls in (("log1p", False), ("softplus", True)):
        _, (grad,) = gradients(
            lambda query, positive=positive: diversity_sensitive_contrastive(
                query, -QUERY, QUEUE[:0], positive=positive
            ),
            [QUERY],
        )
        assert grad.any() == pulls


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_half_precision_is_computed_in_float32(dtype):
    close = QUERY[:1] + 1e-3 * draw(9, 6)
    half = [keras.ops.cast(x, dtype) for x in (np.tile(QUERY[:1], (4, 1)), KEY, close)]
    full = [keras.ops.cast(x, "float32") for x in half]

    def losses(query, key, queue):
        similarity = keras.ops.matmul(query, keras.ops.transpose(key))
        return [
            diversity_sensitive_contrastive(query, key, queue),
            diversity_sensitive_contrastive(query, key, queue, weighting="softmax"),
            pseudo_label_prediction(query, np.eye(4, 9), queue),
            keras.ops.sum(negative_weights(query, queue)),
            batch_diversity_contrastive(keras.ops.cast(similarity, query.dtype)),
        ]

    for position, (low, high) in enumerate(zip(losses(*half), losses(*full), strict=True)):
        assert keras.backend.standardize_dtype(low.dtype) == "float32"
        # The similarities of the batch form are rounded before it sees them.
        np.testing.assert_allclose(value(low), value(high), rtol=1e-2 if position == 4 else 1e-6)


def test_order_does_not_matter():
    rows, slots = np.array([2, 0, 3, 1]), np.random.default_rng(6).permutation(9)
    loss = diversity_sensitive_contrastive(QUERY, KEY, QUEUE, VALID, mu=10.0, gamma=0.1)
    shuffled = diversity_sensitive_contrastive(
        QUERY[rows], KEY[rows], QUEUE[slots], VALID[rows][:, slots], mu=10.0, gamma=0.1
    )
    np.testing.assert_allclose(value(shuffled), value(loss), rtol=1e-6, atol=1e-7)
    similarity = QUERY @ KEY.T
    shuffled = batch_diversity_contrastive(similarity[rows][:, rows], mu=10.0, gamma=0.1)
    loss = batch_diversity_contrastive(similarity, mu=10.0, gamma=0.1)
    np.testing.assert_allclose(value(shuffled), value(loss), rtol=1e-6, atol=1e-7)


def test_errors():
    with pytest.raises(ValueError, match="weighting must be 'self' or 'softmax', received 'hal'"):
        diversity_sensitive_contrastive(QUERY, KEY, QUEUE, weighting="hal")
    with pytest.raises(ValueError, match="positive must be 'log1p' or 'softplus', received 'relu'"):
        diversity_sensitive_contrastive(QUERY, KEY, QUEUE, positive="relu")
