"""mAP@R and R-Precision: fixture, plain loops with ties, errors."""

import json
import pathlib

import numpy as np
import pytest

from keras_itr.metrics import map_at_r, r_precision

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "evaluation"


def loop_values(scores, positives):
    """(mAP@R, R-Precision) with the ranking written out: of equal scores the wrong items come first."""
    average, share = [], []
    for row, mask in zip(scores, positives, strict=True):
        ranking = sorted(range(len(row)), key=lambda item: (-row[item], mask[item]))
        size = sum(mask)
        hits = [bool(mask[item]) for item in ranking[:size]]
        precision = [sum(hits[: place + 1]) / (place + 1) for place in range(size)]
        average.append(sum(p for p, hit in zip(precision, hits, strict=True) if hit) / size if size else 0.0)
        share.append(sum(hits) / size if size else 0.0)
    return 100 * np.mean(average), 100 * np.mean(share)


def test_fixture():
    arrays = np.load(FIXTURES / "map_at_r_09.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / "map_at_r_09.json").read_text())["expected"]
    scores, positives = arrays["similarity"], arrays["positives"]
    values = {
        "i2t_map_at_r": map_at_r(scores, positives),
        "i2t_r_precision": r_precision(scores, positives),
        "t2i_map_at_r": map_at_r(scores.T, positives.T),
        "t2i_r_precision": r_precision(scores.T, positives.T),
    }
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equals_plain_loops_with_many_ties(seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 5, (15, 19)).astype("float32")
    positives = generator.random((15, 19)) < 0.2
    positives[3] = False
    average, share = loop_values(scores, positives)
    assert map_at_r(scores, positives) == pytest.approx(average)
    assert r_precision(scores, positives) == pytest.approx(share)


@pytest.mark.parametrize("metric", [map_at_r, r_precision])
def test_extremes(metric):
    positives = np.array([[True, True, False, False, False]])
    assert metric(positives.astype(float), positives) == 100.0
    assert metric(1.0 - positives, positives) == 0.0
    assert metric(np.zeros((1, 5)), positives) == 0.0  # A collapsed model.
    assert metric(np.zeros((1, 2)), np.ones((1, 2), bool)) == 100.0  # Nothing is wrong.
    assert metric(np.array([[-np.inf, 0.5, 0.1]]), np.array([[False, True, False]])) == 100.0


@pytest.mark.parametrize("metric", [map_at_r, r_precision])
def test_errors(metric):
    with pytest.raises(ValueError, match="must not contain NaN"):
        metric(np.full((1, 2), np.nan), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="positives must be boolean"):
        metric(np.zeros((1, 2)), np.ones((1, 2)))
