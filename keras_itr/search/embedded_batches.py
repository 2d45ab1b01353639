import functools
from pathlib import Path

import numpy as np

from keras_itr.data.extraction import digest
from keras_itr.files import written_whole
from keras_itr.progress import SlowBar


class EmbeddedBatches:
    """Features of the items of a gallery, kept batch by batch, so that a killed run goes on where it was.

    The batches are cut out of the list of items alone. A batch is one file, written whole, whose name is a digest of
    the items and of what the features depend on: it is there and right, or it is not there.

    Args:
        directory: folder of the files, made if need be.
        items: dict of string to string: what identifies an item, and its path or caption.
        settings: list of strings, what the features depend on besides.
        batch_size: int, items of a batch.

    Example: see `index_gallery`, which uses it.

    Source: our choice.
    """

    def __init__(self, directory, items, settings, batch_size):
        self.directory = Path(directory)
        self.items = items
        self.batch_size = batch_size
        self.places = {key: place for place, key in enumerate(items)}
        keys = list(items)
        self.files = [
            self.directory / f"{digest([*settings, *keys[start : start + batch_size]])}.npz"
            for start in range(0, len(keys), batch_size)
        ]

    def embed(self, encode, verbose=True):
        """Make the batches that are not there yet.

        Args:
            encode: function of a list of paths or captions to a dict of arrays, with a row for each that is not
                broken, and a list of strings, what is wrong with each, empty where nothing is.
            verbose: bool, a progress bar on work over two seconds.

        Returns:
            dict of key to what is wrong with the item, of those that are broken.
        """
        inputs, bar, broken = list(self.items.values()), SlowBar(len(self.items), verbose), []
        for number, path in enumerate(self.files):
            batch = inputs[number * self.batch_size :][: self.batch_size]
            if not path.is_file():
                features, faults = encode(batch)
                with written_whole(path) as aside:
                    np.savez(aside, _faults=np.array(faults, np.str_), **features)
            broken += self._batch(number)[1]
            bar.update(len(broken))
        return {key: fault for key, fault in zip(self.items, broken, strict=True) if fault}

    def features(self, key):
        """dict of the arrays of one item that is not broken."""
        number, place = divmod(self.places[key], self.batch_size)
        features, faults = self._batch(number)
        row = place - sum(map(bool, faults[:place]))
        return {name: rows[row] for name, rows in features.items()}

    @functools.lru_cache(maxsize=2)  # noqa: B019, an object lives as long as one run
    def _batch(self, number):
        with np.load(self.files[number], allow_pickle=False) as stored:
            features = {name: stored[name] for name in stored.files}
        return features, features.pop("_faults").tolist()
