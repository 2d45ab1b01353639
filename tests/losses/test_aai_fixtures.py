import keras
import numpy as np
import pytest
from loss_support import assert_finite, assert_matches_oracle, assert_relative, compiled, unit, value
from support import FIXTURES, draw, gradients, load_fixture

from keras_itr.losses import (
    image_text_contrastive,
    image_text_matching,
    intra_modal_separability,
    local_mutual_information,
    same_image_targets,
)
from keras_itr.numerics import unit_rows

CONTRASTIVE = ("itc_onehot_queue16", "itc_distill_multi_positive", "itc_partial_queue")
SEPARABILITY = ("ims_onehot", "ims_multi_positive_ids")
MUTUAL = ("lmim_infonce_image_nomask", "lmim_infonce_length_one", "lmim_jsd_text_mask")
# Value and gradient. Only TensorFlow computes in float64 throughout.
TOLERANCES = {"float32": (1e-5, 1e-4)}
if keras.backend.backend() == "tensorflow":
    TOLERANCES["float64"] = (1e-9, 1e-9)
by_type = pytest.mark.parametrize("dtype", TOLERANCES)


def fixture(name, dtype):
    """The case with inputs in `dtype` and expected values as stored, in float64."""
    _, description = load_fixture("aai", name)
    with np.load(FIXTURES / "aai" / f"{name}.npz", allow_pickle=False) as stored:
        case = {key: stored[key] for key in stored.files}
    expected = {key: array for key, array in case.items() if key.startswith(("loss", "grad_", "targets"))}
    inputs = {
        key: array.astype(dtype) if array.dtype.kind == "f" else array
        for key, array in case.items()
        if key not in expected
    }
    return inputs, expected, description["config"]


def check(function, inputs, expected, names, dtype):
    loss, grads = gradients(compiled(function), [inputs[name] for name in names])
    assert_relative(loss, expected["loss"], TOLERANCES[dtype][0], "loss")
    for name, grad in zip(names, grads, strict=True):
        assert_relative(grad, expected[f"grad_{name}"], TOLERANCES[dtype][1], name)


def keys_of(inputs, *names):
    return {name: inputs[name] for name in names if name in inputs}


@by_type
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_image_text_contrastive(name, dtype):
    inputs, expected, config = fixture(name, dtype)
    options = keys_of(inputs, "ids", "key_ids", "soft_image_targets", "soft_text_targets") | config

    def loss(image, text, temperature):
        keys = inputs["image_keys"], inputs["text_keys"]
        return image_text_contrastive(unit_rows(image), unit_rows(text), *keys, temperature, **options)

    check(loss, inputs, expected, ("image", "text", "temperature"), dtype)
    # One direction twice: what a half of the mean is.
    for query, keys, soft, half in (
        ("image", "text_keys", "soft_image_targets", "loss_image_to_text"),
        ("text", "image_keys", "soft_text_targets", "loss_text_to_image"),
    ):
        rows, keys = unit_rows(inputs[query]), inputs[keys]
        both = options | {name: inputs.get(soft) for name in ("soft_image_targets", "soft_text_targets")}
        half_loss = compiled(lambda v, k, t, both=both: image_text_contrastive(v, v, k, k, t, **both))
        actual = half_loss(rows, keys, inputs["temperature"])
        assert_relative(value(actual), expected[half], TOLERANCES[dtype][0], half)


@pytest.mark.parametrize("name", CONTRASTIVE[1:])
def test_hard_targets(name):
    inputs, expected, _ = fixture(name, "float32")
    targets = value(same_image_targets(inputs["ids"], inputs["key_ids"]))
    np.testing.assert_allclose(targets, expected["targets"], rtol=1e-6)


@by_type
@pytest.mark.parametrize("name", SEPARABILITY)
def test_intra_modal_separability(name, dtype):
    inputs, expected, _ = fixture(name, dtype)
    options = keys_of(inputs, "ids", "key_ids")

    def loss(image, text, temperature):
        keys = inputs["image_keys"], inputs["text_keys"]
        return intra_modal_separability(unit_rows(image), unit_rows(text), *keys, temperature, **options)

    check(loss, inputs, expected, ("image", "text", "temperature"), dtype)
    for query, half in (("image", "loss_image_to_image"), ("text", "loss_text_to_text")):
        rows, keys = unit_rows(inputs[query]), inputs[f"{query}_keys"]
        half_loss = compiled(lambda v, k, t: intra_modal_separability(v, v, k, k, t, **options))
        actual = half_loss(rows, keys, inputs["temperature"])
        assert_relative(value(actual), expected[half], TOLERANCES[dtype][0], half)


