import functools
import json
import shutil
from pathlib import Path

import numpy as np

from keras_itr.data.extraction import digest
from keras_itr.data.photos import decode_photos
from keras_itr.files import Rows, folder_written_whole
from keras_itr.search.embedded_batches import EmbeddedBatches
from keras_itr.search.gallery_index import GalleryIndex
from keras_itr.search.gallery_source import GallerySource, item_keys, preset_identity
from keras_itr.search.index_files import write_manifest
from keras_itr.search.known_gallery import GALLERY, KnownGallery
from keras_itr.search.two_stage import check_length

_BLOCK = 4096  # items put together at a time


def index_gallery(
    preset,
    source,
    directory,
    column="caption",
    batch_size=32,
    on_error="skip",
    engine="exact",
    verbose=True,
    **settings,
):
    """Embed a folder of photos or a file of captions, and write an index of it that `Gallery` searches.

    A run that was killed goes on with the next batch, and ends with the same bytes as one that was not. Run again, it
    embeds what is new or has changed since, and forgets what is gone. The old index can be searched until the new one
    takes its place. What is finished meanwhile lies in `.<name>.partial` beside the folder.

    | file | what it holds |
    |---|---|
    | `index/` | a `GalleryIndex` of the vectors; ids are the names of the photos in their folder, or the captions |
    | `features/` | for a method with a second stage, the local features, see `TwoStageSearch.load_images` |
    | `marks.npy` | size and time of change of each photo: one of the same name and both is not embedded again |
    | `gallery.json` | preset, source, what was left out and why, checksums |

    Args:
        preset: name, directory or hub handle of a preset with weights.
        source: a folder of photos, with the folders below it and without hidden files: JPEG, PNG, BMP or GIF. Or a
            file of captions: `.txt`, one a line, or `.csv` or `.tsv` with a header line.
        directory: folder to write.
        column: string, the column of a `.csv` or `.tsv`, default `"caption"`.
        batch_size: int, items embedded at a time, default 32.
        on_error: `"skip"` (default) leaves broken photos out and names them at the end; `"raise"` stops at the first.
        engine: string, of `GalleryIndex`, default `"exact"`.
        verbose: bool, default True: a progress bar on work over two seconds, and a line about what was done.
        **settings: of the engine, such as `dtype="float16"`.

    Returns:
        dict of ints: `"items"` in the index, of which `"embedded"` now and `"kept"` from before, `"removed"`, and
        `"broken"` ones that were left out.

    Raises:
        ValueError: if there is no item, or none that is not broken; if the preset has no weights, or does not take
            photos; if the folder holds something else than a gallery.
        FileNotFoundError: if the source is not there.

    Example:

    ```python
    from keras_itr.search import index_gallery

    index_gallery("my_clip", "photos", "gallery")
    ```

    Source: our choice.
    """
    if on_error not in ("skip", "raise"):
        raise ValueError(f"on_error must be 'skip' or 'raise', got {on_error!r}.")
    directory, batch_size = Path(directory), check_length(batch_size, "batch_size")
    # A setting that does not fit, or an engine that is not installed, is found now, not after an hour.
    GalleryIndex(1, engine, **settings)
    items = GallerySource.read(source, column)
    preset, content = preset_identity(preset)
    known = KnownGallery(directory, content, items.side, settings.get("dtype", "float32"))
    keys = item_keys(items.names, items.marks)
    done_before = known.rows.keys() | known.faults.keys()
    new = {key: x for key, x in zip(keys, items.inputs, strict=True) if key not in done_before}
    partial = directory.with_name(f".{directory.name}.partial")
    batches = EmbeddedBatches(partial, new, [content, items.side, str(batch_size)], batch_size)
    broken = batches.embed(_Encoder(preset, items.side, batch_size, on_error), verbose)
    faults = {key: fault for key in keys if (fault := broken.get(key) or known.faults.get(key))}
    good = {key: name for key, name in zip(keys, items.names, strict=True) if key not in faults}
    if not good:
        raise ValueError(f"{source}: none of the {len(keys)} photos can be decoded; the first: {faults[keys[0]]}")
    description = {
        "preset": preset,
        "preset_digest": content,
        "side": items.side,
        "source": str(Path(source).resolve()),
        "engine": engine,
        "settings": {name: value for name, value in settings.items() if name != "token"},
        "faults": faults,
    }
    if (known.keys, known.description) != (list(good), description):
        marks = items.marks[[key in good for key in keys]]
        _write(
            directory, good, marks, lambda key: (batches if key in new else known).features(key), description, settings
        )
        known.discard()
    shutil.rmtree(partial, ignore_errors=True)
    done = {
        "items": len(good),
        "embedded": len(new) - len(broken),
        "kept": len(good) - len(new) + len(broken),
        "removed": len(set(known.ids) - set(items.names)),
        "broken": len(faults),
    }
    if verbose:
        _report(directory, items.side, done, faults)
    return done


