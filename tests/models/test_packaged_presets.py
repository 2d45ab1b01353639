import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from preset_support import ARCHITECTURES, CAPTIONS, RECIPES, TRAINED, small_preset, two_images
from support import FIXTURES

from keras_itr.data import load_shapes
from keras_itr.evaluation import evaluate
from keras_itr.models import CODER, CUSA, from_preset, list_presets, preset_table
from keras_itr.models.preset_index import PACKAGED, read_index
from keras_itr.training import default_registries, load_recipe
from keras_itr.training.builders import build_model
from keras_itr.training.packaged_presets import build_architecture, count_parameters, measure_preset
from keras_itr.training.registries import METHODS

INDEX = read_index()
# Momentum twins take ten seconds to copy in full size.
SLOW_TO_BUILD = ("aai", "coder")


def serialized(model):
    """What `save_to_preset` writes of a model, without weights."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    return _without(config, ("build_config", "compile_config"))


def _without(config, keys):
    if not isinstance(config, dict):
        return config
    return {key: _without(value, keys) for key, value in config.items() if key not in keys}


def saved(name):
    return json.loads((PACKAGED / name / "task.json").read_text(encoding="utf-8"))


def recipe_of(name):
    entry = INDEX[name]
    return load_recipe(RECIPES / entry["recipe"], entry["overrides"], registries=default_registries())


def test_every_method_and_data_set_has_its_preset():
    names = {f"{method}_{data}" for method in METHODS for data in ("f30k", "coco")}
    assert set(ARCHITECTURES) == names and set(TRAINED) <= {f"{method}_shapes" for method in METHODS}


def test_the_list_says_what_each_one_is():
    listed = list_presets()
    assert type(listed) is dict and list(listed) == list(INDEX)
    assert "Method: ascl. Parameters: " in listed["ascl_coco"] and listed["ascl_coco"].endswith("Weights: no.")
    assert listed["cusa_shapes"].endswith("Weights: yes.")
    lines = preset_table().splitlines()
    assert len(lines) == len(INDEX) + 1 and lines[0].split()[:4] == ["name", "method", "parameters", "weights"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_builds_in_small_sizes(name, tmp_path):
    model = from_preset(small_preset(name, tmp_path / name), load_weights=False)
    assert type(model) is METHODS[INDEX[name]["method"]]
    # The two data sets of a method differ in numbers alone.
    if name.endswith("f30k"):
        scores = model.score(two_images(model), CAPTIONS)
        assert scores.shape == (2, 2) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW_TO_BUILD) or "coco" in name else ())
        for name in ARCHITECTURES
    ],
)
def test_an_architecture_is_what_its_recipe_builds(name):
    keras.utils.clear_session()
    # Without a number being drawn.
    with keras.StatelessScope(initialize_variables=False):
        model = build_architecture(recipe_of(name))
    try:
        assert serialized(model) == saved(name)
        assert count_parameters(model) == INDEX[name]["parameters"]
    finally:
        keras.utils.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_builds_in_full_size(name):
    model = from_preset(name, load_weights=False)
    assert count_parameters(model) == INDEX[name]["parameters"]
    for vectors in (model.embed_images(two_images(model)), model.embed_texts(CAPTIONS)):
        assert np.isfinite(vectors).all() and len(vectors) == 2


@pytest.fixture(scope="module")
def shapes():
    return load_shapes("train")


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_preset_is_of_its_recipe(name, shapes):
    keras.utils.clear_session()
    model = build_model(recipe_of(name), shapes, default_registries())
    assert serialized(model) == saved(name)
    assert count_parameters(model) == INDEX[name]["parameters"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_preset_reproduces_its_recalls(name):
    model = from_preset(name, load_weights=True)
    assert type(model) is METHODS[INDEX[name]["method"]]
    expected, metrics = INDEX[name]["test"], measure_preset(model)
    for recall in expected:
        # One query of 200 images, or of 1000 captions, and the six together.
        one = {"i2t": 0.5, "t2i": 0.1}.get(recall[:3], 1.8)
        assert abs(metrics[recall] - expected[recall]) < one + 1e-4, recall
    # Chance is 0.5 and 5 percent both ways.
    assert min(expected["i2t_r1"], expected["t2i_r1"]) > 10 and min(expected["i2t_r10"], expected["t2i_r10"]) > 50


def test_cusa_shapes_gives_the_same_vectors_on_every_backend():
    """The reference was computed once, under tensorflow."""
    model = from_preset("cusa_shapes", load_weights=True)
    assert type(model) is CUSA
    images = load_shapes("test", num_scenes=10).image_columns["images"]
    captions = ["a red circle left of a blue square", "a small hollow heart", "", "ein grünes Dreieck"]
    with np.load(FIXTURES / "presets" / "cusa_shapes.npz", allow_pickle=False) as expected:
        for key, actual in (
            ("images", model.embed_images(images)),
            ("images_uni", model.embed_images(list(images), cross_modal=False)),
            ("texts", model.embed_texts(captions)),
            ("texts_uni", model.embed_texts(captions, cross_modal=False)),
        ):
            np.testing.assert_allclose(actual, expected[key], atol=1e-5, err_msg=key)


def test_cusa_shapes_finds_true_scenes():
    metrics = evaluate(from_preset("cusa_shapes"), load_shapes("test"), verbose=False)
    assert metrics["checked_t2i_r1"] > 20 * metrics["chance_checked_t2i_r1"]
    assert metrics["checked_t2i_r10"] > 9 * metrics["chance_checked_t2i_r10"]


def test_the_package_stays_small():
    for name in INDEX:
        sizes = {file: file.stat().st_size for file in (PACKAGED / name).rglob("*") if file.is_file()}
        # Without weights there is configuration alone: vocabularies are in the package once.
        assert sum(sizes.values()) < (2 * 2**20 if name in TRAINED else 40_000), name
        assert all(size < 10_000 for file, size in sizes.items() if "assets" in file.parts), name


def test_coder_takes_a_graph_before_it_trains(tmp_path):
    """An architecture knows the size of the graph alone."""
    directory = small_preset("coder_f30k", tmp_path / "coder")
    model = from_preset(directory, load_weights=False)
    model.compile(optimizer="sgd")
    inputs = {**two_images(model), "text": CAPTIONS, "image_id": np.arange(2, dtype="int32")}
    with pytest.raises(ValueError, match="graph of 300 concepts is still empty"):
        model.fit(inputs, batch_size=2, verbose=0)
    graph = {"embeddings": np.ones((5, 3)), "propagation": np.eye(5)}
    model = from_preset(directory, load_weights=False, graph=graph)
    assert isinstance(model, CODER) and model.graph == (5, 3)


BASE = """
import sys, keras_itr.models as models
for folder in sys.argv[1:]:
    print(type(models.ImageTextRetriever.from_preset(folder, load_weights=False)).__name__)
    print(type(models.from_preset(folder, load_weights=False)).__name__)
"""


def test_the_base_class_loads_the_class_that_was_saved_whatever_the_hash_seed(tmp_path):
    folders = [small_preset(f"{method}_f30k", tmp_path / method) for method in ("vse_infinity", "aai", "ascl")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BASE, *map(str, folders)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PACKAGED.parent.parent)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert output.split() == ["VSEInfinity", "VSEInfinity", "AAI", "AAI", "AsCL", "AsCL"]
