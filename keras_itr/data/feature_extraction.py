import os
from pathlib import Path

import numpy as np

from keras_itr.data.coco_captions import is_coco_captions
from keras_itr.data.extraction import check_pca, content_digest, finished_rows, fit_pca, write_rows
from keras_itr.data.missing_data import missing_file
from keras_itr.data.table import RetrievalTable
from keras_itr.layers.grid_features import GridFeatures
from keras_itr.layers.grid_tower import GridTower
from keras_itr.preprocessing import RetrievalImageConverter

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def extract_features(
    source,
    output,
    network="MobileNetV2",
    weights=None,
    image_size=(256, 256),
    grid=None,
    pooled=False,
    pca=None,
    images=None,
    split=None,
    interpolation="bilinear",
    crop_to_aspect_ratio=False,
    batch_size=32,
    dtype="float16",
    verbose=True,
):
    """Photos to rows of features on disk: one row per image, restartable after a kill.

    Args:
        source: a folder of photos; or an annotation file: a Karpathy or an official COCO captions `.json`, a Flickr
            `.token`, a `.tsv`, `.csv` or `.jsonl` of pairs; or a `RetrievalTable` of photos.
        output: the `.npy` to write; `<stem>_ids.txt` beside it gets the image names, so that every reader finds the
            rows by name (`features: <file>`).
        network, weights, image_size, grid: of `keras_itr.layers.GridFeatures`.
        pooled: bool, default False: rows are `(cells, D)`; True: their mean `(D,)`, as a teacher wants it.
        pca: None (default); an int D: fit on these photos and kept as `<stem>_pca.npz`, for the training split; or
            the path of such a file, for the other splits.
        images: folder of the photos that an annotation file names, default the file's own folder.
        split: string, the split of an annotation file.
        interpolation, crop_to_aspect_ratio: of `RetrievalImageConverter`; by default photos are stretched, so that
            the cells cover all of them.
        batch_size: int, photos at a time, default 32.
        dtype: `"float16"` (default) or `"float32"`.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        The memory-mapped array `(N, cells, D)` or `(N, D)`.

    Raises:
        ValueError: for a source without photos, a broken photo, or arguments that do not fit.

    Example:

    ```python
    from keras_itr.data import extract_features

    rows = extract_features("photos", "features/train_ims.npy", weights="mobilenet.weights.h5", grid=(4, 4), pca=256)
    ```

    Our choice.
    """
    names, paths = photos_of(source, images, split)
    output = Path(output)
    settings = {
        "network": network,
        "weights": weights and content_digest(weights),
        "image_size": list(image_size),
        "grid": grid and list(grid),
        "pooled": pooled,
        "interpolation": interpolation,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
    }
    fits = isinstance(pca, int)
    features = GridFeatures(network, image_size, weights=weights, grid=grid, pca=None if fits else pca)
    if fits:
        check_pca(pca, len(paths) * (1 if pooled else features.num_cells), features.output_dim)
    encode = _encoder(features, pooled, interpolation, crop_to_aspect_ratio)
    options = {"batch_size": batch_size, "dtype": dtype, "verbose": verbose}
    if not fits:
        return write_rows(output, paths, names, encode, {**settings, "pca": pca and content_digest(pca)}, **options)
    raw = output.with_name(f"{output.stem}_raw.npy")
    rows = finished_rows(output, names, {**settings, "pca": pca}, batch_size, dtype)
    if rows is None:
        rows = _with_pca(output, raw, paths, names, encode, settings, pca, options)
    # Also what a kill just before this line left.
    for path in (raw, raw.with_suffix(".json"), raw.with_name(f"{raw.stem}_ids.txt")):
        path.unlink(missing_ok=True)
    return rows


