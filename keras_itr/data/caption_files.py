"""Captions and words out of files, where neither photos nor features are there or needed."""

import re
from pathlib import Path

from keras_itr.data.coco_captions import collect_annotations as read_coco_captions
from keras_itr.data.coco_captions import is_coco_captions
from keras_itr.data.concept_words import CLASSES
from keras_itr.data.flickr_tokens import collect_annotations as read_flickr_tokens
from keras_itr.data.karpathy import collect_annotations as read_karpathy
from keras_itr.data.messages import choose
from keras_itr.data.missing_data import require_files
from keras_itr.data.pairs import collect_annotations as read_pairs
from keras_itr.data.text_files import read_lines

_SUFFIXES = (".json", ".token", ".tsv", ".csv", ".jsonl", ".txt")
_SPLIT_IN_NAME = re.compile(r"(?<![A-Za-z])(?i:train|restval|val|valid|validation|dev|test|testall)(?![a-z])")


def read_captions(source, split="train"):
    """The captions of one split of an annotation file, a list of strings; see `read_caption_file`.

    Example:

    ```python
    from keras_itr.data.caption_files import read_captions

    captions = read_captions("flickr8k/train_caps.txt")
    ```
    """
    return read_caption_file(source, split)[0]


def read_caption_file(source, split="train"):
    """The captions of one split of an annotation file, and of that split alone; no photos are looked for.

    | suffix | what it is | how splits are told apart |
    |---|---|---|
    | `.json` | Karpathy's | in the file; `"train"` takes `"restval"` too |
    | `.json` | COCO's captions | one file per split |
    | `.token` | Flickr's | by the list `<split>.txt` beside it |
    | `.tsv`, `.csv`, `.jsonl` | pairs, see `load_pairs` | by the column `split` |
    | `.txt` | a caption a line, such as SCAN's `train_caps.txt` | one file per split |

    Args:
        source: path of the file.
        split: string. Defaults to `"train"`.

    Returns:
        `(captions, names)`, two lists of strings, in the order of the file, without blank lines of a `.txt`. The names
        are the captions' ids, those that readers look rows up by; None for a `.txt` without `<split>_names.txt`, the
        images' names, beside it.

    Raises:
        MissingData: names the file that is absent.
        ValueError: as the reader says; for another suffix; or if the name of a
            file of one split names another split than `split`.

    Example:

    ```python
    from keras_itr.data.caption_files import read_caption_file

    captions, names = read_caption_file("coco/dataset_coco.json", "train")
    ```

    Source: our choice.
    """
    path = Path(source)
    require_files([path])
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: no annotation file is called {path.suffix!r}; {choose('suffixes', '', _SUFFIXES)}")
    if path.suffix == ".txt":
        _check_split_in_name(path, split)
        return _lines_and_names(path)
    if path.suffix == ".token":
        lists = path.with_name(f"{split}.txt")
        require_files([lists])
        return _both(read_flickr_tokens(path, lists))
    if path.suffix != ".json":
        return _both(read_pairs(path, split, "image", "caption", "split"))
    if not is_coco_captions(path):
        return _both(read_karpathy(path, split, restval=True))
    _check_split_in_name(path, split)
    return _both(read_coco_captions(path))


def read_word_classes(path):
    """dict of word to class, of a text file with a word, a tab and a class a line.

    Args:
        path: path of a UTF-8 file. Classes are `object`, `property`, `motion`;
            words are compared in lower case.

    Returns:
        dict of strings.

    Raises:
        MissingData: if there is no file.
        ValueError: names the line that is not as described, or gives a word a
            second class.
    """
    require_files([path])
    classes = {}
    for line, text in read_lines(path):
        word, _, name = (part.strip() for part in text.partition("\t"))
        if not word or not name:
            raise ValueError(f"{path}:{line}: must be a word, a tab and a class, got {text!r}.")
        if name not in CLASSES:
            raise ValueError(f"{path}:{line}: unknown class {name!r}: {choose('classes', name, CLASSES)}")
        if classes.setdefault(word.lower(), name) != name:
            raise ValueError(f"{path}:{line}: {word!r} is {classes[word.lower()]} above and {name} here; keep one.")
    return classes


def _both(annotations):
    return annotations.captions, annotations.caption_names


def _lines_and_names(path):
    """Captions of a `.txt`, and their ids where the images' names lie beside it, as `load_precomputed` counts them."""
    captions = [caption for _, caption in read_lines(path)]
    names_file = path.with_name(path.name.replace("_caps.txt", "_names.txt"))
    if names_file == path or not names_file.is_file():
        return captions, None
    images = [name for _, name in read_lines(names_file)]
    if len(captions) % len(images):
        raise ValueError(f"{names_file}: {len(images)} names, of which {len(captions)} captions are no multiple.")
    return captions, [f"{name}#{number}" for name in images for number in range(len(captions) // len(images))]


def _check_split_in_name(path, split):
    """A file of one split would be taken for any other: its own name is the only witness."""
    named = [name.lower() for name in _SPLIT_IN_NAME.findall(path.stem)]
    if named and split.lower() not in named:
        raise ValueError(
            f"{path}: by its name this file holds split {named[-1]!r}, not {split!r}; "
            f"give the file of {split!r}, or the split {named[-1]!r} if that is meant."
        )
