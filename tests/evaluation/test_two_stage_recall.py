"""Two-stage recall against plain loops, the fixture and one-stage recall; a lost answer is never a find."""

import json
import pathlib

import keras
import numpy as np
import pytest

from keras_itr.evaluation import save_report, two_stage_recall
from keras_itr.metrics import recall_at_k
from keras_itr.search import shortlist, two_stage, two_stage_order

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
CUTOFFS = (1, 5, 10)


def loop_ranks(coarse, fine, positives, k):
    """The definition for one direction: None is a miss."""
    result = []
    for query in range(len(coarse)):
        scores = (fine if k else coarse)[query]
        ids = sorted(range(len(scores)), key=lambda item: (-coarse[query][item], item))[: k or None]
        right = [scores[item] for item in ids if positives[query][item]]
        wrong = [scores[item] for item in ids if not positives[query][item]]
        result.append(sum(score >= max(right) for score in wrong) if right else None)
    return result


def random_case(seed, num_images=13, num_captions=41, values=1000):
    generator = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(num_images), generator.integers(0, num_images, num_captions - num_images)])
    owner = generator.permutation(owner)
    coarse, fine = generator.integers(0, values, (2, num_images, num_captions)).astype("float32")
    own = owner == np.arange(num_images)[:, None]
    return coarse + own * values // 4, fine + own * values // 3, owner


@pytest.mark.parametrize("values", [4, 1000])
@pytest.mark.parametrize("k", [(0, 0), (1, 1), (3, 2), (8, 4), (0, 5), (12, 0), (41, 13), (40, 12), (500, 500)])
def test_equals_plain_loops(k, values, monkeypatch):
    monkeypatch.setattr(two_stage, "BLOCK_ELEMENTS", 4 * 41)
    coarse, fine, owner = random_case(sum(k), values=values)
    metrics = two_stage_recall(coarse, fine, owner, *k)
    own = owner == np.arange(13)[:, None]
    found = {"i2t": loop_ranks(coarse, fine, own, k[0]), "t2i": loop_ranks(coarse.T, fine.T, own.T, k[1])}
    for name, ranks in found.items():
        for cutoff in CUTOFFS:
            hits = [rank is not None and rank < cutoff for rank in ranks]
            assert metrics[f"{name}_r{cutoff}"] == pytest.approx(100 * np.mean(hits))
        assert metrics[f"{name}_shortlist"] == pytest.approx(100 * np.mean([rank is not None for rank in ranks]))
        gallery = {"i2t": 41, "t2i": 13}[name]
        assert metrics[f"{name}_median_rank"] == np.median([gallery if r is None else r for r in ranks]) + 1
    assert metrics["rsum"] == pytest.approx(sum(metrics[f"{d}_r{c}"] for d in found for c in CUTOFFS))


def test_fixture():
    case = np.load(FIXTURES / "tgdt/case15_two_stage_40x200_k10.npz", allow_pickle=False)
    coarse, owner = case["similarity_global"], case["caption_to_image"]
    fine = case["similarity_local"] + coarse
    metrics = two_stage_recall(coarse, fine, owner, 10, 10)
    only = {
        "global": two_stage_recall(coarse, fine, owner, 0, 0),
        "local": recall_at_k(case["similarity_local"], owner),
    }
    for direction, shortlisted in zip(("i2t", "t2i"), case["shortlist_recall"], strict=True):
        recalls = [metrics[f"{direction}_r{k}"] for k in CUTOFFS]
        np.testing.assert_allclose(recalls, case[f"recall_{direction}"], atol=1e-9)
        assert (np.abs(recalls - case[f"recall_{direction}_miss_as_hit"]) > 1).all()
        assert metrics[f"{direction}_shortlist"] == pytest.approx(shortlisted)
        median = np.median(np.minimum(case[f"ranks_{direction}"], {"i2t": 200, "t2i": 40}[direction])) + 1
        assert metrics[f"{direction}_median_rank"] == median
        for kind, one_stage in only.items():
            recalls = [one_stage[f"{direction}_r{k}"] for k in CUTOFFS]
            np.testing.assert_allclose(recalls, case[f"recall_{direction}_{kind}_only"], atol=1e-9)


@pytest.mark.parametrize("name", ["recall_01_50x250", "recall_03_40x200", "recall_06_ties"])
def test_fixtures_of_one_stage(name):
    arrays = np.load(FIXTURES / "evaluation" / f"{name}.npz", allow_pickle=False)
    similarity, owner = arrays["similarity"], arrays["caption_to_image"]
    expected = json.loads((FIXTURES / "evaluation" / f"{name}.json").read_text())["expected"]
    other = np.zeros_like(similarity)
    for metrics in (
        two_stage_recall(similarity, other, owner, 0, 0),
        two_stage_recall(other, similarity, owner, 250, 50),
    ):
        for key, value in expected.items():
            assert metrics[key] == pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("values", [4, 1000])
