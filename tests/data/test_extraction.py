import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.data import extract_caption_features, extract_features, load_karpathy
from keras_itr.data.extraction import finished_rows, fit_pca, write_rows
from keras_itr.data.feature_extraction import read_annotations
from keras_itr.data.features import read_features
from keras_itr.files import written_whole
from keras_itr.layers import GridFeatures

ITEMS = [f"item {index}" for index in range(11)]
NAMES = [f"{index}.jpg" for index in range(11)]


def lengths(batch):
    return np.array([[[len(item), int(item.split()[1])]] for item in batch], "float32")


class Killed(Exception):
    pass


def dying(after):
    """`lengths`, until it has been called `after` times."""
    calls = []

    def encode(batch):
        if len(calls) == after:
            raise Killed
        calls.append(len(batch))
        return lengths(batch)

    encode.calls = calls
    return encode


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    write_rows(tmp_path / "a/x.npy", ITEMS, NAMES, lengths, {"kind": 1}, batch_size=2)
    done = []
    for after in (0, 1, 2, 1, 1):
        encode = dying(after)
        with pytest.raises(Killed):
            write_rows(tmp_path / "b/x.npy", ITEMS, NAMES, encode, {"kind": 1}, batch_size=2)
        assert not (tmp_path / "b/x.npy").exists()
        done += encode.calls
    rows = write_rows(tmp_path / "b/x.npy", ITEMS, NAMES, dying(1), {"kind": 1}, batch_size=2)
    assert sum(done) == 10  # nothing was encoded twice
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert set(files(tmp_path / "a")) == {"x.npy", "x.json", "x_ids.txt"}
    assert isinstance(rows, np.memmap) and rows.dtype == np.float16
    np.testing.assert_array_equal(rows[:, 0, 1], np.arange(11))


def test_what_is_done_stays_and_other_settings_start_anew(tmp_path):
    path = tmp_path / "x.npy"
    write_rows(path, ITEMS, NAMES, lengths, {"kind": 1})
    write_rows(path, ITEMS, NAMES, dying(0), {"kind": 1})
    for items, names, settings in (
        (ITEMS, NAMES, {"kind": 2}),
        (ITEMS, NAMES[::-1], {"kind": 1}),
        (ITEMS[:5], NAMES[:5], {"kind": 1}),
    ):
        with pytest.raises(Killed):
            write_rows(path, items, names, dying(0), settings)
    # A half-done run of other settings is not gone on with.
    with pytest.raises(Killed):
        write_rows(path, ITEMS, NAMES, dying(2), {"kind": 2}, batch_size=2)
    encode = dying(6)
    write_rows(path, ITEMS, NAMES, encode, {"kind": 3}, batch_size=2)
    assert sum(encode.calls) == 11


@pytest.mark.parametrize("replaced", ["x_ids.txt", "x.json", "x.npy"])
def test_a_kill_at_the_end_leaves_no_rows_under_the_settings_of_others(replaced, tmp_path, monkeypatch):
    """Killed just before one of the last three files takes its place, where rows of other settings stood before."""
    path, replace = tmp_path / "x.npy", os.replace
    write_rows(path, ITEMS, NAMES, lengths, {"kind": 1})

    def kill(source, target):
        if str(target) == str(tmp_path / replaced):
            raise Killed
        replace(source, target)

    doubled = lambda batch: 2 * lengths(batch)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            write_rows(path, ITEMS, NAMES, doubled, {"kind": 2})
    assert finished_rows(path, NAMES, {"kind": 1}) is None and finished_rows(path, NAMES, {"kind": 2}) is None
    rows = write_rows(path, ITEMS, NAMES, dying(0), {"kind": 2})  # nothing is left to encode
    np.testing.assert_array_equal(rows[:, 0, 1], 2 * np.arange(11))
    assert set(files(tmp_path)) == {"x.npy", "x.json", "x_ids.txt"}


