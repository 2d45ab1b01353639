import dataclasses
import os

import numpy as np

from keras_itr.data.features import read_features
from keras_itr.data.features_per_file import FeaturesPerFile
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.folder_listing import FolderListing
from keras_itr.data.missing_data import MissingData, require_files
from keras_itr.data.region_columns import read_image_rows, region_columns
from keras_itr.data.table import RetrievalTable

PER_IMAGE = ("features", "region_boxes", "teacher_image", "image_global")  # may be one file for every image


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What an annotation file says about one split: images, captions, and which belongs to which.

    It knows file names, no pixels and no features. Every reader makes one and
    hands it to `build_table`.

    Args:
        image_names: list of `N` distinct strings, the images' file names as the
            annotation gives them; None if it gives none.
        captions: list of `T` strings, as they stand in the file.
        caption_to_image: list of `T` ints, the image row of every caption.
        caption_names: list of `T` distinct strings, ids of the captions; or None.
        source: path of the file, for messages.
        image_paths: list of `N` strings, where in the image folder an image may
            lie (Karpathy's `filepath/filename`) if not under its name; or None.
    """

    image_names: list[str] | None
    captions: list[str]
    caption_to_image: list[int]
    caption_names: list[str] | None
    source: str | os.PathLike
    image_paths: list[str] | None = None

    @property
    def num_images(self):
        """int."""
        return max(self.caption_to_image) + 1 if self.image_names is None else len(self.image_names)


def build_table(
    annotations,
    directory,
    split,
    images=None,
    features=None,
    max_regions=None,
    region_boxes=None,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
    needs=(),
):
    """Annotations, photos, features and teachers to one table: the end of every reader.

    Files are named by patterns relative to `directory` in which `{split}`
    stands for the split.

    One `.npy` holds one row per image (or caption) in the annotation's order. If
    `<stem>_ids.txt` lies beside it, one id a line, its rows are looked up
    instead: by image name, or by caption id. A file of images with one row per
    caption, as SCAN's data have, is read at each image's first caption.

    A pattern with `{name}` or `{stem}` is one `.npy` or `.npz` per image:
    `{name}` is the image's name as the annotation gives it, `{stem}` the same
    without the suffix. In a `.npz` the features are the array `features`, `feat`
    or `x`, the boxes `boxes` or `bbox`; boxes in pixels are divided by its
    `image_w` and `image_h`. Everything is checked once and stays on disk.

    Args:
        annotations: an `Annotations`, or a function without arguments that
            returns it, called when all files are known to be there.
        directory: folder of the data.
        split: string.
        images: pattern of the folder of photos: gives the column `"images"` of
            paths. Every photo of the split must be there.
        features: pattern of region or grid features: `"regions"` `(N, R, D)`;
            from a file per image, `(R_i, D)` each, also `"region_mask"`.
        max_regions: int, regions of an image when every image has its own file:
            fewer are filled up with zeros, of more the first are taken. Defaults
            to the largest number in the split.
        region_boxes: pattern of the regions' boxes `(N, R, 4)`, x1, y1, x2, y2 in
            0..1; the pattern of `features`, if both lie in the same `.npz`.
        text_features: pattern of a `.npy` `(T, D)` of ready sentence vectors.
        teacher_image: pattern of `(N, D)`, or one file `(D,)` per image.
        teacher_text: pattern of a `.npy` `(T, D)`.
        image_global: pattern of `(N, D)`, or one file `(D,)` per image: a pooled
            vector of each image beside its regions.
        needs: paths of the files that `annotations` reads.

    Returns:
        A `RetrievalTable` with `"text"` and what was asked for.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for a pattern, an annotation or an array that is not as
            described; one line with the file, and its row, line or JSON path.

    Example:

    ```python
    from keras_itr.data.annotations import Annotations, build_table

    annotations = Annotations(["one.jpg", "two.jpg"], ["a dog", "a cat"], [0, 1], ["0", "1"], "by hand")
    table = build_table(annotations, "my_data", "train", images="photos", features="regions/{stem}.npz")
    ```
    """
    given = {
        "images": images,
        "features": features,
        "region_boxes": region_boxes,
        "text_features": text_features,
        "teacher_image": teacher_image,
        "teacher_text": teacher_text,
        "image_global": image_global,
    }
    patterns = {
        argument: FilePattern(argument, pattern, directory, split, per_image=argument in PER_IMAGE)
        for argument, pattern in given.items()
        if pattern is not None
    }
    _check_arguments(patterns, max_regions)
    _require(needs, patterns)
    annotations = annotations() if callable(annotations) else annotations
    located = _locate(annotations, patterns)
    return RetrievalTable(
        _image_columns(annotations, located, max_regions),
        {"text": annotations.captions, **_caption_columns(annotations, located)},
        annotations.caption_to_image,
        image_names=annotations.image_names,
        name=f"{os.path.basename(os.path.abspath(directory))}/{split}",
        caption_names=annotations.caption_names,
    )


def _check_arguments(patterns, max_regions):
    if "images" not in patterns and "features" not in patterns:
        raise ValueError(
            "give images (a folder of photos) or features (a pattern of files): there is nothing to embed."
        )
    if "region_boxes" in patterns and "features" not in patterns:
        raise ValueError("region_boxes: boxes belong to regions; give features too.")
    if max_regions is None:
        return
    if type(max_regions) is not int or max_regions < 1:
        raise ValueError(f"max_regions={max_regions!r}: must be a whole number of at least 1.")
    if "features" not in patterns or not patterns["features"].per_image:
        raise ValueError("max_regions: needs one file of features per image, {name} or {stem} in features.")


def _require(needs, patterns):
    """That everything which can be named before the annotation is read is there."""
    per_image = [pattern for pattern in patterns.values() if pattern.per_image]
    files = [pattern.path for key, pattern in patterns.items() if key != "images" and not pattern.per_image]
    folders = [patterns["images"].path] if "images" in patterns else []
    require_files([*needs, *files], [*folders, *(pattern.folder for pattern in per_image)])


def _locate(annotations, patterns):
    """dict from argument to the path, or the list of one path per image, all of which exist."""
    listing, located, problems = FolderListing(), {}, []
    for argument, pattern in patterns.items():
        if argument != "images" and not pattern.per_image:
            located[argument] = pattern.path
            continue
        if annotations.image_names is None:
            raise ValueError(
                f"{annotations.source}: {argument} needs the images' names; write them into {pattern.split}_names.txt "
                "beside it, one a line."
            )
        paths = _photo_paths(annotations, pattern, listing) if argument == "images" else None
        located[argument] = paths or pattern.paths(annotations.image_names)
        problem = listing.first_missing(located[argument])
        problems += [f"{argument}: {problem}"] if problem else []
    if problems:
        raise MissingData(" ".join(problems))
    return located


def _photo_paths(annotations, pattern, listing):
    """COCO comes in `train2014/` and `val2014/` as annotated, and is often unpacked into one folder."""
    folder, names = str(pattern.path), annotations.image_names
    paths = []
    for annotated, name in zip(annotations.image_paths or names, names, strict=True):
        path, unpacked = os.path.join(folder, annotated), os.path.join(folder, name)
        is_there = path in listing or (unpacked not in listing and listing.has_folder(path))
        paths.append(path if is_there else unpacked)
    return paths


def _image_columns(annotations, located, max_regions):
    columns = {}
    if "images" in located:
        columns["images"] = np.asarray(located["images"], dtype=object)
    if "features" in located:
        boxes = located.get("region_boxes")
        columns.update(region_columns(annotations, located["features"], boxes, max_regions))
    for key in ("image_global", "teacher_image"):
        rows = located.get(key)
        if isinstance(rows, list):
            columns[key] = FeaturesPerFile(rows, rank=1)
        elif rows is not None:
            columns[key] = read_image_rows(annotations, rows, rank=2)
    return columns


def _caption_columns(annotations, located):
    count, names = len(annotations.captions), annotations.caption_names
    return {
        key: read_features(located[key], rows=count, rank=2, names=names)
        for key in ("text_features", "teacher_text")
        if key in located
    }
