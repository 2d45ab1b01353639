import json
import math
import re

from keras_itr.files import written_whole

_DIRECTION = re.compile(r"(?P<kind>.*?)(?P<direction>i2t|t2i|t2t)_(?P<column>r\d+|median_rank|map_at_r)")
_NAMES = {"i2t": "image to text", "t2i": "text to image", "t2t": "text to text"}
_COLUMNS = {"median_rank": "median rank", "map_at_r": "mAP@R"}


def report(metrics):
    """Readable table of the metrics of `evaluate`, for a terminal or a log.

    Directions are rows, cutoffs and the median rank (1 is best) columns. Checked
    values and chance levels get rows of their own. What is no direction, such as
    `rsum`, follows below as name and value, so that nothing is left out.

    Args:
        metrics: flat dict of floats, recalls in percent.

    Returns:
        string of several lines, two decimals.

    Example:

    ```python
    from keras_itr.evaluation import report

    print(report({"i2t_r1": 42.0, "t2i_r1": 27.6, "rsum": 69.6}))
    #                   R@1
    # image to text   42.00
    # text to image   27.60
    # rsum            69.60
    ```
    """
    matches = {name: _DIRECTION.fullmatch(name) for name in metrics}
    columns = list(dict.fromkeys(match["column"] for match in matches.values() if match))
    table = [["", *map(_heading, columns)]]
    for kind, direction in dict.fromkeys((match["kind"], match["direction"]) for match in matches.values() if match):
        cells = [metrics.get(f"{kind}{direction}_{column}") for column in columns]
        label = f"{kind.replace('_', ' ')}{_NAMES[direction]}"
        table.append([label, *("" if cell is None else f"{cell:.2f}" for cell in cells)])
    table += [[name.replace("_", " "), f"{metrics[name]:.2f}"] for name, match in matches.items() if not match]
    return _fixed_width(table)


def save_report(metrics, path):
    """Write metrics as JSON, whole or not at all.

    The text goes to a temporary file beside `path`, which then replaces `path` in
    one step: an interrupted run leaves the old file or the new one, never half.

    Args:
        metrics: flat dict of numbers.
        path: file to write; missing folders are made.

    Raises:
        ValueError: if a value is not a finite number, which JSON cannot hold.

    Example:

    ```python
    from keras_itr.evaluation import save_report

    save_report({"i2t_r1": 42.0}, "runs/clip/f30k.json")
    ```
    """
    values = {name: _finite(name, value) for name, value in metrics.items()}
    with written_whole(path) as aside:
        aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _finite(name, value):
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"metrics must be finite numbers, but {name!r} is {value}; nothing was written.")
    return value


def _heading(column):
    return _COLUMNS.get(column, f"R@{column[1:]}")


def _fixed_width(table):
    label = max(len(row[0]) for row in table)
    width = max(8, *(len(cell) + 1 for row in table for cell in row[1:]))
    lines = (row[0].ljust(label) + "".join(cell.rjust(width) for cell in row[1:]) for row in table)
    return "\n".join(line.rstrip() for line in lines)
