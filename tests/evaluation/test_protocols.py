"""Protocols over a table, with models of a few lines in place of networks."""

import json
import math
import pathlib
import types

import numpy as np
import pytest

from keras_itr.evaluation import evaluate
from keras_itr.metrics import hit_rate, recall_at_k

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "evaluation"


class FeatureModel:
    """Embeds regions and text features as they are, and notes what it was asked for."""

    def __init__(self):
        self.calls = []

    def embed_images(self, inputs, batch_size, verbose):
        self.calls.append(("images", sorted(inputs), len(inputs["regions"]), batch_size, verbose))
        return np.asarray(inputs["regions"])

    def embed_texts(self, inputs, batch_size, verbose):
        self.calls.append(("texts", sorted(inputs), len(inputs["text_features"]), batch_size, verbose))
        return np.asarray(inputs["text_features"])


class DistanceModel:
    """A score that is no dot product; its embeddings must not be used."""

    dot_product = False

    def __init__(self):
        self.blocks = []

    def score(self, images, texts, batch_size, verbose):
        self.blocks.append((len(images["regions"]), len(texts["text_features"])))
        return -((images["regions"][:, None] - texts["text_features"][None]) ** 2).sum(-1)


def table(images, texts, caption_to_image, relevance=None):
    return types.SimpleNamespace(
        image_columns={"regions": images, "teacher_image": images},
        caption_columns={"text_features": texts, "teacher_text": texts},
        caption_to_image=np.asarray(caption_to_image, "int32"),
        num_images=len(images),
        num_captions=len(texts),
        relevance=relevance,
    )


def matrix_table(similarity, caption_to_image):
    """A table whose dot products are the given matrix: images are the unit vectors."""
    return table(np.eye(len(similarity), dtype=similarity.dtype), similarity.T, caption_to_image)


def random_table(num_images=20, captions=3, relevance=None, seed=0):
    generator = np.random.default_rng(seed)
    owner = generator.permutation(np.repeat(np.arange(num_images), captions))
    images = generator.normal(size=(num_images, 8)).astype("float32")
    texts = (images[owner] + generator.normal(size=(len(owner), 8))).astype("float32")
    return table(images, texts, owner, relevance)


@pytest.mark.parametrize("protocol", ["full", "f30k", "coco_5k"])
@pytest.mark.parametrize("name", ["recall_01_50x250", "recall_03_40x200", "recall_06_ties"])
def test_recall_fixtures(name, protocol):
    arrays = np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / f"{name}.json").read_text())["expected"]
    data = matrix_table(arrays["similarity"], arrays["caption_to_image"])
    metrics = evaluate(FeatureModel(), data, protocol, block_size=16, verbose=False)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_coco_1k_fixture():
    arrays = np.load(FIXTURES / "five_fold_05.npz", allow_pickle=False)
    expected = json.loads((FIXTURES / "five_fold_05.json").read_text())["expected"]
    expected.pop("folds")
    data = matrix_table(arrays["similarity"], arrays["caption_to_image"])
    metrics = evaluate(FeatureModel(), data, "coco_1k", verbose=False)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_each_side_is_embedded_once_without_teachers():
    model = FeatureModel()
    evaluate(model, random_table(), "coco_1k", batch_size=9, verbose=False)
    assert model.calls == [("images", ["regions"], 20, 9, False), ("texts", ["text_features"], 60, 9, False)]


@pytest.mark.parametrize("protocol", ["full", "coco_1k"])
def test_a_score_that_is_no_dot_product_is_asked_for_in_blocks(protocol):
    model, data = DistanceModel(), random_table()
    metrics = evaluate(model, data, protocol, block_size=3, verbose=False)
    distance = -((data.image_columns["regions"][:, None] - data.caption_columns["text_features"][None]) ** 2).sum(-1)
    size = {"full": 20, "coco_1k": 4}[protocol]
    folds = []
    for start in range(0, 20, size):
        inside = (data.caption_to_image >= start) & (data.caption_to_image < start + size)
        folds.append(recall_at_k(distance[start : start + size, inside], data.caption_to_image[inside] - start))
    assert metrics == pytest.approx({key: np.mean([fold[key] for fold in folds]) for key in folds[0]})
    assert max(rows for rows, _ in model.blocks) == 3
    assert sum(rows for rows, _ in model.blocks) == 20


def test_the_bar_of_a_slow_score_can_be_seen_and_silenced(capsys):
    evaluate(DistanceModel(), random_table(), block_size=8, verbose=False)
    assert capsys.readouterr().out == ""
    evaluate(DistanceModel(), random_table(), block_size=8, verbose=True)
    assert "20/20" in capsys.readouterr().out