def test_whole_gallery_and_no_shortlist_equal_one_stage(values):
    coarse, fine, owner = random_case(1, values=values)
    full = {"i2t_shortlist": 100.0, "t2i_shortlist": 100.0}
    assert two_stage_recall(coarse, fine, owner, 41, 13) == {**recall_at_k(fine, owner), **full}
    assert two_stage_recall(coarse, fine, owner, 10**6, 10**6) == {**recall_at_k(fine, owner), **full}
    nothing = np.full_like(fine, np.nan)
    metrics = two_stage_recall(coarse, nothing, owner, 0, 0)
    assert metrics == {**recall_at_k(coarse, owner), **full}
    assert list(metrics) == [*recall_at_k(coarse, owner), "i2t_shortlist", "t2i_shortlist"]
    assert all(type(value) is float for value in metrics.values())


def test_recall_is_read_off_the_order_where_no_scores_are_equal():
    generator = np.random.default_rng(5)
    coarse, fine = generator.normal(size=(2, 13, 41))
    owner = np.concatenate([np.arange(13), generator.integers(0, 13, 28)])
    metrics = two_stage_recall(coarse, fine, owner, 6, 3)
    captions, images = two_stage_order(coarse, fine, 6), two_stage_order(coarse.T, fine.T, 3)
    assert metrics["i2t_r1"] == pytest.approx(100 * np.mean(owner[captions[:, 0]] == np.arange(13)))
    assert metrics["t2i_r1"] == pytest.approx(100 * np.mean(images[:, 0] == owner))
    assert metrics["t2i_r5"] == metrics["t2i_shortlist"] == pytest.approx(100 * np.mean((owner == images.T).any(0)))


def test_a_lost_answer_is_a_miss_even_in_a_short_shortlist_and_a_small_gallery():
    coarse = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    metrics = two_stage_recall(coarse, np.eye(3), [0, 1, 2], 2, 2, ks=(1, 50))
    assert set(metrics.values()) == {0.0, 51.0}
    assert metrics["i2t_median_rank"] == 51.0 and metrics["rsum"] == 0.0


def test_a_miss_leaves_a_report_that_json_can_hold(tmp_path):
    save_report(two_stage_recall(1 - np.eye(3), np.eye(3), [0, 1, 2], 2, 2), tmp_path / "metrics.json")


def test_ties():
    # Four equal coarse scores: ids 0 and 1 stay, the answers of images 2 and 3 are lost.
    metrics = two_stage_recall(np.zeros((4, 4)), np.eye(4), np.arange(4), 2, 2)
    assert metrics["i2t_r1"] == metrics["i2t_shortlist"] == metrics["t2i_r10"] == 50.0
    # Equal fine scores count against the model.
    metrics = two_stage_recall(np.eye(4), np.zeros((4, 4)), np.arange(4), 2, 2, ks=(1, 2))
    assert (metrics["i2t_r1"], metrics["i2t_r2"], metrics["i2t_shortlist"]) == (0.0, 100.0, 100.0)


def test_outside_the_shortlists_fine_is_never_looked_at():
    coarse, fine, owner = random_case(7)
    seen = np.zeros(coarse.shape, bool)
    np.put_along_axis(seen, shortlist(coarse, 5), True, axis=1)
    np.put_along_axis(seen.T, shortlist(coarse.T, 3), True, axis=1)
    sparse = np.where(seen, fine, np.nan)
    assert np.isnan(sparse).any()
    assert two_stage_recall(coarse, sparse, owner, 5, 3) == two_stage_recall(coarse, fine, owner, 5, 3)
    with pytest.raises(ValueError, match="must not contain NaN"):
        two_stage_recall(coarse, sparse, owner, 25, 3)


def test_tensors_of_the_backend():
    coarse, fine, owner = random_case(8)
    tensors = [keras.ops.convert_to_tensor(array) for array in (coarse, fine, owner)]
    assert two_stage_recall(*tensors, 5, 3) == two_stage_recall(coarse, fine, owner, 5, 3)


def test_errors():
    scores = np.eye(3)
    with pytest.raises(ValueError, match=r"must be matrices \(images, captions\), got \(3, 3\) and \(3, 2\)"):
        two_stage_recall(scores, scores[:, :2], [0, 1, 2], 1, 1)
    with pytest.raises(ValueError, match="image 2 has none"):
        two_stage_recall(scores, scores, [0, 1, 1], 1, 1)
    with pytest.raises(ValueError, match="k must be an integer of at least 0"):
        two_stage_recall(scores, scores, [0, 1, 2], 1, -1)
    for ks in ((0,), ()):
        with pytest.raises(ValueError, match="ks"):
            two_stage_recall(scores, scores, [0, 1, 2], 1, 1, ks=ks)
    with pytest.raises(ValueError, match="those of query 0 do"):
        two_stage_recall(scores * np.nan, scores, [0, 1, 2], 1, 1)