@by_type
@pytest.mark.parametrize("name", MUTUAL)
def test_local_mutual_information(name, dtype):
    inputs, expected, config = fixture(name, dtype)

    def loss(global_features, local_features, temperature):
        anchors = unit_rows(global_features)
        return local_mutual_information(anchors, local_features, inputs["mask"], temperature, **config)

    check(loss, inputs, expected, ("global_features", "local_features", "temperature"), dtype)


@by_type
def test_image_text_matching(dtype):
    inputs, expected, _ = fixture("itm_loss_b3", dtype)
    check(lambda logits: image_text_matching(logits, inputs["labels"]), inputs, expected, ("logits",), dtype)


# What the fixtures leave open, against plain loops.

# One shape for all, four rows of six and nine keys: JAX compiles every operation once per shape.
IDS, KEY_IDS = np.array([4, 9, 4, 5]), np.array([4, 9, 4, 5, 9, -1, 7, -1, 5])
IMAGE, TEXT, IMAGE_KEYS, TEXT_KEYS = unit(4, 6, seed=1), unit(4, 6, seed=2), unit(9, 6, seed=3), unit(9, 6, seed=4)
LOCAL = unit(4, 3, 6, seed=5)
# The second item has no position, the third a hole.
HOLES = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]], bool)


def cross_entropy(query, keys, temperature, ids, key_ids, soft=None, weight=0.0):
    total = 0.0
    for row in range(len(query)):
        valid = [k for k in range(len(keys)) if key_ids is None or key_ids[k] != -1]
        logits = {k: query[row] @ keys[k] / temperature for k in valid}
        highest = max(logits.values(), default=0.0)
        log_mass = highest + np.log(sum(np.exp(logit - highest) for logit in logits.values())) if valid else 0.0
        if ids is None:
            own = [k for k in valid if k == row]
        else:
            own = [k for k in valid if (ids if key_ids is None else key_ids)[k] == ids[row]]
        for k in valid:
            hard = 1 / len(own) if k in own else 0.0
            target = hard if soft is None else weight * soft[row, k] + (1 - weight) * hard
            total -= target * (logits[k] - log_mass)
    return total / len(query)


@pytest.mark.parametrize(
    "ids, key_ids",
    ((None, None), (IDS, KEY_IDS), (None, KEY_IDS), (IDS, np.full(9, -1)), (None, np.full(9, -1)), (IDS, None)),
)
def test_ids_against_loops(ids, key_ids):
    count = 4 if ids is not None and key_ids is None else 9
    image_keys, text_keys = IMAGE_KEYS[:count], TEXT_KEYS[:count]

    def halves(first, second):
        return lambda image, text, temperature: (
            (
                cross_entropy(image, first, temperature, ids, key_ids)
                + cross_entropy(text, second, temperature, ids, key_ids)
            )
            / 2
        )

    for function, expected in (
        (image_text_contrastive, halves(text_keys, image_keys)),
        (intra_modal_separability, halves(image_keys, text_keys)),
    ):
        assert_matches_oracle(
            lambda image, text, temperature, function=function: function(
                image, text, image_keys, text_keys, temperature, ids, key_ids
            ),
            expected,
            [IMAGE, TEXT, tau(0.2)],
        )


@pytest.mark.parametrize("weight", (0.0, 0.3, 1.0))
def test_distillation_weight_as_a_variable(weight):
    soft = [np.exp(draw(4, 9, seed=seed)) for seed in (5, 6)]
    soft = [rows / rows.sum(axis=1, keepdims=True) for rows in soft]
    variable = keras.Variable(weight, trainable=False)

    def oracle(image, text):
        return (
            cross_entropy(image, TEXT_KEYS, 0.2, IDS, KEY_IDS, soft[0], weight)
            + cross_entropy(text, IMAGE_KEYS, 0.2, IDS, KEY_IDS, soft[1], weight)
        ) / 2

    for given in (weight, variable):
        assert_matches_oracle(
            lambda image, text, given=given: image_text_contrastive(
                image, text, IMAGE_KEYS, TEXT_KEYS, 0.2, IDS, KEY_IDS, *soft, given
            ),
            oracle,
            [IMAGE, TEXT],
        )


