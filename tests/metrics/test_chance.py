"""Chance levels against binomial coefficients and against every ranking there is."""

import itertools
import math

import numpy as np
import pytest

from keras_itr.metrics import chance_hit_rate, hit_rate


@pytest.mark.parametrize("k", [1, 2, 5, 7, 50])
def test_equals_binomial_coefficients(k):
    counts, size = np.array([0, 1, 3, 6, 7]), 7
    drawn = min(k, size)
    expected = [1 - math.comb(size - p, drawn) / math.comb(size, drawn) for p in counts.tolist()]
    assert chance_hit_rate(counts, size, k) == pytest.approx(100 * np.mean(expected))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_is_the_mean_hit_rate_of_all_rankings(k):
    scores = np.array(list(itertools.permutations(range(5))), float)
    positives = np.zeros(scores.shape, bool)
    positives[:, :2] = True
    assert chance_hit_rate([2], 5, k) == pytest.approx(hit_rate(scores, positives, k))


def test_large_galleries():
    assert chance_hit_rate(np.ones(3, int), 5000, 10) == pytest.approx(0.2)
    assert chance_hit_rate([25000], 25000, 10) == 100.0


@pytest.mark.parametrize(
    ("counts", "k", "message"),
    [
        ([1, 8], 1, r"counts in 0\.\.7 .* got \[1, 8\]"),
        ([-1], 1, r"counts in 0\.\.7"),
        ([], 1, r"must be a vector of counts"),
        ([1], 0, r"k must be an integer of at least 1, got 0"),
    ],
)
def test_errors(counts, k, message):
    with pytest.raises(ValueError, match=message):
        chance_hit_rate(counts, 7, k)
