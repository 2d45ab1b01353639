"""R@K of image-text retrieval: fixtures, captions in any number and order, errors."""

import json
import pathlib

import numpy as np
import pytest

from keras_itr.metrics import recall_at_k, recall_from_ranks, two_way_ranks

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "evaluation"


@pytest.mark.parametrize("name", ["recall_01_50x250", "recall_03_40x200", "recall_06_ties"])
def test_fixtures(name):
    arrays = np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    metrics = recall_at_k(arrays["similarity"], arrays["caption_to_image"])
    for key, value in json.loads((FIXTURES / f"{name}.json").read_text())["expected"].items():
        assert metrics[key] == pytest.approx(value, abs=1e-6), key


def test_five_folds_fixture():
    arrays = np.load(FIXTURES / "five_fold_05.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / "five_fold_05.json").read_text())["expected"]
    folds = []
    for start in range(0, 50, 10):
        inside = (arrays["caption_to_image"] >= start) & (arrays["caption_to_image"] < start + 10)
        similarity = arrays["similarity"][start : start + 10, inside]
        folds.append(recall_at_k(similarity, arrays["caption_to_image"][inside] - start))
    for fold, wanted in zip(folds, expected.pop("folds"), strict=True):
        assert {key: fold[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    for key, value in expected.items():
        assert np.mean([fold[key] for fold in folds]) == pytest.approx(value, abs=1e-6)


def test_keys_are_flat_and_in_reading_order():
    metrics = recall_at_k(np.eye(2), [0, 1])
    assert list(metrics) == [
        *("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"),
        *("rsum", "i2t_median_rank", "t2i_median_rank"),
    ]
    assert all(type(value) is float for value in metrics.values())
    assert metrics["rsum"] == 600.0


def test_captions_in_any_number_and_order():
    generator = np.random.default_rng(0)
    owner = np.concatenate([np.arange(9), generator.integers(0, 9, 12)])
    similarity = generator.integers(0, 5, (9, len(owner))).astype("float32")
    metrics = recall_at_k(similarity, owner)
    order = generator.permutation(len(owner))
    assert recall_at_k(similarity[:, order], owner[order]) == metrics
    # The definition for one direction, written out.
    found = []
    for image in range(9):
        best = max(similarity[image, caption] for caption in range(len(owner)) if owner[caption] == image)
        found.append(sum(similarity[image, c] >= best for c in range(len(owner)) if owner[c] != image))
    assert metrics["i2t_r5"] == pytest.approx(100 * np.mean(np.array(found) < 5))
    assert metrics["i2t_median_rank"] == np.median(found) + 1


def test_a_collapsed_model_scores_zero():
    metrics = recall_at_k(np.full((30, 150), 0.5, "float32"), np.repeat(np.arange(30), 5))
    assert metrics["rsum"] == 0.0
    assert metrics["t2i_median_rank"] == 30.0


def test_explicit_truth_equals_own_captions_where_it_is_the_same():
    generator = np.random.default_rng(1)
    similarity, owner = generator.normal(size=(6, 18)), np.repeat(np.arange(6), 3)
    own = two_way_ranks(similarity, owner)
    truth = two_way_ranks(similarity, owner == np.arange(6)[:, None])
    assert all(np.array_equal(a, b) for a, b in zip(own, truth, strict=True))


def test_other_cutoffs_and_prefix():
    metrics = recall_from_ranks(np.array([0, 3]), np.array([2, 2]), ks=(3,), prefix="checked_")
    assert metrics == {
        "checked_i2t_r3": 50.0,
        "checked_t2i_r3": 100.0,
        "checked_rsum": 150.0,
        "checked_i2t_median_rank": 2.5,
        "checked_t2i_median_rank": 3.0,
    }


@pytest.mark.parametrize(
    ("shape", "owner", "ks", "message"),
    [
        ((2, 3), [0, 1], (1,), r"one integer for each of the 3 captions, got int64 of shape \(2,\).*transposed"),
        ((2, 3), [0.0, 1.0, 1.0], (1,), r"one integer for each of the 3 captions, got float64"),
        ((2, 3), [0, 1, 2], (1,), r"must lie in 0\.\.1 for 2 images, but caption 2 belongs to image 2"),
        ((2, 3), [0, -1, 1], (1,), r"caption 1 belongs to image -1"),
        ((3, 3), [0, 0, 2], (1,), r"every image needs a caption, but image 1 has none \(1 of 3\)"),
        ((3,), [0, 0, 2], (1,), r"similarity must be a matrix \(images, captions\), got shape \(3,\)"),
        ((2, 2), [0, 1], (), r"ks must name at least one cutoff"),
        ((2, 2), [0, 1], (1, 0), r"every cutoff in ks must be an integer of at least 1, got 0"),
    ],
)
def test_errors(shape, owner, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(np.zeros(shape), owner, ks)


def test_nan_is_an_error():
    with pytest.raises(ValueError, match="must not contain NaN"):
        recall_at_k(np.full((2, 2), np.nan), [0, 1])
