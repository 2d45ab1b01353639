import tempfile
from pathlib import Path

from keras_itr import hub_handles
from keras_itr.models.preset_index import has_weights, preset_directory, read_index

_HUBS = ("hf://", "kaggle://")


def upload_preset(handle, preset):
    """Upload a retriever to a model hub, by keras-hub's own `upload_preset`.

    `from_preset(handle)` loads it again. Log in first, with the hub's own
    command or key.

    Args:
        handle: string: `"hf://user/model"` or
            `"kaggle://user/model/keras/variation"`.
        preset: an `ImageTextRetriever`, the directory that `save_to_preset` wrote, or a name out of `list_presets()`.

    Raises:
        ValueError: for another handle, or a preset without weights.
        ConnectionError: if the hub cannot be reached.

    Example:

    ```python
    import keras_itr

    keras_itr.models.upload_preset("hf://user/cusa_shapes", keras_itr.models.from_preset("cusa_shapes"))
    ```
    """
    import keras_hub

    if not handle.startswith(_HUBS):
        raise ValueError(f"handle must start with {' or '.join(_HUBS)}, received {handle!r}.")
    if hasattr(preset, "save_to_preset"):
        with tempfile.TemporaryDirectory() as directory:
            preset.save_to_preset(directory)
            return upload_preset(handle, directory)
    preset = preset_directory(preset) if preset in read_index() else preset
    for needed, there in (("config.json", (Path(preset) / "config.json").is_file()), ("weights", has_weights(preset))):
        if not there:
            raise ValueError(f"{preset}: no preset that can be uploaded: it has no {needed}.")
    if not hub_handles.hub_answers(handle):
        raise ConnectionError(f"{handle}: its hub cannot be reached from here; check the network.")
    keras_hub.upload_preset(handle, str(preset))