def mutual_information(anchors, local, mask, temperature, estimator, ids):
    count, positions = mask.shape
    items, own_pairs, other_pairs = [], [], []
    for a in range(count):
        own = [anchors[a] @ local[a, j] / temperature for j in range(positions) if mask[a, j]]
        others = [
            anchors[a] @ local[b, j] / temperature
            for b in range(count)
            for j in range(positions)
            if mask[b, j] and b != a and (ids is None or ids[a] != ids[b])
        ]
        noise = sum(np.exp(s) for s in others)
        if own:
            items.append(np.mean([-np.log(np.exp(s) / (np.exp(s) + noise)) for s in own]))
        own_pairs += [np.log1p(np.exp(-s)) for s in own]
        other_pairs += [np.log1p(np.exp(s)) for s in others]
    if estimator == "infonce":
        return np.mean(items) if items else 0.0
    return (np.mean(own_pairs) if own_pairs else 0.0) + (np.mean(other_pairs) if other_pairs else 0.0)


@pytest.mark.parametrize("estimator", ("infonce", "jsd"))
@pytest.mark.parametrize("ids", (None, [4, 9, 4, 9], [1, 1, 1, 1]))
@pytest.mark.parametrize("mask", (None, HOLES, np.zeros((4, 3), bool)), ids=("all", "holes", "nothing"))
def test_mutual_information_against_loops(estimator, ids, mask):
    assert_matches_oracle(
        lambda anchors, local, temperature: local_mutual_information(anchors, local, mask, temperature, estimator, ids),
        lambda anchors, local, temperature: mutual_information(
            anchors, local, np.ones((4, 3), bool) if mask is None else mask, temperature, estimator, ids
        ),
        [IMAGE, LOCAL, tau(0.3)],
    )


@pytest.mark.parametrize("estimator", ("infonce", "jsd"))
def test_padding_does_not_matter(estimator):
    dirty = np.where(HOLES[..., None], LOCAL, np.nan)
    loss, grads = gradients(lambda g, x: local_mutual_information(g, x, HOLES, 0.1, estimator), [IMAGE, LOCAL])
    again, again_grads = assert_finite(
        lambda g, x: local_mutual_information(g, x, HOLES, 0.1, estimator), [IMAGE, dirty]
    )
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for grad, expected in zip(again_grads, grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-7)
    assert not grads[1][~HOLES].any()
    order = [2, 0, 1]
    moved = local_mutual_information(IMAGE, LOCAL[:, order], HOLES[:, order], 0.1, estimator)
    np.testing.assert_allclose(value(moved), loss, rtol=1e-6)


@pytest.mark.parametrize("labels", ([1, 0, 0, -1, 1, -1], [-1] * 6))
def test_matching_leaves_out_rows(labels):
    def oracle(logits):
        kept = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True) if label >= 0]
        return np.mean(kept) if kept else 0.0

    assert_matches_oracle(lambda logits: image_text_matching(logits, labels), oracle, [draw(6, 2)])


# Edges.


