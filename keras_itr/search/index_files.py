"""The files of a saved index: what is written about them, and whether they are still what was written."""

import hashlib
import json
from pathlib import Path

from keras_itr.messages import one_line

MANIFEST = "index.json"
FORMAT = 1
REMEDY = "index anew, or restore the folder from a copy."


def write_manifest(directory, description, name=MANIFEST):
    """Write a description, and the size and SHA-256 of every file of the folder and of those below that have none.

    Args:
        directory: `Path` of the folder.
        description: dict that JSON can hold.
        name: string, name of the file to write, default `index.json`.
    """
    apart = {path.parent for path in directory.rglob(MANIFEST)}
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.parent not in apart)
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": _checksum(path)}
        for path in paths
    }
    text = json.dumps({"format": FORMAT, **description, "files": files}, indent=1, ensure_ascii=False)
    (directory / name).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory, verify=True, name=MANIFEST):
    """The dict that `write_manifest` wrote, once the files are found to be those it describes.

    Args:
        directory: the folder.
        verify: bool, default True: compare checksums, which reads every file; False: sizes alone.
        name: string, name of the file, default `index.json`.

    Raises:
        FileNotFoundError: if there is no such folder, or no index in it.
        ValueError: names the file that is missing, damaged or cut short, or of a later version.

    Example:

    ```python
    from keras_itr.search.index_files import read_manifest

    read_manifest("gallery")["count"]
    ```
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: there is no such folder; make an index there first (tools/index.py).")
    path = directory / name
    if not path.is_file():
        raise FileNotFoundError(f"{directory}: holds no index, for it has no {name}.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, files = manifest["format"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({one_line(error)}); {REMEDY}") from error
    if version != FORMAT:
        raise ValueError(f"{path}: has format {version}, this version of keras_itr reads {FORMAT}; index anew.")
    for file, expected in files.items():
        _check_file(directory / file, expected, verify)
    return manifest


def _check_file(path, expected, verify):
    if not path.is_file():
        raise ValueError(f"{path}: is missing; {REMEDY}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{path}: has {size:,} bytes of {expected['bytes']:,}, so it is not whole; {REMEDY}")
    if verify and _checksum(path) != expected["sha256"]:
        raise ValueError(f"{path}: is damaged, for its SHA-256 is not the one that was saved; {REMEDY}")


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
