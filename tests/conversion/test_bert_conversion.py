import json

import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.models import from_preset

IDS = np.array([[2, 4, 5, 6, 9, 3], [2, 7, 10, 8, 3, 0], [2, 8, 3, 0, 0, 0]], "int32")


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def reference(model, pooling="mean"):
    """Unit sentence vectors of `IDS` by the source library."""
    torch = sources.torch()
    mask = torch.from_numpy((IDS > 0).astype("int64"))
    hidden = model(torch.from_numpy(IDS.astype("int64")), attention_mask=mask).last_hidden_state
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == "mean":
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    else:
        pooled = hidden.masked_fill(mask[:, :, None] == 0, -1e9).max(1).values
    return torch.nn.functional.normalize(pooled, dim=1).detach().numpy()


@pytest.mark.parametrize("form", ["old", "new"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_sentence_vectors_are_those_of_the_source_library(pooling, form, tmp_path):
    source = sources.bert(tmp_path / "source", pooling=pooling)
    if form == "new":  # as sentence-transformers 6 writes it
        config = {"embedding_dimension": 16, "pooling_mode": pooling}
        (tmp_path / "source/1_Pooling/config.json").write_text(json.dumps(config))
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(numpy(model.preprocessor.tokenizer(sources.CAPTIONS))[:, :6], IDS)
    np.testing.assert_allclose(model.embed_texts(sources.CAPTIONS), reference(source, pooling), atol=1e-5)
    # Ready vectors of images in the same space, where there are any.
    assert model.embed_images({"regions": np.ones((2, 1, 16), "float32")}).shape == (2, 16)


def test_the_exact_gelu_is_taken_where_the_source_has_it(tmp_path):
    source = sources.bert(tmp_path / "source", hidden_act="gelu_pytorch_tanh")
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert model.backbone.text_tower.activation == "gelu_approximate"
    np.testing.assert_allclose(model.embed_texts(sources.CAPTIONS), reference(source), atol=1e-5)


def test_what_is_left_out_is_reported(tmp_path, capsys):
    sources.bert(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", sequence_length=8)
    report = json.loads((tmp_path / "preset/conversion.json").read_text())
    assert report["kind"] == "bert" and set(report["left_out"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert "left out pooler.dense.bias: the layer behind [CLS]" in capsys.readouterr().out
    assert from_preset(tmp_path / "preset").backbone.text_tower.sequence_length == 8


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": [{"type": "sentence_transformers.models.Dense"}]}, "modules.json has a Dense layer"),
        ({"1_Pooling/config.json": {"pooling_mode_mean_sqrt_len_tokens": True}}, "asks for mean_sqrt_len; the pooling"),
        ({"1_Pooling/config.json": {"pooling_mode": "lasttoken"}}, "asks for lasttoken; .* one of cls, max, mean"),
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}, "asks for cls and mean; .* one alone"),
        ({"1_Pooling/config.json": {"pooling_mode": "mean+cls"}}, "asks for mean and cls"),
        ({"1_Pooling/config.json": {"embedding_dimension": 16}}, "asks for no pooling at all"),
        ({"config.json": {"hidden_act": "relu"}}, "hidden_act must be 'gelu' or .*, received 'relu'"),
        (
            {"sentence_bert_config.json": {"max_seq_length": 64}},
            r"_config\.json: max_seq_length .* 20 positions, and is 64",
        ),
    ],
)
def test_what_cannot_be_converted_is_said(files, message, tmp_path):
    sources.bert(tmp_path / "source")
    for name, content in files.items():
        (tmp_path / "source" / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert not (tmp_path / "preset").exists()


def test_a_relative_with_the_same_names_is_not_taken_for_it(tmp_path):
    sources.bert(tmp_path / "source")
    path = tmp_path / "source/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "roberta"}))
    with pytest.raises(ValueError, match=r"not one of cusa, .* by model_type 'roberta' and its tensors"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    with pytest.raises(ValueError, match="no kind of checkpoint is called 'brt'; did you mean 'bert'"):
        convert(tmp_path / "source", tmp_path / "preset", kind="brt", verbose=False)


def test_a_vocabulary_is_needed_and_must_fit(tmp_path):
    sources.bert(tmp_path / "source")
    vocabulary = tmp_path / "source/vocab.txt"
    vocabulary.write_text("\n".join(sources.PIECES[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"has 11 token ids, .*vocab\.txt has 10 pieces"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    vocabulary.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no such file, and no tokenizer\.json; name the vocab\.txt of 11 pieces as vocabulary"
    ):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)


def test_a_lone_file_does_not_say_its_heads(tmp_path):
    source = sources.bert(tmp_path / "source")
    path = tmp_path / "source/config.json"
    with pytest.raises(ValueError, match=r"its config\.json says 4 heads, num_heads 2; leave num_heads out"):
        convert(tmp_path / "source", tmp_path / "preset", num_heads=2, verbose=False)
    path.unlink()
    with pytest.raises(ValueError, match=r"nothing says how many attention heads .* 16 is .* \(--num_heads\)"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    with pytest.raises(ValueError, match="num_heads must cut the width 16 evenly, received 3"):
        convert(tmp_path / "source", tmp_path / "preset", num_heads=3, verbose=False)
    model = convert(tmp_path / "source/model.safetensors", tmp_path / "preset", num_heads=4, verbose=False)
    np.testing.assert_allclose(model.embed_texts(sources.CAPTIONS), reference(source), atol=1e-5)


def test_a_folder_of_transformers_5_has_its_pieces_in_tokenizer_json(tmp_path):
    source = sources.bert(tmp_path / "source")
    (tmp_path / "source/vocab.txt").unlink()
    pieces = {piece: number for number, piece in reversed(list(enumerate(sources.PIECES)))}
    whole = {"model": {"type": "WordPiece", "vocab": pieces}, "normalizer": {"lowercase": True}}
    (tmp_path / "source/tokenizer.json").write_text(json.dumps(whole))
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert model.preprocessor.tokenizer.get_vocabulary() == sources.PIECES
    np.testing.assert_allclose(model.embed_texts(sources.CAPTIONS), reference(source), atol=1e-5)
    whole["model"]["vocab"] = {**pieces, "red": 11}
    (tmp_path / "source/tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"tokenizer\.json: the ids of its pieces must be 0, 1, 2"):
        convert(tmp_path / "source", tmp_path / "other", verbose=False)


@pytest.mark.parametrize(("stated", "length"), [(8, 8), (1e30, 20), (64, 20), (None, 20)])
def test_the_length_is_that_of_the_tokenizer_where_the_encoder_has_none(stated, length, tmp_path):
    sources.bert(tmp_path / "source")
    (tmp_path / "source/tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert model.backbone.text_tower.sequence_length == length


@pytest.mark.parametrize("length", [0, -1, 2, 21])
def test_a_length_must_fit(length, tmp_path):
    sources.bert(tmp_path / "source")
    with pytest.raises(ValueError, match=f"sequence_length is at most 20, .* at least 3 .* received {length}"):
        convert(tmp_path / "source", tmp_path / "preset", sequence_length=length, verbose=False)


def test_a_vocabulary_of_windows(tmp_path):
    sources.bert(tmp_path / "source")
    (tmp_path / "source/vocab.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(sources.PIECES).encode() + b"\r\n")
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert model.preprocessor.tokenizer.get_vocabulary() == sources.PIECES
