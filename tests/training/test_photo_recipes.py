import json

import numpy as np
import pytest
import tensorflow as tf

from keras_itr.models import from_preset
from keras_itr.training import RecipeError, evaluate_preset, train

RECIPE = """
model:
  method: clip
  embedding_dim: 8
  image_tower: {type: convolutional, filters: [4, 4], embedding_dim: 8}
  text_tower: {type: transformer, embedding_dim: 8, num_layers: 1, num_heads: 2}
  tokenizer: {type: word, sequence_length: 8}
  image_converter: {image_size: [16, 16]}
data:
  source: karpathy
  directory: own
  images: photos
  test: null
  random_crop: [0.6, 1.0]
  random_flip: true
  origin: Ask the owner of the photos.
run: {epochs: 2, batch_size: 4, learning_rate: 1.0e-3}
"""


@pytest.fixture
def recipe(tmp_path):
    random, images = np.random.default_rng(0), []
    (tmp_path / "own/photos").mkdir(parents=True)
    for index in range(8):
        name = f"{index}.jpg"
        pixels = random.integers(0, 256, (30, 20 + index, 3), dtype="uint8")
        (tmp_path / "own/photos" / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
        sentences = [{"raw": f"photo number {index}"}, {"raw": f"another caption of {index}"}]
        images.append({"filename": name, "split": "train" if index < 6 else "val", "sentences": sentences})
    (tmp_path / "own/dataset.json").write_text(json.dumps({"images": images}))
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE)
    return path


def run(recipe, *overrides, **options):
    folder = recipe.parent
    return train(recipe, overrides, data_dir=folder, run_dir=folder / "run", overwrite=True, **options)


def test_photos_train_evaluate_and_embed(recipe, capsys):
    metrics = run(recipe)
    assert "train: own/train: 6 images, 12 captions" in capsys.readouterr().out
    assert "skipped_images" not in metrics
    again = evaluate_preset(recipe.parent / "run/best", recipe, data_dir=recipe.parent)
    assert again == metrics
    model = from_preset(recipe.parent / "run/best")
    assert model.embed_images([recipe.parent / "own/photos/0.jpg"]).shape == (1, 8)


def test_the_cache_changes_no_result(recipe):
    plain = run(recipe, "data.shorter_side=18")
    cached = run(recipe, "data.shorter_side=18", "data.cache=cache")
    assert plain == cached
    assert len(list((recipe.parent / "cache").glob("*.npy"))) == 1


def test_a_broken_photo_stops_the_run_or_is_left_out_and_named(recipe, capsys):
    broken = [recipe.parent / "own/photos" / name for name in ("2.jpg", "7.jpg")]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.jpg is empty.*on_error: skip"):
        run(recipe)
    assert not (recipe.parent / "run").exists()
    metrics = run(recipe, "data.on_error=skip")
    assert metrics["skipped_images"] == 1  # one of them is of the evaluated split
    assert json.loads((recipe.parent / "run/metrics.json").read_text())["skipped_images"] == 1
    printed = capsys.readouterr().out
    assert "2 broken photos were left out" in printed and all(f"{path} is empty" in printed for path in broken)


def test_missing_data_says_what_is_expected_and_where_it_is_found(recipe):
    (recipe.parent / "own/dataset.json").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        run(recipe, "data.teacher_image='{split}_teacher.npy'")
    message = str(raised.value)
    assert all(part in message for part in ("dataset.json", "train_teacher.npy", "Ask the owner of the photos."))
    assert "\n" not in message and not (recipe.parent / "run").exists()


GRID = "model.image_tower={type: grid, network: MobileNetV2, arguments: {alpha: 0.35}, embedding_dim: 8, WEIGHTS}"


def test_weights_are_looked_for_first_and_lie_in_the_data_folder(recipe, monkeypatch):
    import keras

    override = GRID.replace("WEIGHTS", "weights: net.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"no such file; model\.image_tower\.weights .* Ask the owner"):
        run(recipe, override)
    network = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    network.save_weights(recipe.parent / "net.weights.h5")
    run(recipe, override, "model.image_converter.image_size=[32, 32]", "run.epochs=1")
    model = from_preset(recipe.parent / "run/best")
    kept = model.backbone.image_tower.grid_features.network
    for mine, given in zip(kept.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, given)
    # The scaling of the pixels follows from the network.
    np.testing.assert_allclose(model.preprocessor.image_converter.scale, 1 / 127.5, rtol=1e-6)
    np.testing.assert_allclose(model.preprocessor.image_converter.offset, -1.0, rtol=1e-6)


def test_a_monitor_of_known_truth_needs_such_data(recipe):
    with pytest.raises(RecipeError, match=r"checked_rsum.*use 'rsum'"):
        run(recipe, "run.monitor=checked_rsum")


@pytest.mark.parametrize("crop", ["[0.5]", "[0.0, 1.0]", "0.5", "[0.5, 0.7, 0.9]", "[0.9, 0.5]", "[0.5, 1.5]"])
def test_a_crop_is_two_positive_numbers(recipe, crop):
    with pytest.raises(RecipeError, match=r"data\.random_crop"):
        run(recipe, f"data.random_crop={crop}")
