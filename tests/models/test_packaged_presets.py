import numpy as np
import pytest
from support import FIXTURES

from keras_itr.data import load_shapes
from keras_itr.evaluation import evaluate
from keras_itr.models import CUSA, from_preset, list_presets

CAPTIONS = ["a red circle left of a blue square", "a small hollow heart", "", "ein grünes Dreieck"]


def test_cusa_shapes_gives_the_same_vectors_on_every_backend():
    """The reference was computed once, under tensorflow."""
    model = from_preset("cusa_shapes", load_weights=True)
    assert type(model) is CUSA
    images = load_shapes("test", num_scenes=10).image_columns["images"]
    with np.load(FIXTURES / "presets" / "cusa_shapes.npz", allow_pickle=False) as expected:
        for key, actual in (
            ("images", model.embed_images(images)),
            ("images_uni", model.embed_images(list(images), cross_modal=False)),
            ("texts", model.embed_texts(CAPTIONS)),
            ("texts_uni", model.embed_texts(CAPTIONS, cross_modal=False)),
        ):
            np.testing.assert_allclose(actual, expected[key], atol=1e-5, err_msg=key)


def test_cusa_shapes_finds_true_scenes():
    metrics = evaluate(from_preset("cusa_shapes"), load_shapes("test"), verbose=False)
    assert metrics["checked_t2i_r1"] > 20 * metrics["chance_checked_t2i_r1"]
    assert metrics["checked_t2i_r10"] > 9 * metrics["chance_checked_t2i_r10"]


def test_the_package_stays_small():
    from keras_itr.models.from_preset import PACKAGED

    for name in list_presets():
        size = sum(file.stat().st_size for file in (PACKAGED / name).rglob("*") if file.is_file())
        assert size < 2 * 2**20, name


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_is_named_after_its_recipe(name):
    from keras_itr.training import default_registries, load_recipe

    recipe = load_recipe(FIXTURES.parent.parent / "recipes" / f"{name}.yaml", registries=default_registries())
    assert type(from_preset(name)).__name__.lower() == recipe.model.method
