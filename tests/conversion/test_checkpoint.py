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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a dict, received a list"),
        ("{}", "its weight_map must name a file for every tensor"),
        ('{"weight_map": {}}', "its weight_map must name a file for every tensor"),
        ('{"weight_map": {"x": 1}}', "its weight_map must name a file for every tensor"),
    ],
)
def test_a_broken_index_is_named(content, message, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=f"index.json: {message}"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_explained(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=f"{name}: a pointer of Git LFS, not the file itself; .* git lfs pull"):
        Checkpoint(tmp_path)


def test_sources_of_other_forms_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"kaggle://a/b: of the hubs hf:// alone can be read"):
        Checkpoint("kaggle://a/b")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=r"weights are read of \.safetensors, .* received \.h5"):
        Checkpoint(tmp_path / "weights.h5")
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset/config.json").write_text("{}")
    (tmp_path / "preset/task.json").write_text('{"registered_name": "keras_itr>CLIP"}')
    with pytest.raises(ValueError, match="preset: a preset already, which from_preset reads"):
        convert(tmp_path / "preset", tmp_path / "other", verbose=False)


def test_a_kind_that_the_source_is_not(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"visual.conv1.weight": np.ones((2, 3, 4, 4), "float32")}, path)
    message = (
        r"not bert by no model_type of a config\.json and its tensors \(visual.*\)\. It is openai_clip: leave kind out"
    )
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "preset", kind="bert", verbose=False)


@pytest.mark.parametrize("name", ["weights.ckpt", "weights.model", "weights"])
def test_a_pickle_of_any_name_needs_to_be_allowed(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    torch.save({"x": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match="a PyTorch file is a pickle, which may run code; pass allow_pickle"):
        Checkpoint(tmp_path / name)
    assert Checkpoint(tmp_path / name, allow_pickle=True).shapes == {"x": (2,)}


@pytest.mark.parametrize(
    ("keys", "shapes"),
    [
        (("model",), {"x"}),
        (("model_state_dict", "optimizer_state_dict", "lr_scheduler"), {"x"}),
        (("state_dict", "state_dict_ema"), {"x"}),
        (("model", "head"), {"model.x", "head.x"}),
    ],
)
def test_weights_are_found_in_what_a_training_script_saves(keys, shapes, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch writes the file")
    torch.save({"epoch": 3, **{key: {"module.x": torch.ones(2)} for key in keys}}, tmp_path / "a.pt")
    assert set(Checkpoint(tmp_path / "a.pt", allow_pickle=True).shapes) == shapes
