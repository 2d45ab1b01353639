import difflib
import json
import os
import warnings
from pathlib import Path

from keras_itr.models.retriever import ImageTextRetriever

PACKAGED = Path(__file__).parent.parent / "presets"
HANDLES = ("hf://", "kaggle://", "modelscope://")


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
        **overrides: constructor arguments in place of the saved ones.

    Returns:
        An `ImageTextRetriever`.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or for missing
            weights with `load_weights=True`.

    Example:

    ```python
    import keras_itr

    model = keras_itr.models.from_preset("cusa_shapes")
    model.embed_texts(["a red circle left of a blue square"]).shape
    ```
    """
    source = str(preset)
    if source.startswith(HANDLES):
        return ImageTextRetriever.from_preset(source, load_weights=load_weights is not False, **overrides)
    directory = _locate(source)
    found = _has_weights(directory)
    if load_weights is True and not found:
        raise ValueError(f"preset {source!r} has no weights in {directory}; {_remedy(source)}")
    # The base class reads the class that was saved from task.json and builds that one.
    model = ImageTextRetriever.from_preset(
        str(directory), load_weights=found if load_weights is None else load_weights, **overrides
    )
    if load_weights is None and not found:
        model.missing_weights = f"preset {source!r} was built without weights; {_remedy(source)}"
        warnings.warn(model.missing_weights, stacklevel=2)
    return model


def list_presets():
    """The presets by name: dict of name to description, with the weights that are at hand."""
    return {
        name: f"{entry['description']} Weights: {'yes' if _has_weights(_directory(name)) else 'no'}."
        for name, entry in _index().items()
    }


def _locate(source):
    if source in _index():
        return _directory(source)
    path = Path(source)
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{source}: this directory is no preset: it has no config.json.")
    near = difflib.get_close_matches(source, _index(), 3, cutoff=0.3) or list(_index())
    raise ValueError(f"no preset is called {source!r}, and there is no such directory; the nearest: {', '.join(near)}.")


def _directory(name):
    home = Path(os.environ.get("KERAS_ITR_HOME", Path.home() / ".keras_itr")) / "presets" / name
    return home if (home / "config.json").is_file() else PACKAGED / name


def _has_weights(directory):
    return any(directory.glob("model*.weights.*"))


def _remedy(source):
    entry = _index().get(source, {})
    if "recipe" in entry:
        return f"train them: python tools/train.py recipes/{entry['recipe']}"
    return "pass load_weights=False for random ones, or a directory with weights."


def _index():
    return json.loads((PACKAGED / "index.json").read_text(encoding="utf-8"))
