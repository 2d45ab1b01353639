import json
import os
from pathlib import Path

import keras
import numpy as np

from keras_itr.data.hashing import hash64
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
        seed: int, the run's seed.

    Example: see `keras_itr.training.train`.
    """

    def __init__(self, path, run, identity, every=None, seed=0):
        super().__init__()
        self.path = Path(path)
        self.run = run
        self.identity = identity
        self.every = every
        self.seed = seed
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

    def restore(self):
        """Bring back the arrays that `read` found, if they are not there yet; `fit` does it by itself."""
        if self.restored is not None:
            self._assign(self.restored)
            self.restored = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.restored is not None:
            # Not earlier: the start of an epoch resets the metrics.
            self.restore()
            if self.run["step"] == 0:
                # The state at an epoch's end holds that epoch's metrics, and this batch begins another epoch.
                self.model.reset_metrics()
        if self.run["step"] == 0 and keras.backend.backend() == "torch":
            # A data loader draws from PyTorch's generator whenever it starts; each epoch begins the same all the same.
            import torch

            torch.manual_seed(int(hash64(self.seed, "torch", self.run["epoch"]) >> np.uint64(1)))

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
        np.savez(aside, meta=np.array(meta), **_backend_random_state(), **arrays)
        if self.path.exists():
            os.replace(self.path, self.previous)
        os.replace(aside, self.path)

    def _assign(self, arrays):
        _restore_backend_random_state(arrays)
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


def _backend_random_state():
    """PyTorch's own generator: unseeded Keras dropout draws from it, past every seed variable."""
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = {"torch_random_state": torch.get_rng_state().numpy()}
    for device, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ()):
        states[f"torch_random_state_{device}"] = state.numpy()
    return states


def _restore_backend_random_state(arrays):
    for key in [key for key in arrays if key.startswith("torch_random_state")]:
        import torch

        state, device = torch.from_numpy(arrays.pop(key)), key.removeprefix("torch_random_state").lstrip("_")
        if device:
            torch.cuda.set_rng_state(state, int(device))
        else:
            torch.set_rng_state(state)
