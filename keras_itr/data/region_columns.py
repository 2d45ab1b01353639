import numpy as np

from keras_itr.data.features import CHUNK, RowsById, read_features
from keras_itr.data.features_per_file import FeaturesPerFile, read_array

BOX_KEYS = ("boxes", "bbox")


def region_columns(annotations, features, region_boxes=None, max_regions=None):
    """The columns `"regions"`, and where they are known `"region_mask"` and `"region_boxes"`.

    Args:
        annotations: an `Annotations`.
        features: path of one `.npy` `(N, R, D)`, or list of paths, one file per
            image.
        region_boxes: the same for boxes, or None.
        max_regions: int or None, see `build_table`.

    Returns:
        dict of columns.

    Raises:
        ValueError: names the file, and the row where there is one.
    """
    if isinstance(features, list):
        regions = FeaturesPerFile(features, max_rows=max_regions)
        columns = {"regions": regions, "region_mask": regions.mask}
    else:
        columns = {"regions": read_image_rows(annotations, features, rank=3)}
    if region_boxes is not None:
        columns["region_boxes"] = _boxes(annotations, region_boxes, columns["regions"])
    return columns


def read_image_rows(annotations, path, rank):
    """One `.npy` with a row per image; one with a row per caption is read at each image's first caption.

    Raises:
        ValueError: names the file, if it has another number of rows.
    """
    array = read_features(path, rank=rank, names=annotations.image_names)
    images, captions = annotations.num_images, len(annotations.captions)
    if len(array) == images:
        return array
    if len(array) == captions:
        return RowsById(array, np.unique(annotations.caption_to_image, return_index=True)[1])
    raise ValueError(f"{path}: {len(array)} rows for {images} images (or {captions}, one per caption).")


def read_boxes_file(path):
    """The boxes of one image, float32 `(R, 4)` in 0..1: a `.npy`, or `boxes` or `bbox` of a `.npz`.

    Boxes in pixels are divided by `image_w` and `image_h` of the archive.

    Raises:
        ValueError: names the file and the row.
    """
    boxes, extras = read_array(path, BOX_KEYS, ("image_w", "image_h"))
    if boxes.dtype.kind not in "fiu":
        raise ValueError(f"{path}: boxes must be numbers, found {boxes.dtype}.")
    boxes = boxes.astype("float32")
    # Some archives give the size beside boxes that are scaled already: no box in pixels stays within 0..1.
    if len(extras) == 2 and boxes.ndim == 2 and boxes.shape[1] == 4 and boxes.max(initial=0.0) > 1:
        boxes /= np.tile([_size(path, key, extras[key]) for key in ("image_w", "image_h")], 2).astype("float32")
    check_boxes(path, boxes)
    return boxes


def check_boxes(path, boxes, first_row=0):
    """Raises a `ValueError` unless all of `(..., 4)` are x1, y1, x2, y2 in 0..1; names the file and the row."""
    if boxes.shape[-1] != 4:
        raise ValueError(f"{path}: boxes have 4 numbers x1, y1, x2, y2; found shape {boxes.shape}.")
    x1, y1, x2, y2 = np.moveaxis(np.asarray(boxes), -1, 0)
    good = (x1 >= 0) & (x1 <= x2) & (x2 <= 1) & (y1 >= 0) & (y1 <= y2) & (y2 <= 1)
    if good.all():
        return
    place = tuple(np.argwhere(~good)[0])
    row = f"row {first_row + place[0]}" + "".join(f", region {region}" for region in place[1:])
    shown = ", ".join(f"{number:g}" for number in boxes[place])
    raise ValueError(
        f"{path}: {row} is the box ({shown}); a box is x1, y1, x2, y2 with 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1: "
        "divide pixels by the image's width and height."
    )


def _boxes(annotations, source, regions):
    if not isinstance(source, list):
        boxes = read_image_rows(annotations, source, rank=3)
        for row in range(0, len(boxes), CHUNK):
            check_boxes(source, boxes[row : row + CHUNK], row)
        if boxes.shape[1] != regions.shape[1]:
            raise ValueError(f"{source}: {boxes.shape[1]} boxes an image for {regions.shape[1]} regions.")
        return boxes
    boxes = FeaturesPerFile(source, read_boxes_file, max_rows=regions.shape[1])
    wanted = getattr(regions, "lengths", np.full(len(regions), regions.shape[1]))
    for row in np.flatnonzero(boxes.lengths != wanted)[:1]:
        raise ValueError(f"{source[row]}: {boxes.lengths[row]} boxes for the image's {wanted[row]} regions.")
    return boxes


def _size(path, key, value):
    if value.size != 1 or value.dtype.kind not in "fiu" or value.item() <= 0:
        raise ValueError(f"{path}: {key} must be one positive number, got {value.tolist()!r}.")
    return value.item()
