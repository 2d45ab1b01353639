"""Spearman's correlation: fixture, shared ranks, errors."""

import json
import pathlib

import numpy as np
import pytest

from keras_itr.metrics import spearman

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "evaluation"


def test_fixture_per_set_and_concatenated():
    arrays = np.load(FIXTURES / "spearman_13.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / "spearman_13.json").read_text())["expected"]

    def cosine(name):
        first, second = arrays[f"{name}_sent1"], arrays[f"{name}_sent2"]
        return (first * second).sum(1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))

    values = {name: spearman(cosine(name), arrays[f"{name}_gold"]) for name in "abc"}
    values["all"] = spearman(
        np.concatenate([cosine(name) for name in "abc"]), np.concatenate([arrays[f"{name}_gold"] for name in "abc"])
    )
    assert values == pytest.approx(expected, abs=1e-6)


def test_equal_values_share_their_average_rank():
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    assert spearman([5, 5, 9], [1, 2, 3]) == pytest.approx(100 * 1.5 / np.sqrt(1.5 * 2))


def test_only_the_order_counts():
    gold = np.arange(10.0)
    assert spearman(np.exp(gold), gold) == pytest.approx(100.0)
    assert spearman(-gold, gold) == pytest.approx(-100.0)


def test_a_constant_prediction_scores_zero():
    assert spearman(np.ones(5), np.arange(5)) == 0.0


@pytest.mark.parametrize(
    ("predicted", "gold", "message"),
    [
        ([1.0, 2.0], [1.0], r"one length of at least 2, got shapes \(2,\) and \(1,\)"),
        ([1.0], [1.0], r"at least 2"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"must be vectors"),
        ([1.0, np.nan], [1.0, 2.0], r"predicted must not contain NaN, but entry 1 is NaN"),
        ([1.0, 2.0], [np.nan, 2.0], r"gold must not contain NaN, but entry 0 is NaN"),
        ([1.0, 2.0], [3.0, 3.0], r"gold must not be constant, but all 2 values are 3.0"),
    ],
)
def test_errors(predicted, gold, message):
    with pytest.raises(ValueError, match=message):
        spearman(predicted, gold)
