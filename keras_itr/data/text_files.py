"""Text and JSON files of data sets, with errors that name the line or the JSON path."""

import json
import reprlib
from pathlib import Path

from keras_itr.data.messages import nearest, place

_KINDS = {str: "text", list: "a list", dict: "an object", (int, str): "a number or text"}
_ABSENT = object()


def read_text(path):
    """The text of a UTF-8 file, with or without a byte order mark; line ends become a line feed.

    Raises:
        ValueError: names the line that is not UTF-8, or says that the file is empty.
    """
    raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8.") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path):
    """`(number, line)` of every line of a UTF-8 file that is not blank; numbers start at 1."""
    return [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


def read_json(path):
    """The object in a JSON file.

    Raises:
        ValueError: names the line at which it stops being JSON; or says that
            it is not an object.
    """
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: {json_fault(error)}; is the file complete?") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: must be a JSON object with a list 'images', got {reprlib.repr(document)}.")
    return document


def json_fault(error):
    """What a `json.JSONDecodeError` says, without the place that it would add."""
    return f"not JSON ({error.msg.removesuffix(' starting at')}, column {error.colno})"


def json_objects(node, key, source, where=""):
    """`(where, object)` of everything in the list `node[key]`, each checked to be an object.

    Args:
        node: dict.
        key: string, name of the list.
        source: path of the file, for messages.
        where: string, the JSON path of `node`; empty at the top.
    """
    prefix = f"{where}.{key}" if where else key
    for row, item in enumerate(json_field(node, key, list, source, where)):
        here = f"{prefix}[{row}]"
        if not isinstance(item, dict):
            raise ValueError(f"{place(source, here)}: must be an object, got {reprlib.repr(item)}.")
        yield here, item


def json_field(node, key, kind, source, where="", default=_ABSENT):
    """`node[key]`, checked to be of a kind.

    Args:
        node: dict.
        key: string.
        kind: `str`, `list`, `dict`, or `(int, str)`.
        source: path of the file, for messages.
        where: string, the JSON path of `node`; empty at the top.
        default: what a missing key gives; without it that is an error.

    Raises:
        ValueError: names the JSON path and what was found there.
    """
    value = node.get(key, default)
    if value is _ABSENT:
        here = place(source, where) if where else source
        near = nearest(key, node)
        there = f"did you mean {near!r}?" if near else f"its keys are {', '.join(map(str, node)) or 'none'}."
        raise ValueError(f"{here}: the key {key!r} is missing; {there}")
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        full = f"{where}.{key}" if where else key
        raise ValueError(f"{place(source, full)}: must be {_KINDS[kind]}, got {reprlib.repr(value)}.")
    return value
