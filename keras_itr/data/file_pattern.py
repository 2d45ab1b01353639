import os
import re
import string
from pathlib import Path

from keras_itr.data.messages import choose


class FilePattern:
    """The name of a data file in which `{split}`, `{name}` and `{stem}` stand for something.

    `"{split}_ims.npy"` is one file for a split. `"regions/{stem}.npz"` is one
    file per image: `{name}` is the image's name as the annotation gives it,
    sub-folder and all, `{stem}` the same without the suffix.

    Args:
        argument: name of the reader's argument, for messages.
        pattern: string or path; a relative one lies in `directory`.
        directory: folder of the data.
        split: string.
        per_image: bool, whether `{name}` and `{stem}` are allowed.

    Raises:
        ValueError: if the pattern is not text or names something else in braces.

    Example:

    ```python
    FilePattern("features", "regions/{stem}.npz", "coco", "val").paths(["one.jpg"])  # ["coco/regions/one.npz"]
    ```
    """

    def __init__(self, argument, pattern, directory, split, per_image=True):
        if not isinstance(pattern, str | os.PathLike):
            raise ValueError(f"{argument}={pattern!r}: must be the name of a file, as text.")
        self.argument, self.pattern = argument, os.fspath(pattern)
        self.directory, self.split = directory, split
        self.fields = self._fields(("split", "name", "stem") if per_image else ("split",))
        self.per_image = bool(self.fields & {"name", "stem"})

    @property
    def path(self):
        """The path of the one file."""
        return Path(self.directory, self.pattern.format(split=self.split))

    @property
    def folder(self):
        """The folder below which all the files of a pattern per image lie."""
        head = re.split(r"\{(?:name|stem)\b", self.pattern)[0]
        return Path(self.directory, os.path.dirname(head).format(split=self.split))

    def paths(self, names):
        """The path of every image's file, as a list of strings.

        Raises:
            ValueError: if two images have the same file.
        """
        owner = {}
        for name in names:
            values = {"split": self.split, "name": name, "stem": os.path.splitext(name)[0]}
            path = os.path.join(self.directory, self.pattern.format(**values))
            if path in owner:
                raise ValueError(
                    f"{self.argument}={self.pattern!r}: images {owner[path]!r} and {name!r} would both read {path}; "
                    "use {name}, or name the files apart."
                )
            owner[path] = name
        return list(owner)

    def _fields(self, allowed):
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self.pattern) if field is not None}
        except ValueError as error:
            raise ValueError(f"{self.argument}={self.pattern!r}: {error}; braces hold a placeholder.") from None
        for field in sorted(fields.difference(allowed)):
            choices = choose("placeholders", f"{{{field}}}", [f"{{{name}}}" for name in allowed])
            raise ValueError(f"{self.argument}={self.pattern!r}: unknown {{{field}}}; {choices}")
        return fields
