import json

import numpy as np
import pytest

from keras_itr.conversion import Checkpoint, convert

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors (extra convert) reads the weights")


def test_shards_are_one_checkpoint_and_a_missing_one_is_named(tmp_path):
    parts = {"a.safetensors": {"x": np.ones((2, 3), "float16")}, "b.safetensors": {"y": np.arange(4)}}
    for name, tensors in parts.items():
        safetensors.save_file(tensors, tmp_path / name)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.shapes == {"x": (2, 3), "y": (4,)} and checkpoint.tensor("x").dtype == "float32"
    np.testing.assert_array_equal(checkpoint.tensor("y"), np.arange(4))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names b\.safetensors, not there"):
        Checkpoint(tmp_path)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder to convert"):
        Checkpoint("nowhere")
    with pytest.raises(ValueError, match=r"no model\.safetensors, .* in this folder"):
        Checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"x": np.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        Checkpoint(tmp_path)
    safetensors.save_file({"x": np.ones(2)}, path)
    with pytest.raises(ValueError, match=r"not one of cusa, .* by its tensors \(x"):
        convert(path, tmp_path / "preset", verbose=False)


def test_without_network_one_line_names_the_handle(monkeypatch):
    monkeypatch.setattr("keras_itr.hub_handles.hub_answers", lambda handle: False)
    message = r"hf://a/clip could not be fetched \(ConnectionError: hf://a/clip: huggingface.co cannot be reached"
    with pytest.raises(ValueError, match=message) as raised:
        Checkpoint("hf://a/clip")
    assert "\n" not in str(raised.value)


def test_a_torchscript_archive_is_explained(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch writes the archive")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(ValueError, match=r"Of a TorchScript archive save the tensors first: torch\.save"):
        Checkpoint(tmp_path / "model.pt", allow_pickle=True)
