"""Presets of keras-hub as the start of our own layers: read, or refused in one line."""

import difflib
import os

from keras_itr.hub_handles import is_handle, local_source
from keras_itr.messages import one_line


def read_hub_backbone(cls, preset, load_weights=True):
    """A preset as a backbone of keras-hub in float32.

    Args:
        cls: a class of `keras_hub.models`, such as `keras_hub.models.BertBackbone`.
        preset: string: a name of keras-hub, a handle (`"kaggle://..."`, `"hf://..."`), or a directory that
            `save_to_preset` of that class wrote.
        load_weights: bool, default True; False gives the architecture with random weights.

    Returns:
        An instance of `cls`.

    Raises:
        ValueError: for an unknown name, or if the weights cannot be fetched or read.

    Example:

    ```python
    import keras_hub
    from keras_itr.layers.hub_presets import read_hub_backbone

    keras_hub.models.BertBackbone(20, 1, 2, 8, 16, max_sequence_length=8).save_to_preset("tiny_bert")
    read_hub_backbone(keras_hub.models.BertBackbone, "tiny_bert").hidden_dim  # 8
    ```
    """
    local = f"a directory that keras_hub.models.{cls.__name__}.save_to_preset wrote will do as well"
    if "://" not in preset and preset not in cls.presets and not os.path.isdir(preset):
        near = ", ".join(difflib.get_close_matches(preset, cls.presets, 3, cutoff=0.3) or cls.presets)
        kind = cls.__name__.removesuffix("Backbone")
        raise ValueError(f"no {kind} of keras-hub is called {preset!r}; the nearest: {near}; {local}.")
    try:
        source = local_source(preset) if is_handle(preset) else preset
        return cls.from_preset(source, load_weights=load_weights, dtype="float32")
    except Exception as error:
        # Each hub and each file format has exceptions of its own.
        done = "read" if os.path.isdir(preset) else "fetched"
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise ValueError(f"initial weights {preset!r} could not be {done} ({reason}); {local}.") from error


def check_sizes(preset, tower, sizes):
    """Refuse a preset whose `sizes`, a dict by the tower's arguments, are not those of `tower`, and say which differ.

    Raises:
        ValueError: with the arguments, what the preset has and what the tower has.
    """
    different = [
        f"{name}: preset has {size!r}, tower has {getattr(tower, name)!r}"
        for name, size in sizes.items()
        if getattr(tower, name) != size
    ]
    if different:
        raise ValueError(
            f"initial weights {preset!r} do not fit {tower.side}_tower; {'; '.join(different)}. "
            "Build the tower in the sizes of the preset."
        )
