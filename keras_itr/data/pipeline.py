import functools
import os

import numpy as np

from keras_itr.data.hashing import hash64, permutation
from keras_itr.preprocessing.decoding import decode_image
from keras_itr.preprocessing.images import random_window, shrink_image


class TrainingPipeline:
    """A `RetrievalTable` as an endless supply of training batches, in `tf.data`.

    One sample is one caption with its image. The order of an epoch, the
    captions drawn for it and every augmentation are pure functions of (seed,
    epoch, example): the batch of any step can be had without those before it,
    so that a resumed run skips indices, not images. Rows are gathered from
    memory or from memory-mapped files a batch at a time; decoding, tokenizing
    and resizing are the preprocessor's. Works under every Keras backend.

    Args:
        table: a `RetrievalTable`.
        batch_size: int, captions per batch. An incomplete last batch is dropped.
        preprocessor: callable on dicts of TF tensors, such as a
            `RetrievalPreprocessor`, or None.
        seed: int, default 0.
        captions_per_image: int, captions drawn per image and epoch; None
            (default) shows every caption once per epoch.
        augmentations: callables `(batch, keys) -> batch`, applied after the
            preprocessor; `keys` `(B, 2)` int64 seeds stateless random ops per
            example. `changes`, a tuple of keys, says what it changes.
        random_crop: pair of floats, or None (default): train on a random window
            with a share of the photo's area between the two, stretched to the
            model's size (see `preprocessing.images.random_window`).
        shorter_side: int, or None (default): larger photos are shrunk to this
            shorter side first, as in `prepare_photos`.
        second_view: bool, default False: for every key that the crop or an
            augmentation changes, a batch also has `<key>_view2`, made from the
            same example with other random draws. The first views stay the same.
        positives: an `AsymmetryPositives`, or None (default): every example has
            one more caption of its image, made of the captions that the image
            has in the table, as `positive_token_ids` and
            `positive_padding_mask`. Augmentations do not see it, and second
            views share it.

    Broken photos are found by `prepare_photos` beforehand; here one is an error
    of TensorFlow's that does not name its file.

    Raises:
        ValueError: if the table does not fill one batch, or if photos are to be
            cropped or shrunk and the preprocessor has no image converter, or if
            nothing changes a second view, or if there are no captions or no
            tokenizer for positives.

    Example:

    ```python
    from keras_itr.data import TrainingPipeline, load_shapes

    pipeline = TrainingPipeline(load_shapes("train", num_scenes=20), batch_size=8)
    batch = next(iter(pipeline.dataset(epochs=1)))
    batch["images"].shape, pipeline.steps_per_epoch  # ((8, 64, 64, 3), 12)
    ```
    """

    def __init__(
        self,
        table,
        batch_size,
        preprocessor=None,
        seed=0,
        captions_per_image=None,
        augmentations=(),
        random_crop=None,
        shorter_side=None,
        second_view=False,
        positives=None,
    ):
        self.table = table
        self.batch_size = batch_size
        self.preprocessor = preprocessor
        self.seed = seed
        self.captions_per_image = captions_per_image
        self.augmentations = tuple(augmentations)
        self.random_crop = random_crop
        self.shorter_side = shorter_side
        self.second_view = second_view
        self.positives = positives
        self._crops = bool(random_crop) and "images" in table.image_columns
        if second_view and not self._changes():
            raise ValueError(
                "second_view: nothing makes it differ from the first; add random_crop or an augmentation, such as "
                "RegionDropout or WordDropout."
            )
        if (random_crop or shorter_side) and not getattr(preprocessor, "image_converter", None):
            raise ValueError("random_crop and shorter_side need a preprocessor with an image converter.")
        if positives is not None:
            self._check_positives()
            self._image_captions, self._caption_counts = _captions_by_image(table.caption_to_image)
        self.steps_per_epoch = len(self._drawn(0)) // batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"{table.name}: {len(self._drawn(0))} captions do not fill one batch of {batch_size}; "
                "lower batch_size or add data."
            )
        # Workers ask for batches of one epoch, and of the next one around its end.
        self.order = functools.lru_cache(maxsize=2)(self._order)

    def dataset(self, first_step=0, last_step=None, epochs=None):
        """The batches of steps `first_step` to `last_step` (or to the end of `epochs`).

        Args:
            first_step: int, step 0 is the first batch of epoch 0.
            last_step: int, exclusive; or give `epochs`.
            epochs: int, number of epochs counted from the start of training.

        Returns:
            A `tf.data.Dataset` of dicts of model inputs.
        """
        import tensorflow as tf

        last_step = last_step if last_step is not None else epochs * self.steps_per_epoch
        first = self.rows(first_step)
        names = list(first)
        types = [tf.string if first[name].dtype == object else first[name].dtype for name in names]

        def gather(step):
            tensors = tf.numpy_function(lambda at: list(self.rows(int(at)).values()), [step], types, stateful=False)
            for name, tensor in zip(names, tensors, strict=True):
                tensor.set_shape(first[name].shape)
            return self._views(dict(zip(names, tensors, strict=True)))

        options = tf.data.Options()
        # Several batches are made at a time, each on one core: splitting the operations of one photo costs more.
        options.threading.max_intra_op_parallelism = 1
        steps = tf.data.Dataset.range(first_step, last_step).with_options(options)
        return steps.map(gather, num_parallel_calls=os.cpu_count(), deterministic=True).prefetch(tf.data.AUTOTUNE)

    def _views(self, rows):
        """Raw rows to model inputs: the first view, and what differs in the second."""
        keys, second_keys = rows.pop("example_key"), rows.pop("second_example_key", None)
        positives = self._tokenized_positives(rows)
        prepared = self._prepare(rows, keys)
        batch = self._augment(prepared, keys)
        if self.second_view:
            # Of the preparation the crop alone is random: the rest, such as tokenizing, is done once.
            photos = self._prepare({"images": rows["images"]}, second_keys) if self._crops else {}
            second = self._augment({**prepared, **photos}, second_keys)
            batch = {**batch, **{f"{key}_view2": second[key] for key in self._changes()}}
        return {**batch, **positives}

    def _tokenized_positives(self, rows):
        """Takes what positives are made of, the own captions aside, out of the rows; the positives as tokens."""
        if self.positives is None:
            return {}
        source = {key: rows.pop(key) for key in ("captions", "num_captions", "example_id", "epoch")}
        texts = self.positives({**source, "anchor": rows["text"]})["positive_text"]
        tokens = self.preprocessor({"text": texts})
        return {f"positive_{key}": tokens[key] for key in ("token_ids", "padding_mask")}

    def _prepare(self, rows, keys):
        if "images" in rows:
            rows = {**rows, "images": self._photos(rows["images"], keys)}
        return rows if self.preprocessor is None else self.preprocessor(rows)

    def _augment(self, batch, keys):
        for augmentation in self.augmentations:
            batch = augmentation(batch, keys)
        return batch

    def _changes(self):
        """The keys that differ between two views."""
        changes = [key for augmentation in self.augmentations for key in getattr(augmentation, "changes", ())]
        return dict.fromkeys(["images", *changes] if self._crops else changes)

    def _photos(self, images, keys):
        """Paths to encoded photos; with a crop or a smaller size, any images to converted pixels."""
        import tensorflow as tf

        if images.dtype == tf.string and not getattr(self.table.image_columns["images"], "encoded", False):
            images = tf.map_fn(tf.io.read_file, images)
        if not (self.random_crop or self.shorter_side):
            return images
        converter = self.preprocessor.image_converter

        def convert(item):
            image, key = item
            image = decode_image(image) if image.dtype == tf.string else image
            image = shrink_image(image, self.shorter_side) if self.shorter_side else image
            if not self.random_crop:
                return converter.convert_pixels(image)
            window = random_window(image, key, self.random_crop)
            return converter.convert_pixels(window, crop_to_aspect_ratio=False)

        pixels = tf.TensorSpec((*converter.image_size, 3), tf.float32)
        return tf.map_fn(convert, (images, keys), fn_output_signature=pixels)

    def rows(self, step):
        """The raw rows of one step as a dict of NumPy arrays."""
        epoch, position = divmod(step, self.steps_per_epoch)
        captions = self.order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        images = self.table.caption_to_image[captions]
        batch = {name: _rows(column, images) for name, column in self.table.image_columns.items()}
        batch.update({name: _rows(column, captions) for name, column in self.table.caption_columns.items()})
        batch["image_id"] = np.asarray(self.table.image_ids[images], "int32")
        batch["example_key"] = self._keys("augmentation", epoch, captions)
        if self.second_view:
            batch["second_example_key"] = self._keys("second view", epoch, captions)
        if self.positives is not None:
            batch["captions"] = _rows(self.table.captions, self._image_captions[images])
            batch["num_captions"] = self._caption_counts[images]
            batch.update(example_id=captions, epoch=np.asarray(epoch, "int64"))
        return batch

    def _check_positives(self):
        if self.table.captions is None:
            columns = ", ".join(self.table.caption_columns)
            raise ValueError(
                f'positives: {self.table.name} has no captions to make them of, only {columns}; add the column "text", '
                "or leave positives out."
            )
        if not getattr(self.preprocessor, "tokenizer", None):
            raise ValueError(
                "positives: they need a preprocessor with a tokenizer, such as RetrievalPreprocessor(tokenizer); give "
                "one, or leave positives out."
            )

    def _keys(self, stream, epoch, captions):
        """int64 `(B, 2)`, the seeds of the examples' random draws."""
        keys = hash64(self.seed, stream, epoch, captions)
        return np.stack([keys, captions.astype("uint64")], axis=1).view("int64")

    def _order(self, epoch):
        drawn = self._drawn(epoch)
        return drawn[permutation(len(drawn), self.seed, epoch)]

    def _drawn(self, epoch):
        """The captions of an epoch in table order: all, or the first few of each image in a hashed order."""
        captions = np.arange(self.table.num_captions)
        if self.captions_per_image is None:
            return captions
        by_image = np.lexsort((hash64(self.seed, "captions", epoch, captions), self.table.caption_to_image))
        images = self.table.caption_to_image[by_image]
        place = np.arange(len(images)) - np.searchsorted(images, images)
        return np.sort(captions[by_image[place < self.captions_per_image]])


def _rows(column, rows):
    """Gathered rows; half-precision files are widened, so that no model input is below float32."""
    rows = np.asarray(column[rows])
    return rows.astype("float32") if rows.dtype.kind == "f" else rows


def _captions_by_image(caption_to_image):
    """The caption rows of every image in table order, `(N, most)`, and their counts; the last one fills the row."""
    counts = np.bincount(caption_to_image)
    place = np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    first = np.cumsum(counts) - counts
    return np.argsort(caption_to_image, kind="stable")[first[:, None] + place], counts
