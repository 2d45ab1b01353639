import warnings

import keras
import keras_hub

from keras_itr.models.preset_index import (
    has_weights,
    how_to_get_weights,
    is_retriever,
    preset_directory,
    read_index,
    saved_class,
)
from keras_itr.models.rebuilding import own_weights, rebuilt


class StoredTask(keras_hub.models.Task):
    """What a retriever reads from files and writes to them, and the guard of one that has no weights yet."""

    # Why the weights must not be used yet; None once they were loaded or trained.
    missing_weights = None

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        """keras-hub's own, with names of the package; `keras_itr.models.from_preset` is the one to use."""
        if "plugins" in kwargs:
            plugins = kwargs.pop("plugins")
            return rebuilt(cls.from_preset(preset, load_weights, **kwargs), plugins=plugins)
        source = str(preset_directory(preset) if preset in read_index() else preset)
        if load_weights and is_retriever(source) and not has_weights(source):
            raise ValueError(f"preset {preset!r} has no weights; {how_to_get_weights(preset)}")
        model = super().from_preset(source, load_weights=load_weights, **kwargs)
        for layer in model.training_only_layers():
            layer.reset()
        if load_weights and is_retriever(source) and not isinstance(model, saved_class(source)) and own_weights(model):
            warnings.warn(
                f"preset {preset!r} is a {saved_class(source).__name__}: this {cls.__name__} takes its towers, and "
                "what is its own starts untrained; keras_itr.models.from_preset loads the class that was saved.",
                stacklevel=2,
            )
        return model

    def training_only_layers(self):
        """The layers that only training needs: momentum twins, queues. A preset leaves them out."""
        return [layer for layer in self._flatten_layers() if getattr(layer, "training_only", False)]

    def save_task_weights(self, filepath):
        keras.saving.save_weights(self, filepath, objects_to_skip=self._not_in_task_weights())

    def load_task_weights(self, filepath):
        keras.saving.load_weights(self, filepath, objects_to_skip=self._not_in_task_weights())

    def _not_in_task_weights(self):
        """Every layer of the backbone, whose file is another one, and of what only training needs."""
        left_out = (self.backbone, *self.training_only_layers())
        return [layer for part in left_out for layer in part._flatten_layers()]

    def save_to_preset(self, preset_dir, **kwargs):
        """Save configuration, weights and preprocessor to a directory, without the optimizer."""
        self.require_weights("save_to_preset")
        optimizer = getattr(self, "optimizer", None)
        self.optimizer = None
        try:
            super().save_to_preset(str(preset_dir), **kwargs)
        finally:
            self.optimizer = optimizer

    def save(self, *args, **kwargs):
        self.require_weights("save")
        super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        self.require_weights("save_weights")
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        super().load_weights(*args, **kwargs)
        self.missing_weights = None

    def require_weights(self, action):
        """Raise if the weights were neither loaded nor trained."""
        if self.missing_weights:
            raise ValueError(f"{action}: {self.missing_weights}")
