import csv
import difflib
import io
import json
import pathlib
import posixpath
import reprlib

from keras_itr.data.annotation_collector import AnnotationCollector
from keras_itr.data.annotations import build_table
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.messages import choose
from keras_itr.data.text_files import json_fault, read_lines, read_text


def load_pairs(
    split,
    directory,
    annotations="captions.tsv",
    images=None,
    features=None,
    max_regions=None,
    region_boxes=None,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
    image_column="image",
    caption_column="caption",
    split_column=None,
):
    """Your own data: a TSV, CSV or JSONL file of image path and caption, one pair a row.

    Rows with the same image are its captions. Splits are told apart by file,
    with `{split}` in `annotations`, or by a column. Blank lines are skipped; files
    are UTF-8, with or without a byte order mark.

    | suffix | layout |
    |---|---|
    | `.tsv` | a header line; cells between tabs, taken as they stand |
    | `.csv` | a header line; commas, and quotes around cells that hold one |
    | `.jsonl` | one object a line |

    Args:
        split: string.
        directory: folder of the data.
        annotations: pattern of the file. Defaults to `"captions.tsv"`.
        images, features, max_regions, region_boxes, text_features, teacher_image,
            teacher_text, image_global: what else the table holds, see `build_table`.
        image_column: string, column of the image's path, relative to `images` or
            absolute. Defaults to `"image"`.
        caption_column: string. Defaults to `"caption"`.
        split_column: string, column of the split. Defaults to `"split"` if
            `annotations` is one file for all splits, and to none if it has
            `{split}`.

    Returns:
        A `RetrievalTable`: images in the order in which they first appear,
        captions in the order of the rows; a caption's id is `image#0`, counted
        per image.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for a file that is not as described, with the line; for an
            unknown split or column, with those there are; for an image in two
            splits.

    Example:

    ```python
    from keras_itr.data import load_pairs

    table = load_pairs("train", "my_data", "{split}.csv", images="photos", caption_column="text")
    ```

    Source: our choice.
    """
    pattern = FilePattern("annotations", annotations, directory, split, per_image=False)
    if split_column is None and "split" not in pattern.fields:
        split_column = "split"
    if pattern.path.suffix.lower() not in _ROWS:
        raise ValueError(f"annotations={annotations!r}: the suffix must be {', '.join(_ROWS)}.")
    columns = (images, features, max_regions, region_boxes, text_features, teacher_image, teacher_text, image_global)
    names = (image_column, caption_column, split_column)
    return build_table(
        lambda: collect_annotations(pattern.path, split, *names), directory, split, *columns, needs=[pattern.path]
    )


def collect_annotations(path, split, image_column, caption_column, split_column):
    collector, row_of, split_of, splits = AnnotationCollector(path, absolute=True), {}, {}, {}
    columns = [column for column in (image_column, caption_column, split_column) if column is not None]
    for line, cells in _ROWS[path.suffix.lower()](path, columns):
        image, caption = cells[image_column], cells[caption_column]
        collector.check_path(image, line)
        # Two ways to write one path are one image, in one split.
        image = posixpath.normpath(image)
        if split_column is not None:
            _check_split(path, line, image, cells[split_column], split_of)
            splits.setdefault(cells[split_column], line)
            if cells[split_column] != split:
                continue
        if image not in row_of:
            row_of[image] = collector.add_image(image)
        collector.add_caption(row_of[image], caption, None, line)
    if not row_of:
        where = f" in column {split_column!r}; {choose('splits', split, splits)}" if split_column else "."
        raise ValueError(f"{path}: no row of split {split!r}{where}")
    for given, line in splits.items():
        _check_spelling(path, line, given, split)
    return collector.finish()


def read_column(path, column):
    """The cells of one column of a `.tsv`, `.csv` or `.jsonl`, without the blank ones; see `load_pairs`.

    Args:
        path: path of the file.
        column: string, its name in the header, or the key.

    Returns:
        list of strings.

    Raises:
        ValueError: names the line that is not as described, or the nearest column.
    """
    cells = [str(row[column]).strip() for _, row in _ROWS[pathlib.PurePath(path).suffix](path, [column])]
    return [cell for cell in cells if cell]


def _check_split(path, line, image, of_split, split_of):
    if not isinstance(of_split, str) or not of_split:
        raise ValueError(f"{path}:{line}: the split must be text, got {reprlib.repr(of_split)}.")
    first_split, first_line = split_of.setdefault(image, (of_split, line))
    if first_split != of_split:
        raise ValueError(
            f"{path}:{line}: image {image!r} is of split {of_split!r}, and of {first_split!r} at line {first_line}; "
            "keep it in one of them."
        )


def _check_spelling(path, line, given, split):
    """Raises a `ValueError` for a split that looks like the wanted one in another spelling: its rows would be lost."""
    alike = difflib.SequenceMatcher(None, given, split).ratio() >= 0.8 and abs(len(given) - len(split)) <= 1
    same = given.strip().casefold() == split.casefold()
    if given != split and (same or (alike and given.isalpha() and split.isalpha())):
        raise ValueError(f"{path}:{line}: split {given!r} looks like {split!r} misspelt; write both the same way.")


def _tsv_rows(path, columns):
    lines = enumerate(read_text(path).split("\n"), 1)
    hint = "a caption holds no tab"
    return _under_header(path, ((line, text.split("\t")) for line, text in lines if text), columns, hint)


def _csv_rows(path, columns):
    return _under_header(path, _csv_cells(path), columns, "quote a caption that holds a comma")


def _csv_cells(path):
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1  # a quoted cell may go on for several lines: the row is named by its first
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: not CSV ({error}); close every quote and double those within.") from None
        if cells is None:
            return
        if cells:
            yield line, cells
        line = reader.line_num + 1


def _under_header(path, rows, columns, hint):
    """`(line, dict of cells)` of rows of cells, the first of which is the header."""
    header_line, header = next(rows)
    _check_columns(path, header_line, header, columns, "columns")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}:{line}: {len(cells)} cells for the {len(header)} columns of the header; {hint}.")
        yield line, dict(zip(header, cells, strict=True))


def _jsonl_rows(path, columns):
    for line, text in read_lines(path):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{line}: {json_fault(error)}; write one object a line.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: must be one JSON object, got {reprlib.repr(row)}.")
        _check_columns(path, line, list(row), columns, "keys")
        yield line, row


def _check_columns(path, line, header, columns, what):
    for column in columns:
        if header.count(column) > 1:
            raise ValueError(f"{path}:{line}: two {what} are called {column!r}; rename one.")
        if column not in header:
            advice = " Or write {split} into annotations, one file per split." if columns[2:] == [column] else ""
            raise ValueError(f"{path}:{line}: no {column!r} there; {choose(what, column, header)}{advice}")


_ROWS = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}
