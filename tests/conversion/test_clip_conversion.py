import json

import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.models import CLIP, from_preset

IDS = np.array([[516, 513, 5, 517, 0, 0], [516, 7, 0, 9, 515, 517]], "int32")


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def embeddings(model, images):
    """What the towers give before the unit length, for the two captions of `IDS`."""
    mask = np.cumsum(IDS == 517, axis=1) - (IDS == 517) == 0
    features = model.backbone({"images": images, "token_ids": IDS, "padding_mask": mask})
    return numpy(features["image_global"]), numpy(features["text_global"])


def reference(model, images):
    ids = sources.torch().from_numpy(IDS.astype("int64"))
    image = model.get_image_features(sources.channels_first(images))
    return sources.vectors(image), sources.vectors(model.get_text_features(ids))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_embeddings_are_those_of_the_source_library(activation, tmp_path):
    source = sources.hugging_face_clip(tmp_path / "source", activation)
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    images = sources.pixels(2, 32)
    for ours, theirs in zip(embeddings(model, images), reference(source, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert np.abs(theirs).max() > 0.1
    assert type(model) is CLIP
    np.testing.assert_allclose(1 / float(numpy(model.tau())), np.exp(source.logit_scale.item()), rtol=1e-5)


SIZES = {
    "vit_b_32": {"patch_size": 32},
    "vit_b_16": {"patch_size": 16},
    "vit_l_14": {"patch_size": 14},
    "vit_l_14_336": {"patch_size": 14, "image_size": 336},
}
LARGE_IMAGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_full_sizes(name, tmp_path):
    large = name.startswith("vit_l")
    torch, library = sources.torch(), sources.transformers()
    torch.manual_seed(0)
    source = library.CLIPModel(
        library.CLIPConfig(
            text_config={"eos_token_id": 49407, **(LARGE_TEXT if large else {})},
            vision_config={**SIZES[name], **(LARGE_IMAGE if large else {})},
            projection_dim=768 if large else 512,
        )
    ).eval()
    source.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    captions = ["a red circle left of a blue square", "Two dogs run, 3 cats don't!"]
    inputs = model.preprocessor({"text": captions})
    inputs["images"] = sources.pixels(2, SIZES[name].get("image_size", 224))
    features = model.backbone(inputs)
    with torch.no_grad():
        image = source.get_image_features(sources.channels_first(inputs["images"]))
        text = source.get_text_features(torch.from_numpy(np.array(numpy(inputs["token_ids"]), "int64")))
    for side, theirs in (("image", image), ("text", text)):
        ours, theirs = numpy(features[f"{side}_global"]), sources.vectors(theirs)
        print(f"{name} {keras.backend.backend()} {side}: largest difference {np.abs(ours - theirs).max():.2e}")
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_preset_takes_photos_and_captions(tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", sequence_length=8, verbose=False)
    model = from_preset(tmp_path / "preset")
    assert model.embed_texts(["Dog cat", "a dog"]).shape == (2, 24)
    assert model.embed_images([np.zeros((40, 60, 3), "uint8")]).shape == (1, 24)
    tokenizer, converter = model.preprocessor.tokenizer, model.preprocessor.image_converter
    np.testing.assert_array_equal(numpy(tokenizer("dog"))[:4], [516, 513, 517, 0])
    assert tokenizer.sequence_length == 8 and converter.interpolation == "bicubic" and converter.antialias
    black = numpy(converter(np.zeros((1, 32, 32, 3), "uint8")))[0, 0, 0]
    np.testing.assert_allclose(
        black, -np.array([0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711], rtol=1e-5
    )


@pytest.mark.parametrize("pickled", [False, True])
def test_openai_names_give_the_same_model(pickled, tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    from safetensors.torch import load_file, save_file

    state = sources.openai_names(load_file(tmp_path / "source/model.safetensors"))
    path = tmp_path / ("openai.pt" if pickled else "openai.safetensors")
    sources.torch().save(state, path) if pickled else save_file(state, path)
    merges = tmp_path / "source/merges.txt"
    model = convert(path, tmp_path / "preset", vocabulary=merges, allow_pickle=pickled, verbose=False)
    assert json.loads((tmp_path / "preset/conversion.json").read_text())["kind"] == "openai_clip"
    # OpenAI's files have no number of heads: one for each 64 of the width.
    assert model.backbone.image_tower.num_heads == 1
    weights = convert(tmp_path / "source", tmp_path / "other", verbose=False).backbone.get_weights()
    for ours, theirs in zip(model.backbone.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(np.ravel(ours), np.ravel(theirs))


def test_weights_by_openais_names_that_were_trained_with_another_activation(tmp_path, capsys):
    source = sources.hugging_face_clip(tmp_path / "source", "gelu")
    state = {"state_dict": {f"module.{name}": x for name, x in sources.openai_names(source.state_dict()).items()}}
    sources.torch().save(state, tmp_path / "trained.pt")
    options = {"vocabulary": tmp_path / "source/merges.txt", "allow_pickle": True}
    model = convert(tmp_path / "trained.pt", tmp_path / "preset", activation="gelu", verbose=False, **options)
    assert model.backbone.image_tower.activation == model.backbone.text_tower.activation == "gelu"
    model = convert(tmp_path / "trained.pt", tmp_path / "other", **options)
    assert model.backbone.image_tower.activation == "quick_gelu"
    assert "note: activation quick_gelu, as OpenAI's weights have it: the file does not say" in capsys.readouterr().out
    with pytest.raises(ValueError, match="says hidden_act 'gelu', activation 'quick_gelu'; leave activation out"):
        convert(tmp_path / "source", tmp_path / "third", activation="quick_gelu", verbose=False)


def test_a_lone_file_does_not_say_its_activation_and_its_heads(tmp_path, capsys):
    sources.hugging_face_clip(tmp_path / "source", "gelu")
    options = {"vocabulary": tmp_path / "source/merges.txt"}
    (tmp_path / "source/config.json").unlink()
    path = tmp_path / "source/model.safetensors"
    assert convert(path, tmp_path / "preset", **options).backbone.image_tower.activation == "quick_gelu"
    output = capsys.readouterr().out
    assert "activation quick_gelu, as OpenAI's" in output and "1 heads for images and 1 for texts" in output
    model = convert(path, tmp_path / "other", activation="gelu", verbose=False, **options)
    assert model.backbone.text_tower.activation == "gelu"


def test_shards_and_half_precision(tmp_path):
    sources.hugging_face_clip(tmp_path / "whole")
    sources.hugging_face_clip(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole = convert(tmp_path / "whole", tmp_path / "a", verbose=False).get_weights()
    for ours, theirs in zip(
        convert(tmp_path / "shards", tmp_path / "b", verbose=False).get_weights(), whole, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "whole/model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    for ours, theirs in zip(
        convert(tmp_path / "whole", tmp_path / "c", verbose=False).get_weights(), whole, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=1e-6)


def broken(tmp_path, change):
    """A source whose tensors `change` has altered."""
    sources.hugging_face_clip(tmp_path / "source")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "source/model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return tmp_path / "source"


def remove(state):
    del state["vision_model.encoder.layers.1.mlp.fc2.bias"]


def add(state):
    state["vision_model.adapter.weight"] = sources.torch().zeros(2)


def cut(state):
    name = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    state[name] = state[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"1 missing: vision_model\.encoder\.layers\.1\.mlp\.fc2\.bias"),
        (add, r"1 not used: vision_model\.adapter\.weight"),
        (cut, r"1 of another shape: text_model.*k_proj\.weight \(64, 63\), must be \(64, 64\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(change, message, tmp_path):
    source = broken(tmp_path, change)
    with pytest.raises(ValueError, match=message) as raised:
        convert(source, tmp_path / "preset", verbose=False)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_folders_that_are_there_are_kept(tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset/mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is there already; choose another folder, or pass overwrite"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert (tmp_path / "preset/mine.txt").read_text() == "kept"
    with pytest.raises(ValueError, match=r"overwrite replaces a preset alone, .* no conversion\.json"):
        convert(tmp_path / "source", tmp_path / "preset", overwrite=True, verbose=False)
    assert (tmp_path / "preset/mine.txt").read_text() == "kept"
    (tmp_path / "preset/mine.txt").unlink()
    convert(tmp_path / "source", tmp_path / "preset", sequence_length=8, verbose=False)
    convert(tmp_path / "source", tmp_path / "preset", overwrite=True, verbose=False)
    assert from_preset(tmp_path / "preset").preprocessor.tokenizer.sequence_length == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preset", "source"]


@pytest.mark.parametrize("target", ["source", "source/preset", ".", "link"])
def test_the_source_is_never_written_over(target, tmp_path):
    folder = tmp_path / "all/source"
    folder.mkdir(parents=True)
    # As if all of them were presets.
    for path in (folder.parent, folder):
        (path / "conversion.json").write_text('{"source": "", "kind": "", "tensors": 0}')
    (folder.parent / "link").symlink_to(folder)
    with pytest.raises(ValueError, match=r"a folder of its own, and .* is this folder, lies in it or holds it"):
        convert(folder, folder.parent / target, overwrite=True, verbose=False)
    assert (folder / "conversion.json").is_file()


def test_another_vocabulary_is_refused(tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    (tmp_path / "source/merges.txt").unlink()
    with pytest.raises(ValueError, match=r"the model has 518 token ids, OpenAI's merges make 49408"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    with pytest.raises(ValueError, match="sequence_length is at most 12"):
        convert(tmp_path / "source", tmp_path / "preset", sequence_length=13, verbose=False)


@pytest.mark.parametrize("join", [list, " ".join])
def test_a_folder_of_transformers_5_has_its_merges_and_pixels_in_other_files(join, tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    known = convert(tmp_path / "source", tmp_path / "known", verbose=False).preprocessor.tokenizer
    (tmp_path / "source/merges.txt").unlink()
    vocabulary = {piece: number for number, piece in enumerate(known.get_vocabulary())}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [join(pair.split()) for pair in sources.MERGES]}
    path = tmp_path / "source/tokenizer.json"
    path.write_text(json.dumps({"model": model}))
    pixels = {"image_mean": [0.0] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "source/processor_config.json").write_text(json.dumps({"image_processor": pixels}))
    preprocessor = convert(tmp_path / "source", tmp_path / "preset", verbose=False).preprocessor
    np.testing.assert_array_equal(numpy(preprocessor.tokenizer(["a dog"])), numpy(known(["a dog"])))
    white = numpy(preprocessor.image_converter(np.full((1, 32, 32, 3), 255, "uint8")))
    np.testing.assert_allclose(white, 2, rtol=1e-5)
    assert preprocessor.image_converter.interpolation == "bilinear"
    vocabulary["!"], vocabulary["a"] = vocabulary["a"], vocabulary["!"]
    path.write_text(json.dumps({"model": model}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: its pieces have other ids than CLIP's"):
        convert(tmp_path / "source", tmp_path / "other", verbose=False)


def test_a_vocabulary_of_another_tokenizer_is_named(tmp_path):
    sources.hugging_face_clip(tmp_path / "source")
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(sources.PIECES) + "\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: not the merges of CLIP \(A merge must be"):
        convert(tmp_path / "source", tmp_path / "preset", vocabulary=path, verbose=False)