def _with_pca(output, raw, paths, names, encode, settings, dim, options):
    """Rows at their full width in `raw`, a PCA of them, and the projected rows in `output`."""
    pca_file = output.with_name(f"{output.stem}_pca.npz")
    rows = write_rows(raw, paths, names, encode, settings, **options)
    fit_pca(rows, dim, pca_file)
    with np.load(pca_file, allow_pickle=False) as stored:
        mean, components = stored["mean"], stored["components"]

    def project(batch):
        return (np.asarray(batch, "float32") - mean) @ components

    return write_rows(output, rows, names, project, {**settings, "pca": dim}, **options)


def _encoder(features, pooled, interpolation, crop_to_aspect_ratio):
    """Function of a list of paths to float32 rows, compiled on the active backend."""
    import keras

    model = keras.Sequential([keras.Input((*features.image_size, 3)), features])
    converter = RetrievalImageConverter(
        features.image_size,
        interpolation=interpolation,
        crop_to_aspect_ratio=crop_to_aspect_ratio,
        **GridTower.converter_defaults({"network": features.network_name}),
    )

    def encode(paths):
        rows = np.asarray(model.predict_on_batch(converter(list(paths))), "float32")
        return rows.mean(axis=1) if pooled else rows

    return encode


def read_annotations(source, split, images=None):
    """The table of an annotation file, by the reader that fits its ending, and a `.json` by its keys.

    Args:
        source: path of the file.
        split: string.
        images: folder of the photos, default the file's own folder.

    Raises:
        FileNotFoundError: with the nearest name in the folder.
        ValueError: without a split; or as the reader says.
    """
    from keras_itr import data

    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(missing_file(source))
    if split is None:
        raise ValueError(f"{source}: name the split of this annotation file.")
    if source.suffix == ".json":
        reader = data.load_coco_captions if is_coco_captions(source) else data.load_karpathy
    else:
        reader = data.load_flickr_tokens if source.suffix == ".token" else data.load_pairs
    images = os.path.relpath(images or source.parent, source.parent)
    return reader(split, str(source.parent), annotations=source.name, images=images)


def photos_of(source, images=None, split=None):
    """`(names, paths)` of the photos of a folder, an annotation file or a `RetrievalTable`: lists of strings.

    Args:
        source: see `extract_features`; hidden files of a folder are left out.
        images: folder of the photos of an annotation file, or of a table that has none.
        split: string, the split of an annotation file.

    Raises:
        ValueError: if there is no photo; if a table has neither photos nor names that could be looked up in `images`.
        FileNotFoundError: names the first photo of a table that is not in `images`.
    """
    if isinstance(source, RetrievalTable):
        return _photos_of_table(source, images)
    source = Path(source)
    if not source.is_dir():
        table = read_annotations(source, split, images)
        return list(table.image_names), [str(path) for path in table.image_columns["images"]]
    entries = sorted(path for path in source.rglob("*") if path.is_file() and not _is_hidden(path, source))
    paths = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if len(paths) < len(entries):
        print(f"{source}: {len(entries) - len(paths)} files are no {', '.join(SUFFIXES)} and are left out.")
    if not paths:
        raise ValueError(f"{source}: there is no {', '.join(SUFFIXES)} file in this folder.")
    return [path.relative_to(source).as_posix() for path in paths], [str(path) for path in paths]


def _is_hidden(path, folder):
    """Whether a file, or a folder that it is in, is one of those that systems keep beside photos, such as `._a.jpg`."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _photos_of_table(table, images):
    photos = table.image_columns.get("images")
    if images is None and photos is not None and isinstance(photos[0], str):
        names = table.image_names or list(photos)
        return list(names), list(photos)
    if images is None or table.image_names is None:
        lacking = "names of images" if images else "photos"
        raise ValueError(f"{table.name}: has no {lacking}; give images, the folder of its photos, and image names.")
    paths = [Path(images, name) for name in table.image_names]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{missing_file(absent[0])} {len(absent)} of {len(paths)} photos are missing.")
    return list(table.image_names), [str(path) for path in paths]