@pytest.mark.parametrize("model", [FeatureModel, DistanceModel])
@pytest.mark.parametrize("protocol", ["full", "coco_1k"])
def test_checked_recall_counts_every_true_pair_and_stands_beside_chance(model, protocol):
    data = random_table()
    own = data.caption_to_image == np.arange(20)[:, None]
    truth = own | (np.random.default_rng(3).random((20, 60)) < 0.15)
    data.relevance = lambda: truth
    metrics = evaluate(model(), data, protocol, verbose=False)
    images, texts = data.image_columns["regions"], data.caption_columns["text_features"]
    scores = images @ texts.T if model is FeatureModel else -((images[:, None] - texts[None]) ** 2).sum(-1)
    size = {"full": 20, "coco_1k": 4}[protocol]
    expected = {key: [] for key in ("i2t", "t2i", "chance_i2t", "chance_t2i")}
    for start in range(0, 20, size):
        rows = slice(start, start + size)
        columns = own[rows].any(axis=0)
        fold, right = scores[rows, columns], truth[rows, columns]
        expected["i2t"].append(hit_rate(fold, right, 5))
        expected["t2i"].append(hit_rate(fold.T, right.T, 1))
        expected["chance_i2t"].append(
            100
            * np.mean(
                [1 - math.comb(fold.shape[1] - p, 5) / math.comb(fold.shape[1], 5) for p in right.sum(1).tolist()]
            )
        )
        expected["chance_t2i"].append(100 * np.mean(right.sum(0) / size))
    assert metrics["checked_i2t_r5"] == pytest.approx(np.mean(expected["i2t"]))
    assert metrics["checked_t2i_r1"] == pytest.approx(np.mean(expected["t2i"]))
    assert metrics["chance_checked_i2t_r5"] == pytest.approx(np.mean(expected["chance_i2t"]))
    assert metrics["chance_checked_t2i_r1"] == pytest.approx(np.mean(expected["chance_t2i"]))
    assert metrics["chance_t2i_r1"] == pytest.approx(100 / size)
    assert metrics["chance_t2i_r10"] == pytest.approx(100 * min(10, size) / size)
    assert metrics["chance_i2t_r1"] == pytest.approx(100 * 3 / (3 * size))
    for key in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"):
        assert metrics[f"checked_{key}"] >= metrics[key]
    assert metrics["checked_rsum"] > metrics["rsum"]


def test_without_relevance_nothing_is_checked():
    assert set(evaluate(FeatureModel(), random_table(), verbose=False)) == set(recall_at_k(np.eye(2), [0, 1]))


def test_a_collapsed_model_scores_zero_under_every_protocol():
    data = table(np.ones((60, 7), "float32") / 3, np.ones((300, 7), "float32") / 3, np.repeat(np.arange(60), 5))
    for protocol in ("full", "coco_1k"):
        assert evaluate(FeatureModel(), data, protocol, verbose=False)["rsum"] == 0.0


@pytest.mark.parametrize(("given", "near"), [("coco1k", "coco_1k"), ("F30K", "f30k"), ("fulll", "full"), (None, "")])
def test_unknown_protocol_names_the_nearest(given, near):
    with pytest.raises(
        ValueError, match=rf"unknown protocol {given!r}; did you mean '{near}.*full, f30k, coco_5k, coco_1k"
    ):
        evaluate(FeatureModel(), random_table(), given)


def test_folds_need_a_number_that_five_divides():
    model = FeatureModel()
    with pytest.raises(ValueError, match=r"that 5 folds divide, got 18; use protocol \"full\""):
        evaluate(model, random_table(18), "coco_1k")
    assert model.calls == []  # Before the embedding, not after it.


def test_a_model_that_drops_rows_is_an_error():
    model = FeatureModel()
    model.embed_texts = lambda inputs, batch_size, verbose: inputs["text_features"][:-4]
    with pytest.raises(ValueError, match=r"model.embed_texts returned 56 rows for 60 texts"):
        evaluate(model, random_table(), verbose=False)


def test_nan_from_a_score_is_an_error():
    model = DistanceModel()
    model.score = lambda images, texts, batch_size, verbose: np.nan
    with pytest.raises(ValueError, match="must not contain NaN"):
        evaluate(model, random_table(), verbose=False)


def test_relevance_errors():
    data = random_table()
    own = data.caption_to_image == np.arange(20)[:, None]
    data.relevance = lambda: own.T
    with pytest.raises(ValueError, match=r"relevance must return bool \(20, 60\), got bool of shape \(60, 20\)"):
        evaluate(FeatureModel(), data, verbose=False)
    denied = own.copy()
    denied[data.caption_to_image[4], 4] = False
    data.relevance = lambda: denied
    with pytest.raises(ValueError, match=rf"caption 4 is not true of its image {data.caption_to_image[4]}"):
        evaluate(FeatureModel(), data, verbose=False)
