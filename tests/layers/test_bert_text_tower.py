import keras
import keras_hub
import numpy as np
import pytest
from support import draw, gradients

from keras_itr.layers import BertTextTower, MomentumTwin, RegionTower
from keras_itr.models import CLIP, DualEncoderBackbone, from_preset
from keras_itr.training import train

IDS = np.array([[2, 4, 5, 3, 0, 0], [2, 6, 7, 8, 9, 3]], "int32")
INPUTS = {"token_ids": IDS, "padding_mask": IDS > 0}
SIZES = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}


def tower(**kwargs):
    return BertTextTower(**{"vocabulary_size": 12, "sequence_length": 6, "embedding_dim": 10, **SIZES, **kwargs})


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A random BERT of keras-hub for inputs of up to 9 tokens, and the directory it was saved to."""
    bert = keras_hub.models.BertBackbone(12, **SIZES, max_sequence_length=9)
    directory = tmp_path_factory.mktemp("bert")
    bert.save_to_preset(str(directory))
    return bert, directory


def test_contract():
    ours = tower()
    assert ours.built and (ours.side, ours.input_key) == ("text", "token_ids")
    features = ours(INPUTS)
    assert numpy(features["pooled"]).shape == (2, ours.output_dim) == (2, 10)
    assert numpy(features["tokens"]).shape == (2, 6, ours.token_dim) == (2, 6, 10)
    np.testing.assert_array_equal(numpy(features["mask"]), IDS > 0)
    assert numpy(ours({"token_ids": IDS})["mask"]).all()


def test_the_projection_starts_like_the_official_code():
    kernel, bias = (np.abs(value) for value in tower(hidden_dim=100, embedding_dim=400).projection.get_weights())
    assert 0.099 < kernel.max() <= 0.1 and 0.097 < bias.max() <= 0.1
    assert abs(kernel.mean() - 0.05) < 0.001 and abs(bias.mean() - 0.05) < 0.005


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
def test_the_tokens_are_the_hidden_states_of_the_preset(hub, kind):
    bert, directory = hub
    ours = tower(weights=kind(directory), pooling="mean")
    hidden = numpy(bert({**INPUTS, "segment_ids": np.zeros_like(IDS)})["sequence_output"])
    kernel, bias = ours.projection.get_weights()
    tokens = hidden @ kernel + bias
    features = ours(INPUTS)
    np.testing.assert_allclose(numpy(features["tokens"]), tokens, atol=1e-5)
    # All valid tokens are pooled, [CLS] and [SEP] too.
    expected = [tokens[0, :4].mean(axis=0), tokens[1].mean(axis=0)]
    np.testing.assert_allclose(numpy(features["pooled"]), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["gpo", "mean", "max", "first"])
def test_padding_and_a_shorter_input_do_not_change_a_caption(pooling):
    ours = tower(pooling=pooling)
    whole = ours(INPUTS)
    other = ours({**INPUTS, "token_ids": np.where(IDS > 0, IDS, 7)})
    np.testing.assert_allclose(numpy(other["pooled"]), numpy(whole["pooled"]), atol=1e-6)
    short = ours({"token_ids": IDS[:1, :4], "padding_mask": IDS[:1, :4] > 0})
    np.testing.assert_allclose(numpy(short["pooled"])[0], numpy(whole["pooled"])[0], atol=1e-5)
    np.testing.assert_allclose(numpy(short["tokens"])[0], numpy(whole["tokens"])[0, :4], atol=1e-5)


def test_every_weight_has_a_gradient():
    ours = tower(dropout=0.0)
    variables = ours.trainable_variables
    cotangent = keras.ops.convert_to_tensor(draw(2, 10, seed=9))
    _, grads = gradients(lambda: keras.ops.sum(ours(INPUTS, training=True)["pooled"] * cotangent), variables=variables)
    idle = [v.path for v, g in zip(variables, grads, strict=True) if not np.abs(g).max() > 0]
    # A key bias shifts all logits of a softmax alike.
    assert not [path for path in idle if "key/bias" not in path], idle


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_the_last_layers_alone_are_trained(trained):
    ours = tower(trainable_layers=trained, dropout=0.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    for model in (ours, copy):
        parts = {variable.path.split("/")[0] for variable in model.trainable_variables}
        blocks = {f"transformer_layer_{number}" for number in range(2 - trained, 2)}
        assert parts == blocks | {"projection", "recurrence", "score"}
    shaken = tower(trainable_layers=trained, dropout=0.9)
    quiet, noisy = (numpy(shaken(INPUTS, training=training)["pooled"]) for training in (False, True))
    # A frozen encoder is not shaken either.
    assert (np.abs(quiet - noisy).max() < 1e-6) == (trained == 0)
    with pytest.raises(ValueError, match="trainable_layers must be from 0 to 2, received 3"):
        tower(trainable_layers=3)


def test_the_exact_gelu():
    assert tower().activation == "gelu_approximate"
    ours, exact = tower(intermediate_dim=400), tower(intermediate_dim=400, activation="gelu")
    exact.set_weights([4 * value for value in ours.get_weights()])
    ours.set_weights(exact.get_weights())
    difference = np.abs(numpy(ours(INPUTS)["pooled"]) - numpy(exact(INPUTS)["pooled"])).max()
    assert 1e-6 < difference < 1e-2
    copy = BertTextTower.from_config(exact.get_config())
    copy.set_weights(exact.get_weights())
    np.testing.assert_allclose(numpy(copy(INPUTS)["pooled"]), numpy(exact(INPUTS)["pooled"]), atol=1e-6)
    with pytest.raises(ValueError, match="activation must be 'gelu_approximate' or 'gelu', received 'relu'"):
        tower(activation="relu")


def test_dropout_is_of_training_alone():
    ours = tower(dropout=0.5)
    quiet, again, noisy = (numpy(ours(INPUTS, training=flag)["pooled"]) for flag in (False, False, True))
    np.testing.assert_array_equal(quiet, again)
    assert np.abs(noisy - quiet).max() > 1e-3


def test_the_configuration_makes_another_one_without_the_preset(hub):
    ours = tower(weights=hub[1], name="words")
    config = ours.get_config()
    assert config["weights"] is None
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert copy.get_config() == config and copy.name == "words"
    copy.set_weights(ours.get_weights())
    np.testing.assert_allclose(numpy(copy(INPUTS)["pooled"]), numpy(ours(INPUTS)["pooled"]), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(hub, policy):
    ours, exact = tower(dtype=policy, weights=hub[1]), tower(weights=hub[1])
    exact.set_weights(ours.get_weights())
    features = ours(INPUTS)
    assert keras.backend.standardize_dtype(features["tokens"].dtype) == policy.removeprefix("mixed_")
    assert all(weight.dtype == "float32" for weight in ours.weights)
    pooled = numpy(keras.ops.cast(features["pooled"], "float32"))
    np.testing.assert_allclose(pooled, numpy(exact(INPUTS)["pooled"]), atol=0.05)


def test_a_momentum_twin_follows_it(hub):
    ours = tower(weights=hub[1])
    twin = MomentumTwin(ours, momentum=0.75)
    before = numpy(ours(INPUTS)["pooled"])
    np.testing.assert_allclose(numpy(twin(INPUTS)["pooled"]), before, atol=1e-6)
    starts = ours.get_weights()
    for weight in ours.weights:
        weight.assign(keras.ops.convert_to_numpy(weight) + 0.1)
    np.testing.assert_allclose(numpy(twin(INPUTS)["pooled"]), before, atol=1e-6)
    twin.update()
    for start, own in zip(starts, twin.get_weights(), strict=True):
        np.testing.assert_allclose(own, start + 0.025, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocabulary_size": 13}, "vocabulary_size: preset has 12, tower has 13"),
        ({"num_layers": 3}, "num_layers: preset has 2, tower has 3"),
        ({"intermediate_dim": 16}, "intermediate_dim: preset has 12, tower has 16"),
        ({"sequence_length": 10}, "sequence_length: preset has 9, tower has 10"),
    ],
)
def test_weights_of_other_sizes_are_refused(hub, sizes, message):
    with pytest.raises(ValueError, match=rf"do not fit text_tower; {message}\.") as raised:
        tower(weights=hub[1], **sizes)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no Bert of keras-hub is called 'bert_base_uncased'.*bert_base_en_uncased"):
        tower(weights="bert_base_uncased")
    with pytest.raises(ValueError, match=r"could not be read \(.*no config.json.*BertBackbone\.save_to_preset wrote"):
        tower(weights=tmp_path)

    def fail(*args, **kwargs):
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr("kagglehub.model_download", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("keras_itr.hub_handles.hub_answers", lambda handle: True)
    for preset in ("bert_tiny_en_uncased", "kaggle://a/bert/keras/b", "hf://a/bert"):
        with pytest.raises(ValueError, match=rf"'{preset}' could not be fetched \(ConnectionError: Name") as raised:
            tower(weights=preset)
        assert "\n" not in str(raised.value)


def test_a_retriever_with_it_trains_and_is_saved(hub, tmp_path):
    model = CLIP(DualEncoderBackbone(RegionTower(6, 10), tower(weights=hub[1])))
    model.compile(optimizer="adam")
    data = {"regions": draw(4, 3, 6), "image_id": np.arange(4, dtype="int32")}
    data |= {key: np.concatenate([value, value[::-1]]) for key, value in INPUTS.items()}
    start = model.embed_texts(INPUTS)
    before = model.backbone.text_tower.encoder.get_weights()
    model.fit(data, batch_size=4, verbose=0)
    after = model.backbone.text_tower.encoder.get_weights()
    assert all(np.abs(new - old).max() > 0 for old, new in zip(before, after, strict=True))
    embeddings = model.embed_texts(INPUTS)
    assert np.abs(embeddings - start).max() > 1e-5
    model.save_to_preset(tmp_path)
    loaded = from_preset(tmp_path)
    assert type(loaded.backbone.text_tower) is BertTextTower
    np.testing.assert_allclose(loaded.embed_texts(INPUTS), embeddings, atol=1e-6)


RECIPE = """
model:
  method: clip
  embedding_dim: 8
  image_tower: {type: convolutional, filters: [4, 4], embedding_dim: 8}
  text_tower:
    type: bert
    embedding_dim: 8
    hidden_dim: 8
    num_layers: 2
    num_heads: 2
    intermediate_dim: 12
    weights: bert/preset
  tokenizer: {type: wordpiece, vocabulary: bert/vocab.txt, sequence_length: 9}
  image_converter: {image_size: [32, 32]}
