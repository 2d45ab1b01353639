import shutil

import numpy as np
import pytest
from preset_support import small_preset
from support import region_backbone, region_data

from keras_itr.models import CLIP, CUSA, ImageTextRetriever, SoftLabelAlignment, from_preset


@pytest.fixture
def saved(tmp_path):
    CUSA(region_backbone(), csa_weight=0.3).save_to_preset(tmp_path / "trained")
    shutil.copytree(tmp_path / "trained", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*.weights.h5"):
        file.unlink()
    return tmp_path


def test_overrides_replace_saved_arguments(saved):
    assert from_preset(saved / "trained").csa_weight == 0.3
    assert from_preset(saved / "trained", contrastive_scale="infonce").contrastive_scale == "infonce"


def test_without_weights_it_warns_and_is_guarded_until_trained(saved, tmp_path):
    with pytest.warns(UserWarning, match="built without weights"):
        model = from_preset(saved / "bare")
    for use in (
        lambda: model.embed_images(region_data(4)),
        lambda: model.score(region_data(4), region_data(4)),
        lambda: model.save_to_preset(tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match="without weights"):
            use()
    model.compile(optimizer="sgd")
    model.fit(region_data(4), batch_size=4, verbose=0)
    assert np.isfinite(model.embed_images(region_data(4))).all()


def test_true_makes_missing_weights_an_error_and_false_lifts_the_guard(saved):
    with pytest.raises(ValueError, match="has no weights"):
        from_preset(saved / "bare", load_weights=True)
    assert from_preset(saved / "bare", load_weights=False).embed_images(region_data(4)).shape == (4, 8)


def test_a_home_directory_supplies_the_weights_of_a_name(saved, monkeypatch):
    home = saved / "home"
    shutil.copytree(saved / "trained", home / "presets" / "cusa_shapes")
    monkeypatch.setenv("KERAS_ITR_HOME", str(home))
    assert from_preset("cusa_shapes").csa_weight == 0.3


def test_the_class_is_the_saved_one_whatever_shares_its_backbone(tmp_path):
    CLIP(region_backbone()).save_to_preset(tmp_path / "clip")
    CUSA(region_backbone()).save_to_preset(tmp_path / "cusa")
    assert type(from_preset(tmp_path / "clip")) is CLIP and type(from_preset(tmp_path / "cusa")) is CUSA


def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="nearest: cusa_shapes"):
        from_preset("cusa_shaps")
    with pytest.raises(ValueError, match=r"no config\.json"):
        from_preset(tmp_path)


def test_the_warning_names_the_commands(tmp_path, monkeypatch):
    # A copy in small sizes stands for the named one.
    small_preset("cusa_coco", tmp_path / "cusa_coco")
    monkeypatch.setattr("keras_itr.models.preset_index.PACKAGED", tmp_path)
    monkeypatch.setenv("KERAS_ITR_HOME", str(tmp_path / "home"))
    with pytest.warns(UserWarning) as warned:
        model = from_preset("cusa_coco")
    message = str(warned[0].message)
    assert "python tools/train.py recipes/cusa_coco.yaml --data_dir DATA" in message
    assert f"python tools/convert.py CHECKPOINT {tmp_path / 'home/presets/cusa_coco'} --allow_pickle" in message
    with pytest.raises(ValueError, match="embed_texts: preset 'cusa_coco' was built without weights"):
        model.embed_texts(["a dog"])
    with pytest.raises(ValueError, match=r"'vse_infinity_f30k' has no weights .*recipes/vse_infinity_f30k\.yaml"):
        from_preset("vse_infinity_f30k", load_weights=True)


def test_a_plug_in_goes_on_the_weights_of_a_preset():
    plain, plugged = from_preset("clip_shapes"), from_preset("clip_shapes", plugins=(SoftLabelAlignment(),))
    assert [plugin.name for plugin in plugged.plugins] and set(plugged.term_weights) == {"itc", "csa", "usa"}
    captions = ["a red circle", "a blue square"]
    np.testing.assert_array_equal(plain.embed_texts(captions), plugged.embed_texts(captions))
    assert plugged.embed_texts(captions, cross_modal=False).shape == (2, 96)
    for wrong in (SoftLabelAlignment(), ("soft_label_alignment",)):
        with pytest.raises(ValueError, match="plugins must be a tuple such as"):
            from_preset("clip_shapes", plugins=wrong)
    with pytest.raises(ValueError, match="preset 'clip_coco' has no weights; train them, in a clone of the project"):
        ImageTextRetriever.from_preset("clip_coco")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"teacher_temperature": 0}, "teacher_temperature must be a number above 0, received 0"),
        ({"csa_weight": -1}, "csa_weight must be a number of at least 0, received -1"),
        ({"usa_weight": "a"}, "usa_weight must be a number of at least 0, received 'a'"),
        ({"csa_temperature": 0.1}, "csa_temperature must be three numbers"),
        ({"usa_temperature": (1, 2)}, "usa_temperature must be three numbers"),
    ],
)
def test_impossible_plug_ins(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftLabelAlignment(**arguments)
