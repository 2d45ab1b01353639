import argparse
import json
import pathlib
import re
import warnings

import numpy as np

from keras_itr.conversion.target import is_preset
from keras_itr.hub_handles import is_handle, local_source
from keras_itr.messages import one_line

HUGGING_FACE = "hf://"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".pt", ".pth", ".bin", ".tar", ".ckpt", ".pkl", ".pickle")
# How a file of `torch.save` begins: an archive, or a bare pickle.
_PICKLES = (b"PK\x03\x04", b"\x80")
_POINTER = b"version https://git-lfs.github.com/spec/"
# What training scripts call the weights of a model, and what they keep beside them that is no part of it.
_STATES = ("state_dict", "model_state_dict", "model")
_TRAINING = re.compile("optim|.*sched|.*scaler|.*rng")


class Checkpoint:
    """Named tensors of a published model, read one by one, and the small files beside them.

    Args:
        source: string or path: a folder with `model.safetensors` or `model.safetensors.index.json` (shards) and
            `config.json` as Hugging Face writes it; a file `.safetensors`; with `allow_pickle` a PyTorch file
            (`.pt`, `.pth`, `.bin`, `.tar`, `.ckpt`, `.pkl`), or a folder whose weights are one; or
            `"hf://user/model"`, which is downloaded, its safetensors only.
        allow_pickle: bool, default False: PyTorch files are pickles. They are read by
            `torch.load(weights_only=True)`, which makes tensors and plain containers only.

    Attributes:
        source: string, as given.
        directory: `Path` of the folder with the further files.
        shapes: dict of name to shape. Parts of a nested file are joined, as `model.0.fc.weight` for the first of a
            list; `module.`, a mark of training on several devices, is left out, and so is the name of a dict that
            holds all there is, such as `model_state_dict`.
        config: dict of `config.json`, empty if there is none.

    Raises:
        FileNotFoundError: if there is no such source, or a file that it names.
        ValueError: if it holds no weights, needs `allow_pickle`, cannot be read or cannot be fetched.
        ImportError: without the package that reads it.

    Example:

    ```python
    import numpy as np
    from safetensors.numpy import save_file
    from keras_itr.conversion import Checkpoint

    save_file({"a.weight": np.ones((2, 3), "float16")}, "a.safetensors")
    Checkpoint("a.safetensors").tensor("a.weight").dtype  # float32
    ```
    """

    def __init__(self, source, allow_pickle=False):
        self.source = str(source)
        if is_handle(self.source) and not self.source.startswith(HUGGING_FACE):
            raise ValueError(f"{source}: of the hubs {HUGGING_FACE} alone can be read; fetch it and name its folder.")
        path = _fetched(self.source) if self.source.startswith(HUGGING_FACE) else pathlib.Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{source}: no such file or folder to convert.")
        self.directory = path if path.is_dir() else path.parent
        self.config = self.json("config.json") or {}
        files = _weight_files(path)
        for file in files:
            refuse_pointer(file)
        if not _is_pickle(files[0]):
            self._tensors = _SafeTensors(files)
        elif allow_pickle:
            self._tensors = _PickledTensors(files[0])
        else:
            raise ValueError(
                f"{files[0]}: a PyTorch file is a pickle, which may run code; pass allow_pickle if you trust it (only "
                "tensors and plain containers are read), or give safetensors."
            )
        self.shapes = self._tensors.shapes

    def tensor(self, name):
        """The tensor called `name` as a NumPy array, floats as float32."""
        array = self._tensors.read(name)
        return array if array.dtype.kind in "iub" else array.astype("float32")

    def setting(self, key, default, allowed=None, section=None):
        """A value of `config.json`, or of a section of it: `default` where it is not there.

        Raises:
            ValueError: if it is none of `allowed`, or the section is none.
        """
        config = self.config if section is None else self.config.get(section) or {}
        if not isinstance(config, dict):
            raise ValueError(f"{self.source}: {section} of its config.json must be a dict, received {config!r}.")
        value = config.get(key, default)
        if allowed is not None and value not in allowed:
            where = "" if section is None else f" of {section}"
            raise ValueError(
                f"{self.source}: {key}{where} must be {' or '.join(map(repr, allowed))}, received {value!r}."
            )
        return value

    def num_heads(self, width, given=None, default=None, section=None):
        """The attention heads, which no tensor tells: those of `config.json`, else `given`, else `default`.

        Raises:
            ValueError: if nothing says, `given` contradicts the configuration, or the width is not cut evenly.
        """
        stated = self.setting("num_attention_heads", None, section=section)
        if None not in (stated, given) and stated != given:
            raise ValueError(
                f"{self.source}: its config.json says {stated} heads, num_heads {given}; leave num_heads out."
            )
        number = next((number for number in (stated, given, default) if number is not None), None)
        if number is None:
            raise ValueError(
                f"{self.source}: without config.json nothing says how many attention heads its width of {width} is cut "
                "into, and a wrong number gives wrong vectors; put the config.json beside it or name num_heads "
                "(--num_heads)."
            )
        if not isinstance(number, int) or number < 1 or width % number:
            where = "num_heads" if stated is None and number == given else "the number of attention heads"
            raise ValueError(f"{self.source}: {where} must cut the width {width} evenly, received {number!r}.")
        return number

    def json(self, name, kind=dict):
        """A JSON file of the folder, or None if it is not there; `kind` is what it must hold, a dict or a list."""
        path = self.directory / name
        return _json(path, kind) if path.is_file() else None