@pytest.mark.parametrize(
    ("items", "names", "encode", "message"),
    [
        ([], [], lengths, "at least one item"),
        (ITEMS[:2], ["a", "a"], lengths, "one name of its own"),
        (ITEMS[:2], ["a", "b"], lambda batch: np.full((len(batch), 2), np.nan), "a gives a number that float16"),
        (ITEMS[:2], None, lambda batch: np.full((len(batch), 2), 1e9), "item 0 gives a number that float16"),
    ],
)
def test_faulty_rows_are_named(items, names, encode, message, tmp_path):
    with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
        write_rows(tmp_path / "x.npy", items, names, encode, {})


DYING_PROCESS = """
import os, signal, sys
import numpy as np
from keras_itr.data.extraction import write_rows
calls = []
def encode(batch):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return np.array([[float(item)] for item in batch])
write_rows(sys.argv[1], [str(i) for i in range(12)], [f"n{i}" for i in range(12)], encode, {}, batch_size=2)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="no backend takes part; once is enough")
def test_a_process_killed_by_sigkill_five_times_ends_with_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    write_rows(
        tmp_path / "a/x.npy",
        [str(i) for i in range(12)],
        [f"n{i}" for i in range(12)],
        lambda batch: np.array([[float(item)] for item in batch]),
        {},
        batch_size=2,
    )
    command = [sys.executable, "-c", DYING_PROCESS, str(tmp_path / "b/x.npy")]
    for _ in range(5):
        assert subprocess.run([*command, "1"], capture_output=True).returncode == -signal.SIGKILL
        assert not (tmp_path / "b/x.npy").exists()
    assert subprocess.run([*command, "9"], capture_output=True).returncode == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_pca_keeps_what_varies_most(tmp_path):
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(6, 6)))[0]
    rows = (random.normal(size=(500, 2, 6)) * [9, 5, 3, 0.1, 0.1, 0.1]) @ directions.T + 7
    fit_pca(rows.astype("float32"), 3, tmp_path / "pca.npz", block_size=90)
    with np.load(tmp_path / "pca.npz", allow_pickle=False) as stored:
        mean, components, explained = stored["mean"], stored["components"], stored["explained"]
    np.testing.assert_allclose(mean, rows.reshape(-1, 6).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(components.T @ components, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.abs(directions[:, :3].T @ components), np.eye(3), atol=0.05)
    assert explained > 0.99 and (np.abs(components).max(axis=0) == components.max(axis=0)).all()
    with pytest.raises(ValueError, match="has 1 to 6 components, not 7"):
        fit_pca(rows, 7, tmp_path / "none.npz")


@pytest.fixture
def photos(tmp_path):
    """Five photos in two splits of a Karpathy file."""
    random, images = np.random.default_rng(0), []
    (tmp_path / "photos").mkdir()
    for index in range(5):
        name = f"{index}.jpg"
        pixels = random.integers(0, 256, (40, 50 + index, 3), dtype="uint8")
        (tmp_path / "photos" / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
        sentences = [{"raw": f"a photo {index}", "sentid": 2 * index}, {"raw": "one more", "sentid": 2 * index + 1}]
        split = "train" if index < 3 else "val"
        images.append({"filename": name, "split": split, "sentences": sentences})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "own"}))
    return tmp_path


@pytest.fixture
def weights(tmp_path):
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(64, 64, 3))
    network.save_weights(tmp_path / "network.weights.h5")
    return str(tmp_path / "network.weights.h5")


def test_a_folder_and_an_annotation_file_give_the_same_rows(photos, weights):
    options = {"weights": weights, "image_size": (64, 64), "grid": (1, 2), "dtype": "float32", "batch_size": 2}
    folder = extract_features(photos / "photos", photos / "all.npy", **options)
    assert folder.shape == (5, 2, 1280)
    assert (photos / "all_ids.txt").read_text().split() == [f"{index}.jpg" for index in range(5)]
    train = extract_features(
        photos / "dataset.json", photos / "train.npy", images=photos / "photos", split="train", **options
    )
    np.testing.assert_allclose(train, folder[:3], rtol=1e-4, atol=1e-5)
    pooled = extract_features(photos / "photos", photos / "pooled.npy", pooled=True, **options)
    np.testing.assert_allclose(pooled, folder.mean(axis=1), rtol=1e-4, atol=1e-5)
    # Readers find the rows by name, for any split.
    table = load_karpathy("val", photos, features="all.npy", teacher_image="pooled.npy")
    np.testing.assert_array_equal(table.image_columns["regions"][[0, 1]], folder[3:])
    np.testing.assert_array_equal(read_features(photos / "pooled.npy", names=["4.jpg"])[[0]], pooled[4:])


def test_a_pca_is_fitted_on_one_split_and_used_on_the_other(photos, weights):
    options = {"weights": weights, "image_size": (64, 64), "grid": (2, 2), "images": photos / "photos"}
    train = extract_features(photos / "dataset.json", photos / "train.npy", split="train", pca=4, **options)
    assert train.shape == (3, 4, 4)
    left = {path.name for path in photos.iterdir() if path.name.startswith("train")}
    assert left == {"train.npy", "train.json", "train_ids.txt", "train_pca.npz"}
    before = (photos / "train.npy").stat().st_mtime_ns
    # What a kill after the last rows would leave goes with the next call.
    (photos / "train_raw.npy").write_bytes(b"gigabytes")
    extract_features(photos / "dataset.json", photos / "train.npy", split="train", pca=4, **options)
    assert (photos / "train.npy").stat().st_mtime_ns == before
    assert not (photos / "train_raw.npy").exists()
    pca = str(photos / "train_pca.npz")
    again = extract_features(photos / "dataset.json", photos / "again.npy", split="train", pca=pca, **options)
    np.testing.assert_allclose(again.astype("float32"), train.astype("float32"), rtol=0.02, atol=0.02)
    assert GridFeatures("MobileNetV2", (64, 64), grid=(2, 2), pca=pca).output_dim == 4


def test_faulty_sources_are_one_line(photos):
    (photos / "empty").mkdir()
    (photos / "photos/broken.jpg").write_bytes(b"no image")
    faults = [
        ("empty", {}, "there is no .jpg"),
        ("datasets.json", {}, "did you mean dataset.json"),
        ("dataset.json", {}, "name the split"),
        ("dataset.json", {"split": "dev", "images": photos / "photos"}, "dev"),
        ("photos", {"grid": (3, 3)}, "does not divide"),
        ("photos", {"pca": 5000}, "has 1 to 23 components, not 5000"),
        ("photos", {"pca": 0}, "not 0"),
        ("photos", {"batch_size": 0}, "batch_size must be at least 1"),
        ("photos", {"network": "MobileNet2"}, "did you mean 'MobileNetV2'"),
        ("photos", {}, "broken.jpg is no readable JPEG"),
    ]
    for source, options, message in faults:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
            extract_features(photos / source, photos / "x.npy", image_size=(64, 64), **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"must end with \.npy"):
        extract_features(photos / "photos", photos / "x.npz")
    with pytest.raises(ValueError, match="could not be had"):
        extract_caption_features(photos / "dataset.json", photos / "x.npy", photos / "empty")


def test_annotation_files_are_told_apart(photos):
    (photos / "captions.tsv").write_text("image\tcaption\tsplit\n0.jpg\ta dog\ttrain\n1.jpg\ta cat\tval\n")
    table = read_annotations(photos / "captions.tsv", "train", photos / "photos")
    assert list(table.captions) == ["a dog"]
    coco = {
        "images": [{"id": 1, "file_name": "2.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": "a cow"}],
    }
    (photos / "captions.json").write_text(json.dumps(coco))
    assert list(read_annotations(photos / "captions.json", "train", photos / "photos").captions) == ["a cow"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder/a.txt"
    with written_whole(path) as aside:
        aside.write_text("first")
    with pytest.raises(Killed), written_whole(path) as aside:
        aside.write_text("second")
        raise Killed
    assert files(tmp_path / "folder") == {"a.txt": b"first"}