class _Encoder:
    """The features of a batch and what is wrong with its photos; the model is loaded when it is needed."""

    def __init__(self, preset, side, batch_size, on_error):
        self.preset = preset
        self.side = side
        self.batch_size = batch_size
        self.on_error = on_error

    @functools.cached_property
    def model(self):
        from keras_itr.models import from_preset

        return from_preset(self.preset, load_weights=True)

    def __call__(self, batch):
        try:
            return self._features(batch), [""] * len(batch)
        except ValueError:
            # Only now each photo is looked at by itself.
            faults = [x if isinstance(x, str) else "" for x in decode_photos(batch)] if self.side == "image" else []
            if not any(faults):
                raise
        if self.on_error == "raise":
            raise ValueError(f"{next(filter(None, faults))} Replace or remove it, or leave broken photos out: 'skip'.")
        good = [x for x, fault in zip(batch, faults, strict=True) if not fault]
        return self._features(good) if good else {}, faults

    def _features(self, batch):
        from keras_itr.models.encoding import run_encoder

        # One shape for all batches: of another one, rows may differ in their last digits.
        filled = [*batch, *batch[-1:] * (self.batch_size - len(batch))]
        what = "features" if self.model.second_stage else "embedding"
        features = run_encoder(self.model, self.side, what, filled, self.batch_size, verbose=False)
        return {name: np.asarray(rows)[: len(batch)] for name, rows in features.items()}


def _write(directory, good, marks, features_of, description, settings):
    """The gallery as a whole.

    Args:
        good: dict of key to name of the items, in order.
        marks: int `(N, 2)`, their sizes and times of change.
        features_of: function of a key to the arrays of its item.
        settings: of the engine, with what must not be written down.
    """
    if description["engine"] == "milvus":
        settings = {**settings, **_own_collection(directory, description, good)}
    index, keys = GalleryIndex(engine=description["engine"], **settings), list(good)
    index.notes = {name: description[name] for name in ("preset", "side", "source")}
    with folder_written_whole(directory, overwrite=(directory / GALLERY).is_file()) as aside:
        local = Rows(len(good), aside / "features", f"{description['side']}_")
        for start in range(0, len(good), _BLOCK):
            rows = [features_of(key) for key in keys[start : start + _BLOCK]]
            block = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            index.add([good[key] for key in keys[start : start + _BLOCK]], block["embedding"])
            if len(block) > 1:
                local.write(start, block)
        local.done()
        index.save(aside / "index")
        np.save(aside / "marks.npy", marks)
        write_manifest(aside, description, GALLERY)
    if index.recall:
        print("{recall} % of the {k} nearest are found, by {queries} {of}.".format(**index.recall))


def _own_collection(directory, description, good):
    """A collection in Milvus for this folder and this state of it, beside that of the last one."""
    name = description["settings"].get("collection", "gallery")
    state = digest([str(directory.resolve()), json.dumps(description), *good])[:12]
    return {"overwrite": True, "collection": f"{name}_{state}"}


def _report(directory, side, done, faults):
    what = "photos" if side == "image" else "captions"
    print(
        f"{directory}: {done['items']:,} {what}, {done['embedded']:,} embedded now, {done['kept']:,} kept, "
        f"{done['removed']:,} removed."
    )
    for fault in list(faults.values())[:20]:
        print(f"left out: {fault}")
    if len(faults) > 20:
        print(f"left out: {len(faults) - 20} more, see {directory / GALLERY}.")
