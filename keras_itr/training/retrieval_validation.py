import math
from pathlib import Path

import keras

from keras_itr.evaluation import evaluate
from keras_itr.files import folder_written_whole

# What may choose the best model: larger is better. The checked ones exist where a table knows all truth.
_RECALLS = ("rsum", *(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)))
MONITORS = (*_RECALLS, *(f"checked_{name}" for name in _RECALLS))


class RetrievalValidation(keras.callbacks.Callback):
    """Validates by retrieval, keeps the best model as a preset, stops when it no longer improves.

    Adds the metrics of `keras_itr.evaluation.evaluate` to the logs of an epoch
    with the prefix `val_`, so that history, CSV and TensorBoard show them. Place
    it before those callbacks. Selection looks at validation data only.

    Args:
        table: the validation `RetrievalTable`.
        directory: where the best preset is kept; replaced as a whole.
        run: a mutable `dict` that keeps `best`, `best_epoch` and `waited` across
            a resume.
        epochs: int, the number of the last epoch of the whole run, which is
            always validated.
        monitor: the metric, larger is better, default `"rsum"`.
        every: int, epochs between two validations.
        patience: int, validations without a better value before the end; None
            never stops.
        batch_size: int, items embedded at a time.

    Raises:
        ValueError: if the metric called `monitor` is not reported.

    Example: see `keras_itr.training.train`.
    """

    def __init__(self, table, directory, run, epochs, monitor="rsum", every=1, patience=None, batch_size=64):
        super().__init__()
        self.table = table
        self.directory = Path(directory)
        self.run = run
        self.epochs = epochs
        self.monitor = monitor
        self.every = every
        self.patience = patience
        self.batch_size = batch_size

    def on_epoch_end(self, epoch, logs=None):
        logs.update({term: math.nan for term in self.model.idle_terms})
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            # The history has the same columns in every row, whichever epoch a process begins with.
            logs.update({f"val_{name}": math.nan for name in self._names()})
            return
        metrics = evaluate(self.model, self.table, batch_size=self.batch_size, verbose=False)
        if self.monitor not in metrics:
            raise ValueError(f"run.monitor: {self.monitor!r} is not reported; choose from {', '.join(metrics)}.")
        logs.update({f"val_{name}": metrics[name] for name in self._names() if name in metrics})
        if metrics[self.monitor] > self.run.get("best", -math.inf):
            self.run.update(best=metrics[self.monitor], best_epoch=epoch + 1, waited=0)
            self._keep()
        else:
            self.run["waited"] = self.run.get("waited", 0) + 1
            if self.patience and self.run["waited"] >= self.patience:
                self.model.stop_training = True

    def _names(self):
        return MONITORS if self.table.relevance else _RECALLS

    def _keep(self):
        with folder_written_whole(self.directory, overwrite=True) as aside:
            self.model.save_to_preset(aside)
