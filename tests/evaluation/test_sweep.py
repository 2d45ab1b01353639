import types

import numpy as np
import pytest
from test_tgdt import boxed_data
from test_tgdt import make as make_tgdt

from keras_itr.evaluation import evaluate, plot_sweep, sweep, sweep_k, sweep_report
from keras_itr.evaluation.sweep import check_plot, parse_lengths


def table():
    data = boxed_data(12, seed=2)
    return types.SimpleNamespace(
        image_columns={key: data[key][::2] for key in ("regions", "region_mask", "region_boxes")},
        caption_columns={key: data[key] for key in ("token_ids", "padding_mask")},
        caption_to_image=data["image_id"],
        captions=[" ".join("abcdefg"[: 1 + row % 7]) for row in range(12)],
        num_images=6,
        num_captions=12,
        relevance=None,
        name="twelve",
    )


@pytest.fixture(scope="module")
def rows():
    return sweep_k(make_tgdt(), table(), [(1, 1), (4, 3), (12, 6)], verbose=False)


def test_rows_are_the_vectors_the_lengths_and_the_exhaustive_score(rows):
    assert [row["k"] for row in rows] == ["vectors", "1/1", "4/3", "12/6", "exhaustive"]
    assert [row["pairs"] for row in rows] == [0, 6 + 12, 24 + 36, 72 + 72, 72]
    recalls = [{name: row[name] for name in row if "_r" in name or name == "rsum"} for row in rows]
    # Shortlists as long as the gallery, and scoring everything, are the same search.
    assert recalls[3] == recalls[4] and rows[3]["i2t_shortlist"] == 100
    # One candidate each: the second stage has nothing to order.
    assert recalls[1]["i2t_r1"] == recalls[0]["i2t_r1"] and recalls[1]["t2i_r1"] == recalls[0]["t2i_r1"]
    assert all(row["seconds"] > 0 for row in rows)
    words = table().caption_columns["padding_mask"].sum(1).mean() - 2
    regions = table().image_columns["region_mask"].sum(1).mean()
    assert rows[-1]["cost"] == pytest.approx(72 * words * regions * 8)
    assert rows[2]["cost"] == pytest.approx(72 * 8 + 60 * words * regions * 8)


def test_report_and_picture(rows, tmp_path):
    lines = sweep_report(rows).splitlines()
    assert len(lines) == 6 and lines[0].split()[:3] == ["K", "seconds", "times"]
    assert lines[3].split()[0] == "4/3" and lines[-1].split()[2] == "1.00"
    pytest.importorskip("matplotlib")
    plot_sweep(rows, tmp_path / "pictures" / "sweep.png")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["sweep.png"]
    with open(tmp_path / "pictures" / "sweep.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"


@pytest.mark.parametrize("text, lengths", [("10", [(10, 10)]), ("10, 20/40,5/6", [(10, 10), (20, 40), (5, 6)])])
def test_lengths(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ("", "0", "a", "1/2/3", "5,,6", "-3"))
def test_wrong_lengths(text):
    with pytest.raises(ValueError, match="one number, or two with a stroke"):
        parse_lengths(text)


def test_what_a_picture_needs_is_known_before_the_work(monkeypatch):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"sweep\.txt: a picture is a \.png"):
        check_plot("sweep.txt")
    monkeypatch.setattr(sweep, "_matplotlib_figure", lambda: (_ for _ in ()).throw(ImportError("keras-itr[plot]")))
    with pytest.raises(ImportError, match="keras-itr"):
        check_plot("sweep.png")


def test_recall_by_the_length_of_captions():
    metrics = evaluate(make_tgdt(), table(), verbose=False, by_length=True)
    parts = [metrics[f"{name}_t2i_r1"] for name in ("short", "middle", "long")]
    assert np.mean(parts) == pytest.approx(metrics["t2i_r1"])
    assert not [name for name in evaluate(make_tgdt(), table(), verbose=False) if name.startswith("short")]
    bare = table()
    bare.captions = None
    with pytest.raises(ValueError, match="twelve has none"):
        evaluate(make_tgdt(), bare, verbose=False, by_length=True)


def test_evaluation_shows_all_three_scores():
    metrics = evaluate(make_tgdt(top_k_image_to_text=4, top_k_text_to_image=3), table(), verbose=False, rerank=True)
    assert {"rsum", "coarse_rsum", "reranked_rsum", "reranked_t2i_shortlist"} <= set(metrics)
