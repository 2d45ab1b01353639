import argparse
import json

import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.models import CUSA, VSEInfinity, from_preset

IDS = np.array([[2, 4, 5, 6, 9, 3], [2, 7, 10, 8, 3, 0], [2, 8, 3, 0, 0, 0]], "int32")


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


class Pooling:
    """The generalized pooling of the official code, for sets without padding."""

    def __init__(self, seed):
        nn = sources.torch().nn
        self.gru = sources.vary(nn.GRU(32, 32, 1, batch_first=True, bidirectional=True), seed)
        self.linear = sources.vary(nn.Linear(32, 1, bias=False), seed)

    def state(self, prefix):
        parts = {"gru": self.gru, "linear": self.linear}
        return {f"{prefix}{part}.{name}": x for part, layer in parts.items() for name, x in layer.state_dict().items()}

    def __call__(self, features):
        torch = sources.torch()
        count = features.shape[0]
        angles = torch.arange(count)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-np.log(10000.0) / 32))
        codes = torch.stack([angles.sin(), angles.cos()], -1).reshape(1, count, 32).float()
        forward, backward = self.gru(codes)[0][0].chunk(2, -1)
        weights = torch.softmax(self.linear((forward + backward) / 2) / 0.1, 0)
        return (features.sort(0, descending=True)[0] * weights).sum(0)


def vse_infinity(path, **extra):
    """An official checkpoint of small sizes, and functions for its two embeddings."""
    torch = sources.torch()
    bert = sources.bert(None, hidden_size=64, num_attention_heads=1)
    layers = {
        "fc": torch.nn.Linear(6, 10),
        "mlp.layers.0": torch.nn.Linear(6, 5),
        "mlp.layers.1": torch.nn.Linear(5, 10),
        "mlp.bns.0": torch.nn.BatchNorm1d(5),
        "mlp.bns.1": torch.nn.BatchNorm1d(10),
        "linear": torch.nn.Linear(64, 10),
    }
    layers = {name: sources.vary(layer, seed) for seed, (name, layer) in enumerate(layers.items())}
    layers["mlp.bns.0"].running_mean += 0.3
    layers["mlp.bns.0"].running_var *= 2.5
    pool_images, pool_texts = Pooling(1), Pooling(2)
    image = {f"{name}.{key}": x for name, layer in layers.items() for key, x in layer.state_dict().items()}
    text = {key: image.pop(key) for key in ("linear.weight", "linear.bias")}
    text.update({f"bert.{name}": tensor for name, tensor in bert.state_dict().items()})
    image.update(pool_images.state("gpool."))
    text.update(pool_texts.state("gpool."))
    options = argparse.Namespace(embed_size=10, margin=0.2)
    torch.save({"epoch": 3, "model": [image, text], "opt": options, "best_rsum": np.float64(1.5), **extra}, path)

    def embed_image(regions):
        x = torch.from_numpy(regions)
        hidden = torch.relu(layers["mlp.bns.0"](layers["mlp.layers.0"](x)))
        return pool_images(layers["fc"](x) + layers["mlp.layers.1"](hidden))

    def embed_text(ids):
        ids = torch.from_numpy(ids[ids > 0][None].astype("int64"))
        return pool_texts(layers["linear"](bert(ids).last_hidden_state[0]))

    return embed_image, embed_text


def unit(vector):
    vector = vector.detach().numpy()
    return vector / np.linalg.norm(vector)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(sources.PIECES) + "\n")
    return path


def test_vse_infinity(tmp_path, vocabulary):
    path = tmp_path / "model_best.pth"
    embed_image, embed_text = vse_infinity(path)
    options = {"vocabulary": vocabulary, "sequence_length": 20, "allow_pickle": True, "verbose": False}
    convert(path, tmp_path / "preset", **options)
    model = from_preset(tmp_path / "preset")
    assert type(model) is VSEInfinity
    regions = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    expected = [unit(embed_image(rows)) for rows in regions]
    np.testing.assert_allclose(model.embed_images({"regions": regions}), expected, atol=1e-5)
    expected = [unit(embed_text(row)) for row in IDS]
    np.testing.assert_allclose(model.embed_texts(sources.CAPTIONS), expected, atol=1e-5)
    left_out = json.loads((tmp_path / "preset/conversion.json").read_text())["left_out"]
    assert left_out["model.0.mlp.bns.1.weight"] == "never used by the official code"


def test_a_pickle_needs_to_be_allowed(tmp_path, vocabulary):
    path = tmp_path / "model_best.pth"
    vse_infinity(path)
    with pytest.raises(ValueError, match="a PyTorch file is a pickle, which may run code; pass allow_pickle"):
        convert(path, tmp_path / "preset", vocabulary=vocabulary, verbose=False)


