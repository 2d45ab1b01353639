import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def written_whole(path):
    """A path beside `path` to write to; it takes the place of `path` in one step when the block ends without an error.

    An interrupted run leaves the old file or the new one, never half of one.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        `Path` of the same suffix in the same folder.

    Example:

    ```python
    from keras_itr.files import written_whole

    with written_whole("notes/a.txt") as aside:
        aside.write_text("whole or not at all")
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