@pytest.mark.parametrize("function", (image_text_contrastive, intra_modal_separability))
def test_empty_slots_equal_no_queue(function):
    inputs = [IMAGE, TEXT, tau(0.07)]
    key_ids = np.concatenate([IDS, np.full(5, -1)])
    loss, grads = gradients(lambda v, w, t: function(v, w, IMAGE_KEYS[:4], TEXT_KEYS[:4], t, IDS), inputs)
    again, again_grads = gradients(lambda v, w, t: function(v, w, IMAGE_KEYS, TEXT_KEYS, t, IDS, key_ids), inputs)
    # Equal up to the order of float32 sums of different length.
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for grad, expected in zip(again_grads, grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", (image_text_contrastive, intra_modal_separability))
def test_one_row_and_an_empty_queue_is_zero(function):
    key_ids = np.where(np.arange(9) == 0, 7, -1)
    loss, grads = assert_finite(
        lambda v, w, t: function(v, w, IMAGE_KEYS, TEXT_KEYS, t, [7], key_ids), [IMAGE[:1], TEXT[:1], tau(0.001)]
    )
    assert loss == 0 and not any(grad.any() for grad in grads)


def test_one_item_has_no_mutual_information():
    for mask in (None, np.array([[True, False, True]])):
        loss, grads = assert_finite(
            compiled(lambda g, x, t, mask=mask: local_mutual_information(g, x, mask, t)),
            [IMAGE[:1], LOCAL[:1], tau(0.001)],
        )
        assert loss == 0 and not any(grad.any() for grad in grads)


@pytest.mark.parametrize("temperature", (0.001, 0.5))
@pytest.mark.parametrize("rows", (np.zeros((4, 6), "float32"), np.ones((4, 6), "float32") / 6**0.5))
def test_zero_and_equal_vectors_are_finite(rows, temperature):
    keys, local = np.concatenate([rows, rows, rows[:1]]), np.stack([rows] * 3, axis=1)
    ids, key_ids = np.ones(4, int), np.array([1, 1, 1, 1, 1, 2, 2, -1, -1])

    def loss(image, local, t):
        image = unit_rows(image)
        total = image_text_contrastive(image, image, keys, keys, t, ids, key_ids)
        total += intra_modal_separability(image, image, keys, keys, t, ids, key_ids)
        return total + sum(local_mutual_information(image, local, None, t, name) for name in ("infonce", "jsd"))

    assert_finite(loss, [rows, local, tau(temperature)])


def test_keys_and_soft_targets_receive_no_gradient():
    soft = np.full((4, 9), 1 / 9, "float32")

    def loss(image_keys, text_keys, first, second):
        options = {"soft_image_targets": first, "soft_text_targets": second, "distillation_weight": 0.5}
        total = image_text_contrastive(IMAGE, TEXT, image_keys, text_keys, 0.1, IDS, KEY_IDS, **options)
        return total + intra_modal_separability(IMAGE, TEXT, image_keys, text_keys, 0.1, IDS, KEY_IDS)

    _, grads = gradients(loss, [IMAGE_KEYS, TEXT_KEYS, soft, soft])
    assert not any(grad.any() for grad in grads)


def test_order_of_the_batch_does_not_matter():
    order = np.array([3, 0, 2, 1])

    def losses(image, text, local, mask, ids):
        keys = np.concatenate([image, IMAGE_KEYS[4:]]), np.concatenate([text, TEXT_KEYS[4:]])
        key_ids = np.concatenate([ids, KEY_IDS[4:]])
        return [
            value(image_text_contrastive(image, text, *keys, 0.1, ids, key_ids)),
            value(intra_modal_separability(image, text, *keys, 0.1, ids, key_ids)),
            value(local_mutual_information(image, local, mask, 0.1, "infonce", ids)),
            value(local_mutual_information(image, local, mask, 0.1, "jsd", ids)),
        ]

    arrays = IMAGE, TEXT, LOCAL, HOLES, IDS
    np.testing.assert_allclose(losses(*[x[order] for x in arrays]), losses(*arrays), rtol=2e-6)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_half_precision_is_computed_in_float32(dtype):
    half = [keras.ops.cast(x, dtype) for x in (IMAGE, LOCAL, IMAGE_KEYS, draw(6, 2))]
    full = [keras.ops.cast(x, "float32") for x in half]

    def losses(image, local, keys, logits):
        return [
            image_text_contrastive(image, image, keys, keys, 0.01, IDS, KEY_IDS),
            intra_modal_separability(image, image, keys, keys, 0.01, IDS, KEY_IDS),
            local_mutual_information(image, local, HOLES, 0.01),
            local_mutual_information(image, local, HOLES, 0.01, "jsd"),
            image_text_matching(logits, [1, 0, 0, -1, 1, -1]),
        ]

    for low, high in zip(losses(*half), losses(*full), strict=True):
        assert keras.backend.standardize_dtype(low.dtype) == "float32"
        np.testing.assert_allclose(value(low), value(high), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"key i is the positive of row i.*4 rows.*received 2"):
        image_text_contrastive(IMAGE, TEXT, IMAGE_KEYS[:2], TEXT_KEYS[:2], 0.1)
    with pytest.raises(ValueError, match=r"ids without key_ids.*4 rows and 9 keys.*key_ids \(9,\)"):
        intra_modal_separability(IMAGE, TEXT, IMAGE_KEYS, TEXT_KEYS, 0.1, ids=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"distillation_weight needs soft_image_targets and soft_text_targets"):
        image_text_contrastive(IMAGE, TEXT, IMAGE_KEYS, TEXT_KEYS, 0.1, distillation_weight=0.4)
    with pytest.raises(ValueError, match="estimator must be one of 'infonce', 'jsd', received 'mine'"):
        local_mutual_information(IMAGE, LOCAL, None, 0.1, "mine")
    with pytest.raises(ValueError, match=r"logits must be \(rows, 2\).*\(3, 5\)"):
        image_text_matching(np.zeros((3, 5), "float32"), [1, 0, 0])


def tau(temperature):
    return np.array(temperature, "float32")
