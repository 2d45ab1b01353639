import difflib
import warnings
from pathlib import Path

from keras_itr.hub_handles import is_handle, local_source
from keras_itr.messages import one_line
from keras_itr.models.preset_index import has_weights, how_to_get_weights, preset_directory, read_index
from keras_itr.models.retriever import ImageTextRetriever


def from_preset(preset, load_weights=None, **overrides):
    """Load a retriever by name, directory or hub handle, as the exact class that was saved.

    Args:
        preset: string or path: a name out of `list_presets()`, a directory that
            `save_to_preset` wrote, or a handle such as `"hf://user/model"`.
            Weights of a name are looked for in `$KERAS_ITR_HOME/presets/<name>`
            (default `~/.keras_itr`) and in the package.
        load_weights: None (default) loads weights if they can be found, and
            otherwise builds the architecture, warns, and lets nobody use it
            before it was trained; True makes missing weights an error; False
            builds the architecture with random weights.
        **overrides: constructor arguments in place of the saved ones, such as
            CODER's `graph`. `plugins=(SoftLabelAlignment(),)` puts new plug-ins on
            the weights of the preset.

    Returns:
        An `ImageTextRetriever`.

    Raises:
        ValueError: for an unknown name, with the nearest ones, for missing
            weights with `load_weights=True`, or for a handle that cannot be read.
        ConnectionError: for a handle whose hub cannot be reached.

    Example:

    ```python
    import keras_itr

    model = keras_itr.models.from_preset("cusa_shapes")
    model.embed_texts(["a red circle left of a blue square"]).shape
    ```
    """
    source = str(preset)
    if is_handle(source):
        return _from_hub(source, load_weights, overrides)
    directory = _locate(source)
    found = has_weights(directory)
    if load_weights is True and not found:
        raise ValueError(f"preset {source!r} has no weights in {directory}; {how_to_get_weights(source)}")
    # The base class reads the class that was saved from task.json and builds that one.
    model = ImageTextRetriever.from_preset(
        str(directory), load_weights=found if load_weights is None else load_weights, **overrides
    )
    return model if found or load_weights is False else _guarded(model, source)


def _from_hub(handle, load_weights, overrides):
    source = local_source(handle)
    try:
        return ImageTextRetriever.from_preset(source, load_weights=load_weights is not False, **overrides)
    except FileNotFoundError as error:
        if load_weights is None and ".weights." in str(error):
            return _guarded(ImageTextRetriever.from_preset(source, load_weights=False, **overrides), handle)
        raise ValueError(f"{handle}: {one_line(error)}") from error
    except Exception as error:
        # Each hub has exceptions of its own.
        raise ValueError(f"{handle} could not be read ({type(error).__name__}: {one_line(error)}).") from error


def _guarded(model, source):
    """The model without weights: it warns now, and raises where it is used untrained."""
    model.missing_weights = f"preset {source!r} was built without weights; {how_to_get_weights(source)}"
    warnings.warn(model.missing_weights, stacklevel=3)
    return model


def _locate(source):
    names = read_index()
    if source in names:
        return preset_directory(source)
    path = Path(source)
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{source}: this directory is no preset: it has no config.json.")
    near = difflib.get_close_matches(source, names, 3, cutoff=0.3) or list(names)
    raise ValueError(f"no preset is called {source!r}, and there is no such directory; the nearest: {', '.join(near)}.")
