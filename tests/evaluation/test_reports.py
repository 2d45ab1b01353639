"""The table holds every number; the file is written whole or not at all."""

import json

import numpy as np
import pytest

from keras_itr.evaluation import report, save_report
from keras_itr.metrics import recall_at_k

METRICS = {
    **{"i2t_r1": 42.0, "i2t_r5": 88.25, "i2t_median_rank": 2.0, "rsum": 517.5},
    **{"t2i_r1": 27.6, "t2i_r5": 60.125, "t2i_median_rank": 3.5},
    **{"checked_i2t_r1": 55.5, "checked_t2i_r1": 44.4, "chance_t2i_r1": 0.2, "chance_checked_t2i_r1": 3.75},
    "eccv_map_at_r": 31.4,
}


def test_a_small_table_in_full():
    assert report({"i2t_r1": 42.0, "t2i_r1": 27.6, "rsum": 69.6}).splitlines() == [
        "                  R@1",
        "image to text   42.00",
        "text to image   27.60",
        "rsum            69.60",
    ]


def test_rows_are_directions_and_columns_cutoffs():
    lines = report(METRICS).splitlines()
    rows = {line[:28].strip(): line[28:].split() for line in lines}
    assert lines[0].split() == ["R@1", "R@5", "median", "rank"]
    assert rows["image to text"] == ["42.00", "88.25", "2.00"]
    assert rows["text to image"] == ["27.60", "60.12", "3.50"]
    assert rows["checked image to text"] == ["55.50"]
    assert rows["checked text to image"] == ["44.40"]
    assert rows["chance text to image"] == ["0.20"]
    assert rows["chance checked text to image"] == ["3.75"]
    assert rows["rsum"] == ["517.50"]
    assert rows["eccv map at r"] == ["31.40"]


def test_numbers_of_a_column_end_at_the_same_place():
    first, second = report(METRICS).splitlines()[1:3]
    assert first.index("42.00") == second.index("27.60")
    assert len(first) == len(second)


def test_every_number_of_an_evaluation_is_shown():
    generator = np.random.default_rng(0)
    metrics = recall_at_k(generator.normal(size=(30, 60)), np.repeat(np.arange(30), 2))
    text = report(metrics)
    assert all(f"{value:.2f}" in text for value in metrics.values())


def test_json_round_trip(tmp_path):
    path = tmp_path / "runs" / "clip" / "f30k.json"
    save_report({**METRICS, "r3": np.float32(0.5), "count": np.int64(3)}, path)
    assert json.loads(path.read_text()) == {**METRICS, "r3": 0.5, "count": 3.0}
    assert [child.name for child in path.parent.iterdir()] == ["f30k.json"]


def test_an_old_report_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "f30k.json"
    save_report({"rsum": 1.0}, str(path))
    with pytest.raises(ValueError, match=r"must be finite numbers, but 'rsum' is nan; nothing was written"):
        save_report({"rsum": float("nan")}, path)

    def interrupted(*_):
        raise OSError("interrupted")

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(OSError, match="interrupted"):
        save_report({"rsum": 2.0}, path)
    assert json.loads(path.read_text()) == {"rsum": 1.0}
    assert [child.name for child in tmp_path.iterdir()] == ["f30k.json"]
