import keras
import numpy as np
import pytest
from ascl_support import holes
from keras import ops
from loss_support import assert_relative
from support import draw, gradients, load_fixture

from keras_itr.layers import TextNegatives

WORDS, MASK = draw(12, 6, 8, seed=1), holes(12, 6, seed=2)
ALL = ("noise", "dropout", "shuffle", "zero_feature", "zero_token")


def numpy(x):
    return ops.convert_to_numpy(ops.stop_gradient(x))


def drawn(*operators, mask=MASK, words=WORDS, **kwargs):
    return numpy(TextNegatives(operators, seed=3, **kwargs)(words, mask, training=True))


def test_fixture():
    case, description = load_fixture("ascl", "negatives_case0")
    layer = TextNegatives(**description["config"])
    words, mask = case["words"], case["word_mask"]
    for key, result in {
        "out_noise": layer.add_noise(words, mask, case["noise"]),
        "out_dropout": layer.drop(words, case["keep"]),
        "out_shuffle": layer.shuffle(words, mask, case["order"]),
        "out_zero_feature": layer.zero_feature(words, case["feature"]),
        "out_zero_token_batch": layer.zero_token(words, case["token"]),
        "out_zero_token_each": layer.zero_token(words, case["token_each"]),
    }.items():
        assert_relative(numpy(result), case[key], 1e-6, key)
    for key, operator in {
        "grad_shuffle": lambda words: layer.shuffle(words, mask, case["order"]),
        "grad_dropout": lambda words: layer.drop(words, case["keep"]),
    }.items():
        cotangent = ops.convert_to_tensor(case["cotangent"])
        _, (grad,) = gradients(lambda words, f=operator, c=cotangent: ops.sum(f(words) * c), [words])
        assert_relative(grad, case[key], 1e-6, key)


def test_changes_every_text_in_training_alone():
    layer = TextNegatives(seed=1)
    for training in (False, None):
        np.testing.assert_array_equal(numpy(layer(WORDS, MASK, training=training)), WORDS)
    # Right after an evaluation, and again.
    for _ in range(3):
        result = numpy(layer(WORDS, MASK, training=True))
        assert result.shape == WORDS.shape and (result != WORDS).any(axis=(1, 2)).all()
        layer(WORDS, MASK, training=False)


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("operator", ALL)
def test_only_valid_positions_change(operator, per_example):
    words = WORDS.copy()
    words[~MASK] = np.nan
    result = drawn(operator, words=words, per_example=per_example)
    assert np.isnan(result[~MASK]).all() and np.isfinite(result[MASK]).all()
    assert (result[MASK] != WORDS[MASK]).any()


def test_each_operator_does_what_it_says():
    noise = drawn("noise", noise_stddev=0.5)[MASK] - WORDS[MASK]
    assert abs(noise.std() - 0.5) < 0.05 and abs(noise.mean()) < 0.1
    kept = drawn("dropout", dropout_rate=0.25)[MASK] / WORDS[MASK]
    np.testing.assert_allclose(np.unique(kept.round(5)), [0, 4 / 3], rtol=1e-5)
    assert abs((kept == 0).mean() - 0.25) < 0.08
    feature = (drawn("zero_feature") == 0) & MASK[:, :, None]
    zeroed = feature.any(axis=1)
    assert (zeroed.sum(axis=1) == 1).all() and len(np.unique(zeroed.argmax(axis=1))) > 1
    assert (feature.sum(axis=(1, 2)) == MASK.sum(axis=1)).all()
    zero = (drawn("zero_token") == 0).all(axis=2)
    assert (zero.sum(axis=1) == 1).all() and (zero <= MASK).all() and len(np.unique(zero.argmax(axis=1))) > 1
    shuffled = drawn("shuffle")
    for one, other, valid in zip(shuffled, WORDS, MASK, strict=True):
        np.testing.assert_array_equal(one[~valid], other[~valid])
        np.testing.assert_array_equal(np.sort(one[valid], axis=0), np.sort(other[valid], axis=0))


def test_every_zero_token_position_is_drawn():
    mask = np.tile(np.arange(6) < 3, (300, 1))
    zero = (drawn("zero_token", mask=mask, words=np.ones((300, 6, 2), "float32")) == 0).all(axis=2)
    np.testing.assert_allclose(zero.mean(axis=0), [1 / 3] * 3 + [0] * 3, atol=0.1)


def kinds(per_example, count=400):
    """Which of three operators each text met, in one call."""
    words = np.ones((count, 4, 8), "float32")
    layer = TextNegatives(("noise", "zero_feature", "zero_token"), per_example=per_example, seed=4)
    result = numpy(layer(words, training=True))
    return np.where((result == 0).all(axis=2).any(axis=1), 2, np.where((result == 0).all(axis=1).any(axis=1), 1, 0))


def test_one_operator_per_text_or_per_call():
    np.testing.assert_allclose(np.bincount(kinds(True), minlength=3) / 400, 1 / 3, atol=0.1)
    assert len(np.unique(kinds(False))) == 1
    layer = TextNegatives(("noise", "zero_token"), per_example=False, seed=6)
    words = np.ones((3, 4, 8), "float32")
    calls = [(numpy(layer(words, training=True)) == 0).any() for _ in range(12)]
    assert 0 < sum(calls) < 12


def test_one_draw_for_all_texts():
    feature = (drawn("zero_feature", per_example=False) == 0) & MASK[:, :, None]
    assert len(np.unique(feature.any(axis=1).argmax(axis=1))) == 1
    full = np.ones_like(MASK)
    token = (drawn("zero_token", mask=full, per_example=False) == 0).all(axis=2)
    assert len(np.unique(token.argmax(axis=1))) == 1


def test_texts_of_no_and_one_word():
    mask = np.array([[False] * 6, [False, False, True, False, False, False]] * 6)
    for operator in ALL:
        result = drawn(operator, mask=mask)
        np.testing.assert_array_equal(result[::2], WORDS[::2])
        np.testing.assert_array_equal(result[~mask], WORDS[~mask])
        if operator == "shuffle":
            np.testing.assert_array_equal(result, WORDS)
    assert not drawn("zero_token", mask=mask)[mask].any()


def test_gradients_pass_through_the_operators():
    for operator in ALL:
        _, (grad,) = gradients(
            lambda words, name=operator: ops.sum(TextNegatives((name,), seed=3)(words, MASK, training=True)), [WORDS]
        )
        assert np.isfinite(grad).all() and grad.any()


def test_seed():
    one, other = (TextNegatives(seed=5) for _ in range(2))
    first, second = (numpy(one(WORDS, MASK, training=True)) for _ in range(2))
    np.testing.assert_array_equal(numpy(other(WORDS, MASK, training=True)), first)
    assert (first != second).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_configuration_and_half_precision(dtype):
    layer = TextNegatives(ALL, 0.5, 0.25, per_example=False, seed=3, dtype=f"mixed_{dtype}")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    for operator in ALL:
        result = TextNegatives((operator,))(ops.cast(WORDS, dtype), MASK, training=True)
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        assert np.isfinite(numpy(ops.cast(result, "float32"))).all()


def test_errors():
    for operators in ((), ("noise", "mix")):
        with pytest.raises(ValueError, match=r"operators must be one or more of noise, dropout, .* received"):
            TextNegatives(operators)
    with pytest.raises(ValueError, match=r"dropout_rate must be at least 0 and less than 1, received 1\.0"):
        TextNegatives(dropout_rate=1.0)
    with pytest.raises(ValueError, match=r"noise_stddev must be at least 0, received -1\.0"):
        TextNegatives(noise_stddev=-1.0)
