import os
import re
import reprlib

from keras_itr.data.annotations import Annotations
from keras_itr.data.messages import place

_BROKEN = re.compile("[\ud800-\udfff]")  # halves of characters: JSON can write them, nothing can encode them
_CONTROL = re.compile("[\x00-\x1f]")


class AnnotationCollector:
    """Gathers the images and captions of one annotation file, checking each as it comes.

    What every reader must refuse is refused here, in the same words: an image
    or a caption id that stands twice, a caption that is empty or no text, a file
    name that leads out of the image folder.

    Args:
        source: path of the annotation file, for messages.
        absolute: bool, whether absolute paths of images are allowed. Defaults to
            False.

    Example:

    ```python
    collector = AnnotationCollector("captions.tsv")
    collector.claim("one.jpg", where=2)
    row = collector.add_image("one.jpg")
    collector.add_caption(row, "a dog", "one.jpg#0", where=2)
    collector.finish().captions  # ["a dog"]
    ```
    """

    def __init__(self, source, absolute=False):
        self.source, self.absolute = source, absolute
        self._image_names, self._image_paths = [], []
        self._captions, self._caption_to_image, self._caption_names = [], [], []
        self._taken = {}  # of images and of captions: name -> where it stands
        self._per_image = []

    def claim(self, name, where):
        """Checks and takes the file name of an image, of this split or of another.

        Args:
            name: what the annotation gives as file name.
            where: int line number, or string JSON path.

        Raises:
            ValueError: if it is no file name, or stands in the file already.
        """
        self.check_path(name, where)
        self._take("image", name, where)

    def check_path(self, path, where):
        """Raises a `ValueError` unless this is the name of something in the image folder."""
        if not isinstance(path, str) or not path.strip() or _CONTROL.search(path) or _BROKEN.search(path):
            raise ValueError(f"{place(self.source, where)}: must be a file name, got {reprlib.repr(path)}.")
        if ".." in path.replace("\\", "/").split("/") or (os.path.isabs(path) and not self.absolute):
            raise ValueError(
                f"{place(self.source, where)}: {path!r} leads out of the image folder; write the path from there."
            )

    def add_image(self, name, path=None):
        """The row of an image that was claimed; `path` is where in the image folder it may lie if not there."""
        self._image_names.append(name)
        self._image_paths.append(path or name)
        self._per_image.append(0)
        return len(self._image_names) - 1

    def add_caption(self, image, caption, name, where):
        """A caption of the image in row `image`.

        Args:
            image: int.
            caption: what the annotation gives as caption.
            name: string, the caption's id; None makes it `<image>#<number>`.
            where: int line number, or string JSON path.

        Raises:
            ValueError: if the caption is no text or empty, or the id stands in
                the file already.
        """
        if not isinstance(caption, str) or _BROKEN.search(caption):
            raise ValueError(f"{place(self.source, where)}: a caption must be text, got {reprlib.repr(caption)}.")
        if not caption.strip():
            raise ValueError(f"{place(self.source, where)}: empty caption; remove it or fill it in.")
        name = f"{self._image_names[image]}#{self._per_image[image]}" if name is None else name
        self._take("caption", name, where)
        self._per_image[image] += 1
        self._captions.append(caption)
        self._caption_to_image.append(image)
        self._caption_names.append(name)

    def finish(self):
        """The `Annotations`."""
        names, paths = self._image_names, self._image_paths
        return Annotations(names, self._captions, self._caption_to_image, self._caption_names, self.source, paths)

    def _take(self, kind, name, where):
        if (kind, name) in self._taken:
            first = self._taken[kind, name]
            at = f"line {first}" if isinstance(first, int) else first
            raise ValueError(f"{place(self.source, where)}: {kind} {name!r} stands twice, first at {at}; keep one.")
        self._taken[kind, name] = where
