import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_itr.models import CUSA, from_preset
from keras_itr.training import RecipeError, evaluate_preset, train, trainer
from keras_itr.training.resume import ResumeState

RECIPE = """
model:
  method: cusa
  embedding_dim: 8
  image_tower: {type: convolutional, filters: [4, 4, 4], embedding_dim: 8, dropout: 0.1}
  text_tower: {type: transformer, embedding_dim: 8, num_layers: 1, num_heads: 2, dropout: 0.1}
  tokenizer: {type: word, sequence_length: 32}
  image_converter: {image_size: [32, 32], scale: 0.007843, offset: -1.0}
data:
  source: shapes
  num_scenes: 10
  random_shift: 1
run:
  epochs: 3
  batch_size: 16
  learning_rate: 1.0e-3
  schedule: {type: cosine, per: step, warmup_steps: 2}
  weight_decay: 1.0e-4
  clip_norm: 2.0
  checkpoint_steps: 2
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def history(folder):
    return (folder / "history.csv").read_text().splitlines()


def state(folder):
    with np.load(folder / "state.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files if key != "meta"}


def test_a_run_leaves_everything_behind(recipe, tmp_path, capsys):
    metrics = train(recipe, run_dir=tmp_path / "run")
    folder = tmp_path / "run"
    assert {"recipe.yaml", "versions.json", "history.csv", "state.npz", "best", "metrics.json"} <= {
        entry.name for entry in folder.iterdir()
    }
    assert json.loads((folder / "metrics.json").read_text())["rsum"] == metrics["rsum"]
    header, *rows = history(folder)
    assert {"epoch", "itc", "csa", "usa", "tau_itc", "val_rsum", "val_checked_rsum"} <= set(header.split(","))
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["backend"] == keras.backend.backend() and versions["keras"]
    model = from_preset(folder / "best")
    assert type(model) is CUSA and model.embed_texts(["a red circle"]).shape == (1, 8)
    assert "checked text to image" in capsys.readouterr().out
    again = evaluate_preset(folder / "best", recipe, json_path=tmp_path / "again.json", verbose=False)
    assert again["rsum"] == metrics["rsum"] and (tmp_path / "again.json").exists()
    with pytest.raises(RecipeError, match="this run is finished"):
        train(recipe, run_dir=folder)
    # The resolved recipe is a recipe, and the same one.
    assert train(folder / "recipe.yaml", run_dir=tmp_path / "second", verbose=False)["rsum"] == metrics["rsum"]


STAGED = """
model:
  method: tgdt
  embedding_dim: 8
  image_tower: {type: convolutional, filters: [4, 4, 8], embedding_dim: null, pooling: mean}
  text_tower: {type: transformer, embedding_dim: 8, num_layers: 1, num_heads: 2, dropout: 0.1}
  tokenizer: {type: word, sequence_length: 32}
  image_converter: {image_size: [32, 32], scale: 0.007843, offset: -1.0}
  arguments: {embedding_dim: 8, local_layers: 1, global_layers: 1, num_heads: 2, intermediate_dim: 16}
data:
  source: shapes
  num_scenes: 10
run:
  epochs: 3
  stages: [{stage: local, epochs: 1}, {stage: global, epochs: 2}]
  batch_size: 16
  learning_rate: 1.0e-3
  schedule: {type: step, decay_epochs: 2}
  checkpoint_steps: 2
