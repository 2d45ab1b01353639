import os

from keras_itr.data.messages import nearest


class FolderListing:
    """Which files are there, from one listing per folder in place of one look per file.

    Asking a network drive about each of 120,000 images takes minutes, listing
    their folder takes a second. `path in listing` is the question; a folder that
    does not exist holds nothing.

    Example:

    ```python
    listing = FolderListing()
    [path for path in paths if path not in listing]  # the missing ones
    ```
    """

    def __init__(self):
        self._names = {}

    def __contains__(self, path):
        folder, name = os.path.split(path)
        return name in self._files(folder)

    def has_folder(self, path):
        """Whether there is any file in the folder of `path`."""
        return bool(self._files(os.path.dirname(path)))

    def first_missing(self, paths):
        """One line on the paths that are not there (how many, the first, its nearest neighbour), or None."""
        missing = [path for path in paths if path not in self]
        if not missing:
            return None
        folder, name = os.path.split(missing[0])
        count = f"{len(missing)} of {len(paths)} files are missing, the first is {missing[0]}"
        if not os.path.isdir(folder):
            return f"{count}; there is no folder {folder}."
        near = nearest(name, self._files(folder))
        return f"{count}; the nearest name there is {near}." if near else f"{count}."

    def _files(self, folder):
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = {entry.name for entry in entries if entry.is_file()}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
        return self._names[folder]
