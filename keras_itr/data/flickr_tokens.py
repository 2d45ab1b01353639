import os
import reprlib

from keras_itr.data.annotation_collector import AnnotationCollector
from keras_itr.data.annotations import build_table
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.messages import nearest
from keras_itr.data.text_files import read_lines


def load_flickr_tokens(
    split,
    directory,
    annotations="results.token",
    split_files="{split}.txt",
    images=None,
    features=None,
    max_regions=None,
    region_boxes=None,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
):
    """The token file of Flickr30K and Flickr8K, with a list of image names per split.

    A line of the token file is `name.jpg#0`, a tab, and the caption. A line of a
    split's list is the name of an image, with or without its suffix. Blank lines
    are skipped.

    Args:
        split: string; what stands for `{split}` in the patterns.
        directory: folder of the data.
        annotations: pattern of the token file. Defaults to `"results.token"`.
        split_files: pattern of the lists, such as
            `"Flickr_8k.{split}Images.txt"`. Defaults to `"{split}.txt"`.
        images, features, max_regions, region_boxes, text_features, teacher_image,
            teacher_text, image_global: what else the table holds, see `build_table`.

    Returns:
        A `RetrievalTable`: images in the order of the list, captions of an image
        together, in the order of the token file; a caption's id is `name.jpg#0`.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for a file that is not as described, with the line; for an
            image of the list without a caption.

    Example:

    ```python
    from keras_itr.data import load_flickr_tokens

    lists = "Flickr_8k.{split}Images.txt"
    table = load_flickr_tokens("dev", "flickr8k", "Flickr8k.token.txt", lists, images="Flicker8k_Dataset")
    ```

    Reference: Young et al., TACL 2014; Hodosh et al., JAIR 2013.
    """
    path, list_path = (
        FilePattern(argument, pattern, directory, split, per_image=False).path
        for argument, pattern in (("annotations", annotations), ("split_files", split_files))
    )
    columns = (images, features, max_regions, region_boxes, text_features, teacher_image, teacher_text, image_global)
    return build_table(
        lambda: collect_annotations(path, list_path), directory, split, *columns, needs=[path, list_path]
    )


def collect_annotations(path, list_path):
    captions = _captions(path)
    collector = AnnotationCollector(path)
    for name in _names_of_split(list_path, path, captions):
        collector.claim(name, captions[name][0][0])
        image = collector.add_image(name)
        for line, key, caption in captions[name]:
            collector.add_caption(image, caption, key, line)
    return collector.finish()


def _captions(path):
    """dict from image name to its `(line, name#number, caption)`."""
    captions = {}
    for line, text in read_lines(path):
        key, tab, caption = text.partition("\t")
        name, _, number = key.rpartition("#")
        if not tab or not name or not number.isdecimal():
            raise ValueError(f"{path}:{line}: must be name.jpg#0, a tab and a caption, got {reprlib.repr(text)}.")
        captions.setdefault(name, []).append((line, key, caption))
    return captions


def _names_of_split(path, token_path, captions):
    """The full names of a list's images."""
    by_stem, first = {}, {}
    for name in captions:
        by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
    for line, text in read_lines(path):
        given = text.strip()
        names = [given] if given in captions else by_stem.get(given, [])
        if not names:
            near = nearest(given, captions)
            hint = f"; did you mean {near!r}?" if near else "."
            raise ValueError(f"{path}:{line}: image {given!r} has no caption in {token_path.name}{hint}")
        if len(names) > 1:
            raise ValueError(f"{path}:{line}: {given!r} may be {' or '.join(names)}; write the suffix.")
        if names[0] in first:
            raise ValueError(f"{path}:{line}: image {given!r} stands twice, first at line {first[names[0]]}; keep one.")
        first[names[0]] = line
    return list(first)
