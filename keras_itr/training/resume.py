import json
import os
from pathlib import Path

import keras
import numpy as np

from keras_itr.training.recipe import RecipeError


class ResumeState(keras.callbacks.Callback):
    """Writes and restores everything a run consists of, in one `.npz`.

    All variables of the model (metrics and random seeds among them) and of the
    optimizer, with the position in the run. The file is written aside and moved
    into place; the one before is kept.

    Args:
        path: path of the `.npz`.
        run: a mutable `dict` with the trainer's own position (`epoch`, `step`,
            and what the validation remembers); saved as JSON and restored into
            the same object.
        identity: dict that must be equal for a resume to be the same run.
        every: int, batches between two saves within an epoch; None saves at the
            end of epochs only.

    Example: see `keras_itr.training.train`.
    """

    def __init__(self, path, run, identity, every=None):
        super().__init__()
        self.path = Path(path)
        self.run = run
        self.identity = identity
        self.every = every
        self.restored = None

    def read(self):
        """The saved position, if there is a state of this very run; the arrays are restored when training starts.

        Raises:
            RecipeError: if the state belongs to another run.
        """
        for path in (self.path, self.previous):
            if path.exists():
                with np.load(path, allow_pickle=False) as stored:
                    self.restored = {key: stored[key] for key in stored.files}
                break
        else:
            return False
        meta = json.loads(str(self.restored.pop("meta")))
        for key, value in self.identity.items():
            if meta["identity"].get(key) != value:
                raise RecipeError(
                    f"{self.path.parent}: holds a run with another {key} ({meta['identity'].get(key)}, now {value}); "
                    "choose another --run_dir, or start anew with --overwrite."
                )
        self.run.update(meta["run"])
        return True

    @property
    def previous(self):
        return self.path.with_suffix(".previous.npz")

    def on_epoch_begin(self, epoch, logs=None):
        if self.restored is not None:
            self._assign(self.restored)
            self.restored = None

    def on_train_batch_end(self, batch, logs=None):
        self.run["step"] += 1
        if self.every and self.run["step"] % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self.run.update(epoch=epoch + 1, step=0)
        self._save()

    def _variables(self):
        """Key to variable. The number identifies; paths are for the reader: they repeat, and Keras counts names up."""
        model = self.model
        everything = (*model.variables, *model.metrics_variables, *model.optimizer.variables)
        variables = {id(v): v for v in everything}
        return {f"{index:05d}/{v.path}": v for index, v in enumerate(variables.values())}

    def _save(self):
        arrays = {key: keras.ops.convert_to_numpy(variable) for key, variable in self._variables().items()}
        meta = json.dumps({"run": self.run, "identity": self.identity})
        aside = self.path.with_suffix(".writing.npz")
        np.savez(aside, meta=np.array(meta), **arrays)
        if self.path.exists():
            os.replace(self.path, self.previous)
        os.replace(aside, self.path)

    def _assign(self, arrays):
        variables = self._variables()
        if len(variables) != len(arrays):
            raise RecipeError(
                f"{self.path}: holds {len(arrays)} variables, but the model has {len(variables)}; "
                "start anew with --overwrite."
            )
        for (key, variable), array in zip(variables.items(), arrays.values(), strict=True):
            if tuple(variable.shape) != array.shape:
                raise RecipeError(f"{self.path}: {key} has shape {array.shape}; start anew with --overwrite.")
            variable.assign(array)