class Trap:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_runs_code_is_not_read(tmp_path, vocabulary, capsys):
    path = tmp_path / "model_best.pth"
    vse_infinity(path, trap=Trap())
    with pytest.raises(ValueError, match=r"torch\.load\(weights_only=True\) cannot read it"):
        convert(path, tmp_path / "preset", vocabulary=vocabulary, allow_pickle=True, verbose=False)
    assert "run" not in capsys.readouterr().out


def test_a_network_on_pixels_is_refused(tmp_path, vocabulary):
    torch = sources.torch()
    path = tmp_path / "grid.pth"
    image = {"backbone.0.weight": torch.zeros(2), "image_encoder.gpool.linear.weight": torch.zeros(1, 32)}
    torch.save({"model": [image, {"gpool.linear.weight": torch.zeros(1, 32)}]}, path)
    with pytest.raises(ValueError, match="its image encoder is a network on pixels; only region features"):
        convert(path, tmp_path / "preset", kind="vse_infinity", allow_pickle=True, verbose=False)


HEADS = {"cross": ("image", "text"), "uni": ("image", "text")}


def cusa(folder, uni=True, **changes):
    """An official checkpoint over the CLIP of `folder`, and its heads."""
    torch = sources.torch()
    from safetensors.torch import load_file

    state = sources.openai_names(load_file(folder / "model.safetensors"))
    state = {f"clip_model.{name}": tensor for name, tensor in state.items()}
    heads = {}
    for seed, (branch, side) in enumerate((b, s) for b in HEADS if uni or b == "cross" for s in HEADS[b]):
        head = torch.nn.Sequential(torch.nn.LayerNorm(24), torch.nn.Linear(24, 24))
        heads[branch, side] = sources.vary(head, seed)
        for name, part in zip((f"ln_{branch}_{side}", f"{branch}_{side}"), head, strict=True):
            state.update({f"{name}_projection.{key}": tensor for key, tensor in part.state_dict().items()})
    numbers = {"tau": 0.02, "cross_tau": 0.3, "cross_the_softlabel_tau": 0.9}
    if uni:
        numbers |= {"uni_tau_image": 0.4, "uni_tau_text": 0.6, "uni_the_softlabel_tau": 0.9}
    state.update({name: torch.tensor(number) for name, number in numbers.items()})
    state.update(changes)
    path = folder / "checkpoint_best.pth"
    torch.save({"model": state, "config": {"clip_model": "ViT-B/32"}, "epoch": 7, "best": 80.1}, path)
    return path, heads


def test_cusa(tmp_path):
    (tmp_path / "source").mkdir()
    sources.hugging_face_clip(tmp_path / "source")
    path, heads = cusa(tmp_path / "source")
    convert(path, tmp_path / "preset", allow_pickle=True, verbose=False)
    model = from_preset(tmp_path / "preset")
    assert type(model) is CUSA and model.preprocessor.tokenizer.cleaning == "cusa"
    images, ids = sources.pixels(2, 32), np.array([[516, 513, 5, 517], [516, 515, 513, 517]], "int32")
    features = model.backbone({"images": images, "token_ids": ids})
    for side, embed, x in (
        ("image", model.embed_images, {"images": images}),
        ("text", model.embed_texts, {"token_ids": ids, "padding_mask": np.ones_like(ids, bool)}),
    ):
        clip = sources.torch().from_numpy(np.array(numpy(features[f"{side}_global"])))
        for branch in HEADS:
            expected = sources.torch().nn.functional.normalize(heads[branch, side](clip), dim=1).detach().numpy()
            np.testing.assert_allclose(embed(x, cross_modal=branch == "cross"), expected, atol=1e-5)
    temperatures = (model.tau_itc, model.alignment.tau_csa, model.alignment.tau_usa_image, model.alignment.tau_usa_text)
    np.testing.assert_allclose([numpy(layer()) for layer in temperatures], [0.02, 0.3, 0.4, 0.6], rtol=1e-6)
    assert abs(model.teacher_temperature - 0.9) < 1e-6


def test_cusa_without_the_uni_modal_term(tmp_path):
    (tmp_path / "source").mkdir()
    sources.hugging_face_clip(tmp_path / "source")
    path, _ = cusa(tmp_path / "source", uni=False)
    model = convert(path, tmp_path / "preset", allow_pickle=True, verbose=False)
    assert model.usa_weight == 0 and model.csa_weight == 0.1 and model.alignment.image_head is None
    notes = json.loads((tmp_path / "preset/conversion.json").read_text())["notes"]
    assert any("usa_weight is 0" in note for note in notes)


def test_cusa_of_another_form_names_what_has_no_place(tmp_path):
    (tmp_path / "source").mkdir()
    sources.hugging_face_clip(tmp_path / "source")
    path, _ = cusa(tmp_path / "source", extra_head=sources.torch().zeros(2))
    with pytest.raises(ValueError, match=r"1 not used: extra_head"):
        convert(path, tmp_path / "preset", allow_pickle=True, verbose=False)