def refuse_pointer(path):
    """Raises ValueError if a file only says where Git LFS keeps the content."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path}: a pointer of Git LFS, not the file itself; fetch it with git lfs pull.")


def _json(path, kind=dict):
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({one_line(error)}).") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: must hold a {kind.__name__}, received a {type(content).__name__}.")
    return content


def _is_pickle(path):
    """Whether a file is one of PyTorch, by its name or else by how it begins; False for safetensors."""
    if path.suffix in (".safetensors", *PICKLED):
        return path.suffix in PICKLED
    with open(path, "rb") as file:
        begin = file.read(max(map(len, _PICKLES)))
    if begin.startswith(_PICKLES):
        return True
    raise ValueError(
        f"{path}: weights are read of .safetensors, and with allow_pickle of PyTorch files ({', '.join(PICKLED)}); "
        f"received {path.suffix or 'a name without an ending'}."
    )


class _SafeTensors:
    """The tensors of one or several files."""

    def __init__(self, files):
        try:
            import safetensors
        except ImportError as error:
            raise ImportError('safetensors is not installed; pip install "keras-itr[convert]".') from error
        # NumPy learns bfloat16 by it.
        import ml_dtypes  # noqa: F401

        self._files, self.shapes = {}, {}
        for path in files:
            try:
                file = safetensors.safe_open(path, framework="np")
                for name in file.keys():  # noqa: SIM118
                    self._files[name] = file
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path}: no whole safetensors file ({one_line(error)}).") from error

    def read(self, name):
        return self._files[name].get_tensor(name)


class _PickledTensors:
    """The tensors of one PyTorch file."""

    def __init__(self, path):
        try:
            import torch
        except ImportError as error:
            raise ImportError(
                'PyTorch reads this file and is not installed; pip install "keras-itr[torch]".'
            ) from error
        try:
            with torch.serialization.safe_globals(_plain_values()), warnings.catch_warnings():
                # About a TorchScript archive, which is an error below.
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of several kinds, for what is no such file and for what it may not make
            raise ValueError(
                f"{path}: torch.load(weights_only=True) cannot read it ({one_line(error, 160)}). Of a TorchScript "
                "archive save the tensors first: torch.save(torch.jit.load(path).state_dict(), other_path)."
            ) from error
        self._tensors = dict(_named_tensors(_state(content, torch.Tensor), torch.Tensor))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name):
        tensor = self._tensors[name]
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _plain_values():
    """What training scripts keep beside the weights and may be made of a file: flags, and numbers of NumPy."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64")},
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _state(content, kind):
    """The dict of the weights: what a training script saved, without what it lies in."""
    for name in _STATES:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            rest = {key: value for key, value in content.items() if key != name}
            # A `model` beside other tensors is one part of several. Beside a `state_dict` are copies of it.
            if name == "state_dict" or not any(_named_tensors(rest, kind)):
                return _state(content[name], kind)
    return content


def _named_tensors(content, kind, prefix=""):
    if isinstance(content, kind):
        yield prefix.removesuffix("."), content
    elif isinstance(content, (dict, list, tuple)):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            if prefix or not _TRAINING.match(str(key)):
                yield from _named_tensors(value, kind, f"{prefix}{str(key).removeprefix('module.')}.")


def _weight_files(path):
    """The file of weights of a source, or its shards."""
    if path.is_file():
        return [path]
    if (path / INDEX).is_file():
        names = _shards(path / INDEX)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{path}: {INDEX} names {', '.join(missing)}, not there.")
        return [path / name for name in names]
    for name in (WEIGHTS, "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
    if is_preset(path):
        raise ValueError(f"{path}: a preset already, which from_preset reads; there is nothing to convert.")
    raise ValueError(f"{path}: no {WEIGHTS}, {INDEX} or pytorch_model.bin in this folder.")


def _shards(index):
    """The names of the files that an index lists."""
    names = _json(index).get("weight_map")
    names = list(names.values()) if isinstance(names, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{index}: its weight_map must name a file for every tensor; fetch it anew.")
    return sorted(set(names))


def _fetched(handle):
    import huggingface_hub

    try:
        source = local_source(handle)
        if not is_handle(source):
            return pathlib.Path(source)
        repository = handle.removeprefix(HUGGING_FACE)
        return pathlib.Path(
            huggingface_hub.snapshot_download(repository, allow_patterns=["model*.safetensors", "*.json", "*.txt"])
        )
    except Exception as error:  # of several libraries
        raise ValueError(
            f"{handle} could not be fetched ({type(error).__name__}: {one_line(error, 160)}); a folder with its "
            "config.json and model.safetensors will do as well."
        ) from error
