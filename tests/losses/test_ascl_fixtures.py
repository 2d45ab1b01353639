import keras
import numpy as np
import pytest
from ascl_support import similarity_of
from keras import ops
from loss_support import assert_finite, assert_matches_oracle, assert_relative, compiled, value
from support import draw, gradients, load_fixture

from keras_itr.losses import asymmetry_sensitive_contrastive

CASES = ("loss_ntxent_no_generated", "loss_ntxent_one_generated_negative", "loss_ntxent_filter_active")
SCORES = 0.5 * draw(4, 12, seed=1)
IDS = np.array([3, 8, 3, 5], "int32")


def oracle(similarity, temperature=0.1, ids=None, drop=True):
    """The sheet's formulas, entry by entry."""
    count, columns = similarity.shape
    total = 0.0
    same = np.zeros((count, count), bool) if ids is None else ids[:, None] == ids[None]
    scores = similarity.copy()
    for i in range(count):
        for j in range(count, columns):
            if drop and similarity[i, j] > similarity[i, i]:
                scores[i, j] = 0.0
    for i in range(count):
        others = [j for j in range(columns) if j == i or j >= count or not same[i, j]]
        total += np.log(np.exp(scores[i, others] / temperature).sum()) - scores[i, i] / temperature
        others = [j for j in range(count) if j == i or not same[i, j]]
        total += np.log(np.exp(scores[others, i] / temperature).sum()) - scores[i, i] / temperature
    return total / count


@pytest.mark.parametrize("name", CASES)
def test_fixture(name):
    case, description = load_fixture("ascl", name)
    options = {key: description["config"][key] for key in ("temperature", "drop_false_negatives")}
    loss, (grad,) = gradients(
        compiled(lambda scores: asymmetry_sensitive_contrastive(scores, **options)), [case["similarity"]]
    )
    assert_relative(loss, case["loss"], 1e-5)
    assert_relative(grad, case["grad_similarity"], 1e-4)
    assert not grad[case["dropped"]].any()


def test_the_whole_loss_from_features():
    case, description = load_fixture("ascl", "loss_total_half_half_pairwise")
    settings = description["config"]
    layer = similarity_of(case, settings)
    keys = ("regions", "image_global", "words", "words_negative", "words_positive", "words_positive_negative")

    def scores(regions, image_global, words, negative, word_mask):
        word_mask = np.concatenate([word_mask, word_mask])
        return layer(regions, ops.concatenate([words, negative]), image_global, case["region_mask"], word_mask)

    def terms(regions, image_global, words, negative, positive, positive_negative):
        original = scores(regions, image_global, words, negative, case["word_mask"])
        positive = scores(regions, image_global, positive, positive_negative, case["positive_word_mask"])
        return original, positive

    def total(*features):
        losses = [asymmetry_sensitive_contrastive(x, settings["temperature"]) for x in terms(*features)]
        return settings["original_weight"] * losses[0] + settings["positive_weight"] * losses[1]

    features = [case[key] for key in keys]
    for result, name in zip(compiled(terms)(*features), ("original", "positive"), strict=True):
        assert_relative(value(result), case[f"similarity_{name}"], 1e-5, name)
        loss = asymmetry_sensitive_contrastive(result, settings["temperature"])
        assert_relative(value(loss), case[f"loss_{name}"], 1e-5, name)
    loss, grads = gradients(compiled(total), features)
    assert_relative(loss, case["loss"], 1e-5)
    for grad, key in zip(grads, keys, strict=True):
        assert_relative(grad, case[f"grad_{key}"], 1e-4, key)


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("ids", [None, IDS])
def test_oracle(ids, drop):
    def loss(scores):
        return asymmetry_sensitive_contrastive(scores, drop_false_negatives=drop, ids=ids)

    assert_matches_oracle(compiled(loss), lambda scores: oracle(scores, ids=ids, drop=drop), [SCORES])


def test_filter():
    scores = SCORES.copy()
    scores[1, 5] = scores[1, 1]
    dropped = np.zeros(scores.shape, bool)
    dropped[:, 4:] = scores[:, 4:] > np.diagonal(scores)[:, None]
    assert dropped.any() and not dropped[1, 5]
    loss, (grad,) = gradients(asymmetry_sensitive_contrastive, [scores])
    # Equal entries stay, dropped ones count as 0 and the comparison gives no gradient.
    expected, (plain,) = gradients(
        lambda x: asymmetry_sensitive_contrastive(x, drop_false_negatives=False), [np.where(dropped, 0, scores)]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert not grad[dropped].any() and grad[1, 5] > 0
    np.testing.assert_allclose(grad[~dropped], plain[~dropped], rtol=1e-6, atol=1e-8)


def test_one_image():
    loss, (grad,) = assert_finite(asymmetry_sensitive_contrastive, [np.full((1, 1), 0.3, "float32")])
    assert loss == 0 and not grad.any()
    loss, _ = assert_finite(asymmetry_sensitive_contrastive, [np.array([[0.3, 0.1]], "float32")])
    # From text to image there is no other image.
    np.testing.assert_allclose(loss, np.log1p(np.exp(-2)), rtol=1e-5)


def test_all_ids_equal():
    loss, (grad,) = gradients(lambda x: asymmetry_sensitive_contrastive(x, ids=[7] * 4), [SCORES])
    off_diagonal = ~np.eye(4, dtype=bool)
    assert not grad[:, :4][off_diagonal].any() and grad[:, 4:].any()
    np.testing.assert_allclose(loss, oracle(SCORES.astype("float64"), ids=np.full(4, 7)), rtol=1e-5)
    loss, (grad,) = gradients(lambda x: asymmetry_sensitive_contrastive(x, ids=[7] * 4), [SCORES[:, :4]])
    assert loss == 0 and not grad.any()


def test_different_ids_are_none():
    loss = asymmetry_sensitive_contrastive(SCORES, ids=[4, 3, 2, 1])
    np.testing.assert_allclose(value(loss), value(asymmetry_sensitive_contrastive(SCORES)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_half_precision_is_computed_in_float32(dtype):
    half = keras.ops.cast(SCORES, dtype)
    low, high = (asymmetry_sensitive_contrastive(x) for x in (half, keras.ops.cast(half, "float32")))
    assert keras.backend.standardize_dtype(low.dtype) == "float32"
    np.testing.assert_allclose(value(low), value(high), rtol=1e-6)


def test_errors():
    for shape in ((3, 4), (3, 2), (3,), (3, 0)):
        with pytest.raises(ValueError, match=r"similarity must be \(B, B \* \(1 \+ M\)\), .* received shape"):
            asymmetry_sensitive_contrastive(np.zeros(shape, "float32"))
