import difflib

import numpy as np

from keras_itr.data.features import RowsById

IMAGE_COLUMNS = ("images", "regions", "region_mask", "region_boxes", "image_global", "teacher_image")
CAPTION_COLUMNS = ("text", "text_features", "teacher_text")


class RetrievalTable:
    """Images, captions, and which caption belongs to which image.

    The one form in which data exists between a reader and the pipeline. The
    correspondence is explicit: an image may have one caption, five or twelve,
    and captions may stand in any order.

    Args:
        image_columns: dict of arrays with one row per image. Names are the
            model's input keys: `"images"` (uint8 pixels `(N, H, W, 3)`, or
            paths as strings), `"regions"` `(N, R, D)`, `"region_mask"`,
            `"region_boxes"`, `"image_global"`, `"teacher_image"`. Memory-mapped
            arrays stay on disk.
        caption_columns: dict of arrays with one row per caption: `"text"`
            (strings), `"text_features"` `(T, D)`, `"teacher_text"` `(T, D)`.
        caption_to_image: int array `(T,)`, the image row of every caption.
        image_ids: int32 array `(N,)`. Equal ids are the same image: positives
            in every loss, never negatives. Defaults to the row number.
        image_names: list of `N` strings for messages and results.
        relevance: a callable without arguments that returns bool `(N, T)`,
            True where the caption is true of the image, for data whose truth is
            known beyond the own captions. Called when first needed.
        name: string for messages.
        caption_names: list of `T` distinct strings, ids of the captions, by
            which rows of further files are found.

    Raises:
        ValueError: if a column has an unknown name or the wrong number of
            rows, if a caption is empty or points to no image, or if an image
            has no caption.

    Example:

    ```python
    import numpy as np
    from keras_itr.data import RetrievalTable

    table = RetrievalTable(
        {"regions": np.zeros((2, 4, 8), "float32")},
        {"text": ["a dog", "a cat", "a sleeping cat"]},
        caption_to_image=[0, 1, 1],
    )
    table.num_images, table.num_captions  # (2, 3)
    ```
    """

    def __init__(
        self,
        image_columns,
        caption_columns,
        caption_to_image,
        image_ids=None,
        image_names=None,
        relevance=None,
        name="data",
        caption_names=None,
    ):
        self.name = name
        self.image_columns = dict(image_columns)
        self.caption_columns = dict(caption_columns)
        self.caption_to_image = np.asarray(caption_to_image, "int32")
        self._check_columns()
        self.num_images = len(next(iter(self.image_columns.values())))
        self.num_captions = len(self.caption_to_image)
        self.image_ids = np.arange(self.num_images, dtype="int32") if image_ids is None else np.asarray(image_ids)
        self.image_names = image_names
        self.caption_names = caption_names
        self.relevance = relevance
        self._check_rows()

    @property
    def captions(self):
        """The caption strings, or None where the table holds ready features only."""
        return self.caption_columns.get("text")

    def summary(self):
        """The counts in one line, such as `"coco1k/train: 600 images, 2,999 captions (2 to 6 an image)"`."""
        per_image = np.bincount(self.caption_to_image)
        low, high = per_image.min(), per_image.max()
        spread = f"{low}" if low == high else f"{low} to {high}"
        return f"{self.name}: {self.num_images:,} images, {self.num_captions:,} captions ({spread} an image)"

    def subset(self, num_images):
        """The table of the first `num_images` images and their captions."""
        return self.select(range(num_images))

    def select(self, images):
        """The table of these images and their captions.

        Args:
            images: increasing image rows. Memory-mapped columns stay on disk.

        Returns:
            A `RetrievalTable`.
        """
        images = np.asarray(images, "int64")
        row_of = np.full(self.num_images, -1)
        row_of[images] = np.arange(len(images))
        captions = np.flatnonzero(row_of[self.caption_to_image] >= 0)
        return RetrievalTable(
            {key: RowsById(column, images) for key, column in self.image_columns.items()},
            {key: RowsById(column, captions) for key, column in self.caption_columns.items()},
            row_of[self.caption_to_image[captions]],
            self.image_ids[images],
            self.image_names and [self.image_names[image] for image in images],
            self.relevance and (lambda: self.relevance()[images][:, captions]),
            self.name,
            self.caption_names and [self.caption_names[caption] for caption in captions],
        )

    def with_columns(self, image_columns):
        """The same table with these image columns in place of, or beside, its own."""
        return RetrievalTable(
            {**self.image_columns, **image_columns},
            self.caption_columns,
            self.caption_to_image,
            self.image_ids,
            self.image_names,
            self.relevance,
            self.name,
            self.caption_names,
        )

    def _check_columns(self):
        for columns, allowed, side in (
            (self.image_columns, IMAGE_COLUMNS, "image"),
            (self.caption_columns, CAPTION_COLUMNS, "caption"),
        ):
            if not columns:
                raise ValueError(f"{self.name}: no {side} column; give at least one of {', '.join(allowed)}.")
            for key in columns:
                if key not in allowed:
                    near = difflib.get_close_matches(key, allowed, 1) or [", ".join(allowed)]
                    raise ValueError(f"{self.name}: unknown {side} column {key!r}; did you mean {near[0]}?")
        if "text" in self.caption_columns:
            self.caption_columns["text"] = np.asarray(self.caption_columns["text"], dtype=object)
        for columns in (self.image_columns, self.caption_columns):
            for key, column in columns.items():
                if isinstance(column, (list, tuple)) or getattr(column, "dtype", np.dtype(int)).kind == "U":
                    columns[key] = _array(column)

    def _check_rows(self):
        for key, column in self.image_columns.items():
            if len(column) != self.num_images:
                raise ValueError(f"{self.name}: {key} has {len(column)} rows for {self.num_images} images.")
        for key, column in self.caption_columns.items():
            if len(column) != self.num_captions:
                raise ValueError(f"{self.name}: {key} has {len(column)} rows for {self.num_captions} captions.")
        outside = (self.caption_to_image < 0) | (self.caption_to_image >= self.num_images)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{self.name}: caption {row} belongs to image {self.caption_to_image[row]}, "
                f"but there are only {self.num_images} images."
            )
        bare = np.bincount(self.caption_to_image, minlength=self.num_images) == 0
        if bare.any():
            raise ValueError(f"{self.name}: image {int(np.argmax(bare))} has no caption.")
        if self.captions is not None:
            for row, caption in enumerate(self.captions):
                if not caption.strip():
                    raise ValueError(f"{self.name}: caption {row} is empty.")

    def __repr__(self):
        return f"<RetrievalTable {self.name}: {self.num_images} images, {self.num_captions} captions>"


def _array(column):
    """Lists as arrays, strings in them as objects."""
    array = np.asarray(column)
    return array.astype(object) if array.dtype.kind == "U" else array
