import shutil
import socket
import time

import huggingface_hub
import keras_hub
import pytest
from huggingface_hub.utils import EntryNotFoundError
from support import region_backbone, region_data

from keras_itr import hub_handles
from keras_itr.models import CUSA, from_preset, upload_preset

HANDLE = "hf://user/model"


@pytest.fixture
def saved(tmp_path):
    CUSA(region_backbone(), csa_weight=0.3).save_to_preset(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def hub(saved, monkeypatch):
    """A hub that holds one preset, in place of the network."""

    def download(repo_id, filename):
        if repo_id != "user/model" or not (saved / filename).is_file():
            raise EntryNotFoundError(f"no {filename} in {repo_id}")
        return str(saved / filename)

    monkeypatch.setattr(hub_handles, "hub_answers", lambda handle: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return saved


def remove_weights(directory):
    for file in directory.glob("*.weights.h5"):
        file.unlink()


def test_a_handle_loads_the_class_that_was_saved(hub):
    model = from_preset(HANDLE)
    assert type(model) is CUSA and model.csa_weight == 0.3
    assert from_preset(HANDLE, load_weights=True, csa_weight=0.1).csa_weight == 0.1


def test_a_handle_without_weights_behaves_as_a_directory_does(hub):
    remove_weights(hub)
    with pytest.warns(UserWarning, match="hf://user/model' was built without weights"):
        model = from_preset(HANDLE)
    with pytest.raises(ValueError, match="without weights"):
        model.embed_images(region_data(4))
    with pytest.raises(ValueError, match=r"hf://user/model: .*weights"):
        from_preset(HANDLE, load_weights=True)
    assert from_preset(HANDLE, load_weights=False).embed_images(region_data(4)).shape == (4, 8)


def test_what_the_hub_does_not_have_is_one_line(hub):
    with pytest.raises(ValueError, match=r"hf://user/other could not be read \(ValueError: .*config\.json") as raised:
        from_preset("hf://user/other")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("handle", [HANDLE, "kaggle://user/model/keras/base/1", "modelscope://user/model"])
def test_without_a_network_it_says_so_at_once(handle, monkeypatch):
    monkeypatch.setattr(hub_handles, "HUBS", dict.fromkeys(hub_handles.HUBS, "localhost:9"))
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=f"{handle}: localhost:9 cannot be reached from here") as raised:
        from_preset(handle)
    assert time.monotonic() - started < 2 and "pass its path" in str(raised.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(hub_handles, "HUBS", {"hf://": address})
        started = time.monotonic()
        with pytest.raises(ConnectionError, match="cannot be reached"):
            from_preset(HANDLE)
        assert time.monotonic() - started < 2


def test_without_a_network_the_cache_serves(saved, monkeypatch):
    monkeypatch.setattr(hub_handles, "hub_answers", lambda handle: False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo_id, filename: str(saved / filename))
    assert from_preset(HANDLE).csa_weight == 0.3


def test_upload_goes_through_keras_hub(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_handles, "hub_answers", lambda handle: True)
    sent = []

    def upload(uri, preset):
        sent.append(uri)
        shutil.copytree(preset, tmp_path / f"hub{len(sent)}")

    monkeypatch.setattr(keras_hub, "upload_preset", upload)
    upload_preset(HANDLE, saved)
    upload_preset("kaggle://user/model/keras/base", from_preset(saved))
    assert sent == [HANDLE, "kaggle://user/model/keras/base"]
    assert from_preset(tmp_path / "hub2").csa_weight == 0.3


def test_faults_of_an_upload(saved, monkeypatch):
    with pytest.raises(ValueError, match="must start with hf:// or kaggle://, received 'user/model'"):
        upload_preset("user/model", saved)
    monkeypatch.setattr(hub_handles, "HUBS", {"hf://": "localhost:9"})
    with pytest.raises(ConnectionError, match="cannot be reached"):
        upload_preset(HANDLE, saved)
    remove_weights(saved)
    with pytest.raises(ValueError, match="it has no weights"):
        upload_preset(HANDLE, saved)
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        upload_preset(HANDLE, saved.parent)