"""


class Killed(Exception):
    pass


EVERY = ["run.validation_every=2"]


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """Function of the text of a recipe: the folder of its uninterrupted run, which is trained once."""
    folders = {}

    def whole(text):
        if text not in folders:
            folder = tmp_path_factory.mktemp("whole")
            (folder / "recipe.yaml").write_text(text)
            train(folder / "recipe.yaml", EVERY, run_dir=folder / "run", verbose=False)
            folders[text] = folder / "run"
        return folders[text]

    return whole


@pytest.mark.parametrize("stop", [2, 3, 5, "epoch"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(stop, recipe, whole_runs, tmp_path, monkeypatch):
    """Three steps an epoch, a state every two: killed inside an epoch, at its end, in the next, and between two."""
    check_resume(stop, recipe, whole_runs(RECIPE), tmp_path, monkeypatch)


@pytest.mark.parametrize("stop", [5, "epoch"])
def test_training_stages_go_on_where_they_stopped(stop, whole_runs, tmp_path, monkeypatch):
    """Killed inside the second stage, and between the two."""
    recipe = tmp_path / "staged.yaml"
    recipe.write_text(STAGED)
    whole = whole_runs(STAGED)
    check_resume(stop, recipe, whole, tmp_path, monkeypatch)
    header, *rows = [line.split(",") for line in history(whole)]
    trained = [{name for name in ("inter", "intra", "local") if row[header.index(name)] != "nan"} for row in rows]
    assert trained == [{"local"}, {"inter", "intra"}, {"inter", "intra"}]
    assert from_preset(whole / "best").training_stage == "global"


@pytest.mark.parametrize(
    "override, message",
    [
        ("run.stages=[{stage: local, epochs: 2}]", "add up to 2, not to epochs: 3"),
        ("run.stages=[{stage: lokal, epochs: 3}]", "unknown stage 'lokal'; did you mean 'local'?"),
        ("run.patience=2", "run.patience: a run of stages has fixed lengths; remove the key, or run.stages."),
    ],
)
def test_wrong_stages(override, message, tmp_path):
    recipe = tmp_path / "staged.yaml"
    recipe.write_text(STAGED)
    with pytest.raises(RecipeError, match=re.escape(message)):
        train(recipe, [override], run_dir=tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()


def test_a_method_without_stages(recipe, tmp_path):
    with pytest.raises(RecipeError, match="'cusa' has no training stages; remove the key"):
        train(recipe, ["run.stages=[{stage: local, epochs: 3}]"], run_dir=tmp_path / "run", verbose=False)


def check_resume(stop, recipe, whole, tmp_path, monkeypatch):
    seen = []

    class Killer(ResumeState):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            seen.append(batch)
            if len(seen) == stop:
                raise Killed

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if stop == "epoch":
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "ResumeState", Killer)
        with pytest.raises(Killed):
            train(recipe, EVERY, run_dir=tmp_path / "cut", verbose=False)
    train(recipe, EVERY, run_dir=tmp_path / "cut", verbose=False)
    assert history(tmp_path / "cut") == history(whole)
    expected, cut = state(whole), state(tmp_path / "cut")
    assert [key.split("/", 1)[0] for key in expected] == [key.split("/", 1)[0] for key in cut]
    for one, other in zip(expected.values(), cut.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "cut/metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_a_kill_while_writing_leaves_the_last_state(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "save_report", lambda *_: None)
    train(recipe, ["run.epochs=1"], run_dir=tmp_path / "run", verbose=False)
    before = state(tmp_path / "run")
    (tmp_path / "run/state.writing.npz").write_bytes(b"half a file")
    (tmp_path / "run/state.npz").rename(tmp_path / "run/state.previous.npz")
    reader = ResumeState(tmp_path / "run/state.npz", {}, {})
    assert reader.read() and list(reader.restored) == list(before)


def test_another_recipe_does_not_go_on_in_the_same_folder(recipe, tmp_path):
    train(recipe, ["run.epochs=1"], run_dir=tmp_path / "run", verbose=False)
    (tmp_path / "run/metrics.json").unlink()
    with pytest.raises(RecipeError, match="holds a run with another recipe"):
        train(recipe, ["run.epochs=2"], run_dir=tmp_path / "run", verbose=False)
    train(recipe, ["run.epochs=2"], run_dir=tmp_path / "run", overwrite=True, verbose=False)
    assert len(history(tmp_path / "run")) == 3


def test_nothing_but_a_run_is_ever_deleted(recipe, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for keywords in ({"overwrite": True}, {"smoke": True}, {}):
        with pytest.raises(RecipeError, match="holds files, but no run"):
            train(recipe, run_dir=precious, verbose=False, **keywords)
    assert (precious / "thesis.txt").read_text() == "years of work"
    train(recipe, ["run.epochs=1"], run_dir=tmp_path / "run", verbose=False)
    with pytest.raises(RecipeError, match="unknown metric"):
        train(recipe, ["run.monitor=rsun"], run_dir=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/metrics.json").exists()


def test_patience_stops_and_the_best_epoch_is_kept(recipe, tmp_path, monkeypatch):
    values = iter([3.0, 5.0, 4.0, 4.5, 9.0])
    monkeypatch.setattr("keras_itr.training.retrieval_validation.evaluate", lambda *_, **__: {"rsum": next(values)})
    train(recipe, ["run.epochs=5", "run.patience=2"], run_dir=tmp_path / "run", verbose=False)
    assert len(history(tmp_path / "run")) == 1 + 4
    with np.load(tmp_path / "run/state.npz", allow_pickle=False) as stored:
        position = json.loads(str(stored["meta"]))["run"]
    assert (position["best"], position["best_epoch"], position["waited"]) == (5.0, 2, 2)


def test_epochs_without_validation_keep_their_columns(recipe, tmp_path):
    train(recipe, ["run.validation_every=2"], run_dir=tmp_path / "run", verbose=False)
    header, *rows = history(tmp_path / "run")
    column = header.split(",").index("val_rsum")
    shown = [row.split(",")[column] for row in rows]
    assert shown[0] == "nan" and shown[1] != "nan" and shown[2] != "nan"
    assert "val_checked_t2i_r10" in header.split(",") and all(row.count(",") == header.count(",") for row in rows)


def test_mixed_precision_trains_and_is_undone(recipe, tmp_path):
    train(recipe, ["run.epochs=1", "run.mixed_precision=mixed_bfloat16"], run_dir=tmp_path / "run", verbose=False)
    assert keras.config.dtype_policy().name == "float32"
    assert from_preset(tmp_path / "run/best").embed_texts(["a"]).dtype == np.float32


def test_a_missing_extra_and_an_unknown_monitor_fail_before_work(recipe, tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "tensorboard":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match=r"keras-itr\[tensorboard\]"):
        train(recipe, ["run.tensorboard=true"], run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="did you mean 'checked_rsum'"):
        train(recipe, ["run.monitor=cheked_rsum"], run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


ALL = sorted(Path(__file__).parent.parent.parent.glob("recipes/*.yaml"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    from keras_itr.training import default_registries, load_recipe

    recipe = load_recipe(path, registries=default_registries())
    assert path.stem.startswith(f"{recipe.model.method}_")
