"""Items that search for the others of their group, against plain loops; and the protocol that reports them."""

import keras
import numpy as np
import pytest
from support import region_backbone, region_data

from keras_itr.data import RetrievalTable
from keras_itr.evaluation import evaluate, report, uni_modal_recall
from keras_itr.models import CLIP, CUSA, SoftLabelAlignment


def by_loops(embeddings, groups, k):
    """Share of hits within k, and mean average precision at R, one query after the other."""
    hits, precisions = [], []
    for query, vector in enumerate(embeddings):
        others = [row for row in range(len(groups)) if row != query]
        right = [row for row in others if groups[row] == groups[query]]
        if not right:
            continue
        # Equal scores: the wrong one first.
        order = sorted(others, key=lambda row: (-float(embeddings[row] @ vector), groups[row] == groups[query]))
        is_right = [groups[row] == groups[query] for row in order]
        hits.append(any(is_right[:k]))
        total = sum(sum(is_right[: place + 1]) / (place + 1) for place in range(len(right)) if is_right[place])
        precisions.append(total / len(right))
    return 100 * np.mean(hits), 100 * np.mean(precisions)


@pytest.mark.parametrize("block_size", [1, 7, 1024])
def test_equals_plain_loops(block_size):
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.repeat(np.arange(12), generator.integers(1, 6, 12)))
    # Whole numbers, so that ties are exact.
    embeddings = generator.integers(-2, 3, (len(groups), 4)).astype("float32")
    found = uni_modal_recall(embeddings, groups, ks=(1, 3), block_size=block_size)
    for k in (1, 3):
        hits, precision = by_loops(embeddings, groups, k)
        assert found[f"r{k}"] == pytest.approx(hits) and found["map_at_r"] == pytest.approx(precision)
    assert set(found) == {"r1", "r3", "map_at_r", "median_rank"}


def test_equal_vectors_find_nothing():
    embeddings = np.repeat(np.random.default_rng(0).normal(size=(1, 37)), 1003, axis=0).astype("float32")
    found = uni_modal_recall(embeddings, np.arange(1003) // 4)
    assert found["r10"] == found["map_at_r"] == 0


def test_faults():
    for embeddings, groups, message in (
        (np.eye(3), [0, 0], "one for each row"),
        (np.eye(3), [0, 1, 2], "one item only"),
        (np.full((2, 2), np.nan), [0, 0], "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            uni_modal_recall(embeddings, groups)
    with pytest.raises(ValueError, match="block_size"):
        uni_modal_recall(np.eye(2), [0, 0], block_size=0)


MODELS = {
    "clip": lambda: CLIP(region_backbone()),
    "clip_plugin": lambda: CLIP(region_backbone(), plugins=(SoftLabelAlignment(),)),
    "cusa": lambda: CUSA(region_backbone()),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_protocol_takes_the_vectors_for_texts_where_there_are_such(name):
    keras.utils.set_random_seed(0)
    model, data = MODELS[name](), region_data(12)
    assert model.uni_modal == (name != "clip")
    table = RetrievalTable(
        {"regions": data["regions"][::2]}, {"text_features": data["text_features"]}, np.arange(12) // 2
    )
    metrics = evaluate(model, table, "universal", verbose=False)
    texts = model.embed_texts({"text_features": data["text_features"]}, cross_modal=name == "clip", verbose=False)
    expected = uni_modal_recall(texts, np.arange(12) // 2)
    assert {key.removeprefix("t2t_"): metrics[key] for key in metrics if key.startswith("t2t_")} == expected
    full = evaluate(model, table, verbose=False)
    assert {key: metrics[key] for key in full} == full
    row = next(line for line in report(metrics).splitlines() if line.startswith("text to text"))
    assert f"{expected['r1']:.2f}" in row and "mAP@R" in report(metrics)
