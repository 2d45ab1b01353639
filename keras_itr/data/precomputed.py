from pathlib import Path

import numpy as np

from keras_itr.data.features import missing_file, read_features
from keras_itr.data.table import RetrievalTable


def load_precomputed(
    split,
    directory,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    region_boxes=None,
    lines_per_image=5,
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
        teacher_text: pattern of a `.npy` `(T, D)` in caption order.
        region_boxes: pattern of a `.npy` `(N, R, 4)`.
        lines_per_image: int, lines per image in the caption file, default 5.

    Returns:
        A `RetrievalTable` with `"regions"`, `"text"` and what was asked for.

    Raises:
        ValueError: for an empty caption (file and line), counts that disagree,
            or a number that is not finite (file and row).
        FileNotFoundError: for a missing file, with the nearest name there.

    Example:

    ```python
    from keras_itr.data import load_precomputed

    table = load_precomputed("dev", "flickr8k", teacher_text="{split}_teacher_text.npy")
    ```

    Reference: the data layout of Lee et al., SCAN, ECCV 2018.
    """
    folder = Path(directory)
    captions = _lines(folder / f"{split}_caps.txt")
    for line, caption in enumerate(captions, 1):
        if not caption.strip():
            raise ValueError(f"{folder / f'{split}_caps.txt'}:{line}: empty caption; remove it or fill it in.")
    regions = read_features(folder / f"{split}_ims.npy", rank=3)
    num_images = _num_images(folder, split, len(regions), len(captions), lines_per_image)
    if len(regions) != num_images:
        regions = regions[::lines_per_image]
    names_file = folder / f"{split}_names.txt"
    names = _lines(names_file) if names_file.exists() else None
    if names is not None and len(names) != num_images:
        raise ValueError(f"{names_file}: {len(names)} names for {num_images} images.")
    image_columns = {"regions": regions}
    caption_columns = {"text": captions}
    for columns, count, key, pattern in (
        (caption_columns, len(captions), "text_features", text_features),
        (caption_columns, len(captions), "teacher_text", teacher_text),
        (image_columns, num_images, "teacher_image", teacher_image),
        (image_columns, num_images, "region_boxes", region_boxes),
    ):
        if pattern:
            path = folder / pattern.format(split=split)
            columns[key] = read_features(path, rows=count, names=names if columns is image_columns else None)
    return RetrievalTable(
        image_columns,
        caption_columns,
        np.repeat(np.arange(num_images), lines_per_image),
        image_names=names,
        name=f"{folder.name}/{split}",
    )


def _num_images(folder, split, features, captions, lines_per_image):
    if captions % lines_per_image:
        raise ValueError(
            f"{folder / f'{split}_caps.txt'}: {captions} captions are no multiple of lines_per_image={lines_per_image}."
        )
    images = captions // lines_per_image
    if features not in (images, captions):
        raise ValueError(
            f"{folder / f'{split}_ims.npy'} has {features} rows, but {captions} captions at {lines_per_image} "
            f"an image need {images} (or {captions}, one per caption)."
        )
    return images


def _lines(path):
    if not path.exists():
        raise FileNotFoundError(missing_file(path))
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
