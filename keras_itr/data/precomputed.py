import numpy as np

from keras_itr.data.annotations import Annotations, build_table
from keras_itr.data.features import ids_file, open_features
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.text_files import read_text


def load_precomputed(
    split,
    directory,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
    region_boxes=None,
    lines_per_image=5,
    images=None,
    features="{split}_ims.npy",
    max_regions=None,
):
    """The precomputed-feature folder of SCAN and VSE: `{split}_ims.npy` and `{split}_caps.txt`.

    Features stay on disk, memory-mapped, one row per image; files that repeat
    an image's row for each of its captions are read at the first of them.
    Further files are named by patterns in which `{split}` stands for the
    split; relative ones lie in `directory`.

    Args:
        split: string, such as `"train"`, `"dev"`, `"test"`.
        directory: folder with `{split}_ims.npy` `(N, R, D)`, `{split}_caps.txt`
            (one caption a line, those of one image together) and optionally
            `{split}_names.txt` (one image name a line).
        text_features: pattern of a `.npy` `(T, D)` of ready sentence vectors.
        teacher_image: pattern of a `.npy` `(N, D)`; with `*_ids.txt` of the same
            stem beside it, its rows are looked up by image name.
        teacher_text: pattern of a `.npy` `(T, D)` in caption order; ids of captions
            are `name#0`, counted per image.
        region_boxes: pattern of a `.npy` `(N, R, 4)`.
        lines_per_image: int, lines per image in the caption file, default 5.
        image_global: pattern of a `.npy` `(N, D)` of pooled image vectors.
        images, features, max_regions: further columns, and features in one file
            per image, see `build_table`; both need `{split}_names.txt`.

    Returns:
        A `RetrievalTable` with `"regions"`, `"text"` and what was asked for.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for an empty caption (file and line), counts that disagree,
            or a number that is not finite (file and row).

    Example:

    ```python
    from keras_itr.data import load_precomputed

    table = load_precomputed("dev", "flickr8k", teacher_text="{split}_teacher_text.npy")
    ```

    Reference: the data layout of Lee et al., SCAN, ECCV 2018.
    """
    caption_file = FilePattern("split", "{split}_caps.txt", directory, split).path
    pattern = None if features is None else FilePattern("features", features, directory, split)
    columns = (images, features, max_regions, region_boxes, text_features, teacher_image, teacher_text, image_global)
    return build_table(
        lambda: _read(caption_file, pattern, lines_per_image), directory, split, *columns, needs=[caption_file]
    )


def _read(caption_file, features, lines_per_image):
    captions = _lines(caption_file)
    for line, caption in enumerate(captions, 1):
        if not caption.strip():
            raise ValueError(f"{caption_file}:{line}: empty caption; remove it or fill it in.")
    num_images = _num_images(caption_file, features, len(captions), lines_per_image)
    names_file = caption_file.with_name(caption_file.name.replace("_caps.txt", "_names.txt"))
    names = _lines(names_file) if names_file.exists() else None
    if names is not None and len(names) != num_images:
        raise ValueError(f"{names_file}: {len(names)} names for {num_images} images.")
    caption_names = names and [f"{name}#{number}" for name in names for number in range(lines_per_image)]
    return Annotations(names, captions, np.repeat(np.arange(num_images), lines_per_image), caption_names, caption_file)


def _num_images(caption_file, features, captions, lines_per_image):
    if type(lines_per_image) is not int or lines_per_image < 1:
        raise ValueError(f"lines_per_image={lines_per_image!r}: must be a whole number of at least 1.")
    if captions % lines_per_image:
        raise ValueError(f"{caption_file}: {captions} captions are no multiple of lines_per_image={lines_per_image}.")
    images = captions // lines_per_image
    if features is None or features.per_image or ids_file(features.path).exists():
        return images
    rows = len(open_features(features.path))
    if rows not in (images, captions):
        raise ValueError(
            f"{features.path} has {rows} rows, but {captions} captions at {lines_per_image} "
            f"an image need {images} (or {captions}, one per caption)."
        )
    return images


def _lines(path):
    return read_text(path).removesuffix("\n").split("\n")
