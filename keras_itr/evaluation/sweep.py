import os
import time

import numpy as np

from keras_itr import search as searches
from keras_itr.evaluation.blocks import embedding_recall
from keras_itr.evaluation.protocols import model_inputs
from keras_itr.evaluation.two_stage import ranking_recall
from keras_itr.files import written_whole
from keras_itr.metrics.recall import recall_at_k


def sweep_k(model, data, lengths, batch_size=64, verbose=True):
    """Two-stage search at several lengths of the shortlist, beside the vectors alone and the exhaustive score.

    Everything is encoded once; the seconds are those of both directions of search, without encoding and compiling.

    Args:
        model: an `ImageTextRetriever` with a second stage.
        data: a `data.RetrievalTable`.
        lengths: list of pairs of ints, captions of an image and images of a caption.
        batch_size: int, examples encoded at once, default 64.
        verbose: bool, default True: progress bars.

    Returns:
        list of dicts, in the order vectors alone (`"k": "vectors"`), the lengths (`"20/40"`), exhaustive
        (`"exhaustive"`, where the score is cheap enough to have it: not for a fusion encoder). Each has `"k"`,
        `"seconds"`, `"pairs"`, the pairs scored, `"cost"`, the multiply-adds by the method's formula (or None), and the
        values of `ranking_recall`.

    Raises:
        ValueError: if the model has no second stage, or a length is below 1.

    Example:

    ```python
    from keras_itr.evaluation import sweep_k, sweep_report

    print(sweep_report(sweep_k(model, table, [(10, 10), (20, 40), (50, 100)])))
    ```

    Reference: the cost of two stages follows Liu et al., TGDT, IEEE TIP 2023; the rest is our choice.
    """
    sweeps = [searches.TwoStageSearch(model, *pair, verbose=verbose) for pair in lengths]
    search, (image_inputs, caption_inputs) = sweeps[0], model_inputs(data)
    images = search.encode_images(image_inputs, batch_size)
    texts = search.encode_texts(caption_inputs, batch_size)
    owner, pairs = np.asarray(data.caption_to_image), data.num_images * data.num_captions
    stage_one = pairs * images["embedding"].shape[1]
    pair_cost = model.pair_cost(images["mask"].sum(1).mean(), texts["mask"].sum(1).mean())
    timed = _timed(lambda: embedding_recall(images["embedding"], texts["embedding"], owner))
    rows = [{"k": "vectors", "pairs": 0, "cost": stage_one, **timed}]
    for search in sweeps:
        found = _two_stage(search, images, texts, owner)
        scored = data.num_images * min(search.top_k_image_to_text, data.num_captions)
        scored += data.num_captions * min(search.top_k_text_to_image, data.num_images)
        name = f"{search.top_k_image_to_text}/{search.top_k_text_to_image}"
        cost = None if pair_cost is None else stage_one + scored * pair_cost
        rows.append({"k": name, "pairs": scored, "cost": cost, **found})
    if not model.dot_product:
        _warm(lambda some, other: model.score(some, other, verbose=False), images, texts)
        timed = _timed(lambda: recall_at_k(model.score(images, texts, verbose=verbose), owner))
        rows.append({"k": "exhaustive", "pairs": pairs, "cost": pair_cost and pairs * pair_cost, **timed})
    return rows


def sweep_report(rows):
    """Readable table of `sweep_k`, for a terminal or a log: string of several lines.

    `times` is how many times faster than exhaustive scoring, `fewer` how many times fewer multiply-adds by the
    method's formula; the shortlists' recall is the ceiling of every recall in its line.

    Example: see `sweep_k`.
    """
    full = rows[-1] if rows[-1]["k"] == "exhaustive" else None
    head = ["K", "seconds", "times", "pairs", "fewer", "rsum", "i2t R@1", "t2i R@1", "i2t ceiling", "t2i ceiling"]
    table = [head]
    for row in rows:
        faster = full and full["seconds"] / row["seconds"]
        fewer = full and full["cost"] and full["cost"] / row["cost"]
        numbers = [row["seconds"], faster, row["pairs"], fewer, row["rsum"], row["i2t_r1"], row["t2i_r1"]]
        numbers += [row.get("i2t_shortlist"), row.get("t2i_shortlist")]
        table.append([row["k"], *map(_cell, numbers)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def plot_sweep(rows, path, title="Two-stage search"):
    """Picture of `sweep_k`: RSUM against seconds, a point for each length, the exhaustive score as a line.

    Args:
        rows: of `sweep_k`.
        path: file to write, such as `"sweep.png"`; whole or not at all.
        title: string.

    Raises:
        ImportError: if matplotlib is not installed, with the command that installs it.

    Example:

    ```python
    from keras_itr.evaluation import plot_sweep, sweep_k

    plot_sweep(sweep_k(model, table, [(10, 10), (20, 40)]), "sweep.png")
    ```
    """
    figure_class = _matplotlib_figure()
    figure = figure_class(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    stages = [row for row in rows if row["k"] != "exhaustive"]
    axes.plot([row["seconds"] for row in stages], [row["rsum"] for row in stages], "o-", label="two-stage")
    for row in rows:
        axes.annotate(row["k"], (row["seconds"], row["rsum"]), textcoords="offset points", xytext=(6, -12))
    for row in rows:
        if row["k"] == "exhaustive":
            axes.axhline(row["rsum"], linestyle="--", color="grey", linewidth=1)
            axes.plot(row["seconds"], row["rsum"], "*", markersize=14, label="exhaustive")
    axes.set(xscale="log", xlabel="seconds for both directions", ylabel="RSUM", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(path) as aside:
        figure.savefig(aside, dpi=130)


def check_plot(path):
    """An ImportError or a ValueError at once, not after the work, if no picture can be written there."""
    _matplotlib_figure()
    if os.path.splitext(path)[1].lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: a picture is a .png, .svg or .pdf file.")


def parse_lengths(text):
    """`"10,20/40"` as `[(10, 10), (20, 40)]`: captions of an image, images of a caption; one number is for both."""
    lengths = []
    for part in text.split(","):
        numbers = part.strip().split("/")
        if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise ValueError(f"a shortlist is one number, or two with a stroke such as 20/40, received {part!r}.")
        lengths.append((int(numbers[0]), int(numbers[-1])))
    return lengths


def _two_stage(search, images, texts, owner):
    def both(some_images, some_texts):
        return search.image_to_text(some_images, texts), search.text_to_image(some_texts, images)

    _warm(both, images, texts, search.query_block)
    started = time.perf_counter()
    rankings = both(images, texts)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, **ranking_recall(*rankings, owner)}


def _warm(function, images, texts, count=64):
    """Run once on a few, so that compiling is not timed."""
    function(*({key: rows[:count] for key, rows in side.items()} for side in (images, texts)))


def _timed(function):
    started = time.perf_counter()
    result = function()
    return {"seconds": time.perf_counter() - started, **result}


def _cell(number):
    if number is None:
        return ""
    return f"{number:,}" if isinstance(number, int | np.integer) else f"{number:.2f}"


def _matplotlib_figure():
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('a picture needs matplotlib; pip install "keras-itr[plot]", or go without --plot.') from None
    return Figure