data: {source: shapes, num_scenes: 6}
run: {epochs: 1, batch_size: 8, learning_rate: 1.0e-9}
"""
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "##s", "blue", "square", "left", "of"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "bert.yaml"
    path.write_text(RECIPE)
    return path


def run(recipe, *overrides, **options):
    folder = recipe.parent
    return train(recipe, overrides, data_dir=folder, run_dir=folder / "run", verbose=False, **options)


def test_a_recipe_reads_vocabulary_and_weights_from_the_data_folder(hub, recipe, tmp_path):
    bert, _ = hub
    bert.save_to_preset(str(tmp_path / "bert/preset"))
    (tmp_path / "bert/vocab.txt").write_text("\n".join(PIECES) + "\n")
    run(recipe)
    model = from_preset(tmp_path / "run/best")
    assert model.preprocessor.tokenizer.get_vocabulary() == PIECES
    table = model.backbone.text_tower.encoder.get_layer("token_embedding").get_weights()[0]
    np.testing.assert_allclose(table, bert.token_embedding.get_weights()[0], atol=1e-5)
    assert str(tmp_path) not in (tmp_path / "run/recipe.yaml").read_text()


def test_missing_files_are_named_together_before_work(recipe):
    with pytest.raises(FileNotFoundError) as raised:
        run(recipe)
    message = str(raised.value)
    assert "bert/vocab.txt: no such file; model.tokenizer.vocabulary names it, relative to --data_dir." in message
    assert "bert/preset: no such folder; model.text_tower.weights names it, relative to --data_dir." in message
    assert "\n" not in message and not (recipe.parent / "run").exists()


def test_a_faulty_vocabulary_file_is_named(recipe, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"bert/vocab\.txt: The vocabulary must hold"):
        run(recipe, "model.text_tower.weights=")


def test_names_and_handles_of_weights_are_left_alone(recipe, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/vocab.txt").write_text("\n".join(PIECES) + "\n")
    with pytest.raises(ValueError, match="no Bert of keras-hub is called 'bert_bse'"):
        run(recipe, "model.text_tower.weights=bert_bse")


def test_a_smoke_run_needs_neither(recipe):
    run(recipe, smoke=True)
    tokenizer = from_preset(recipe.parent / "run/best").preprocessor.tokenizer
    assert tokenizer.sequence_length == 9 and "a" in tokenizer.get_vocabulary()


def test_a_vocabulary_of_the_captions(recipe):
    run(recipe, "model.tokenizer.vocabulary=", "model.text_tower.weights=")
    tokenizer = from_preset(recipe.parent / "run/best").preprocessor.tokenizer
    assert "a" in tokenizer.get_vocabulary() and tokenizer.vocabulary_size() > len(PIECES)
