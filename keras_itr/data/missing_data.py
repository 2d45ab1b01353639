import os
from pathlib import Path

from keras_itr.data.messages import nearest


class MissingData(FileNotFoundError):
    """Files or folders of a data set that are not there.

    The message is one line that names all of them at once, each with the
    nearest name in its folder, and holds no advice on where to get the data:
    that is known to the caller, who may append it.
    """


def missing_file(path, kind="file"):
    """One line about a file that is not there, with the nearest name in its folder.

    Args:
        path: the path that was expected.
        kind: `"file"` (default) or `"folder"`.
    """
    path = Path(path)
    if path.exists():
        return f"{path}: is a {'folder' if path.is_dir() else 'file'}; a {kind} is needed."
    if not path.parent.is_dir():
        return f"{path}: there is no folder {path.parent}; set data.directory or pass --data_dir."
    near = nearest(path.name, os.listdir(path.parent))
    return f"{path}: no such {kind}" + (f"; did you mean {near}?" if near else ".")


def require_files(files, folders=()):
    """Raises one `MissingData` for all of these files and folders that are absent.

    Args:
        files: paths of files.
        folders: paths of folders.

    Raises:
        MissingData: names every absent one.
    """
    absent = [(Path(path), "file") for path in files if not os.path.isfile(path)]
    absent += [(Path(path), "folder") for path in folders if not os.path.isdir(path)]
    if not absent:
        return
    by_folder = {}
    for path, kind in dict.fromkeys(absent):
        by_folder.setdefault(path.parent, []).append((path, kind))
    parts = [part for folder, group in by_folder.items() for part in _parts(folder, group)]
    total = sum(map(len, by_folder.values()))
    raise MissingData(parts[0] if total == 1 else f"{total} files or folders are missing. {' '.join(parts)}")


def _parts(folder, group):
    if len(group) > 1 and not folder.is_dir():
        names = ", ".join(path.name for path, _ in group)
        return [f"For {names} there is no folder {folder}; set data.directory or pass --data_dir."]
    return [missing_file(path, kind) for path, kind in group]
