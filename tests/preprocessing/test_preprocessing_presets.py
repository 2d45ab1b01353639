import json

import keras
import keras_hub
import numpy as np
import pytest

from keras_itr.preprocessing import (
    RetrievalImageConverter,
    RetrievalPreprocessor,
    WordPieceTokenizer,
    WordTokenizer,
)


@keras.saving.register_keras_serializable(package="preprocessing_presets_test")
class ToyBackbone(keras_hub.models.Backbone):
    def __init__(self, dtype=None, **kwargs):
        inputs = keras.Input((2,))
        super().__init__(inputs=inputs, outputs=keras.layers.Dense(1)(inputs), dtype=dtype, **kwargs)


@keras.saving.register_keras_serializable(package="preprocessing_presets_test")
class ToyModel(keras.Model):
    def __init__(self, tokenizer, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.embedding = keras.layers.Embedding(50, 2)

    def call(self, ids):
        return self.embedding(ids)

    def get_config(self):
        return {**super().get_config(), "tokenizer": keras.saving.serialize_keras_object(self.tokenizer)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tokenizer": keras.saving.deserialize_keras_object(config["tokenizer"])})


@pytest.fixture
def preset(tmp_path, monkeypatch):
    for part in (RetrievalPreprocessor, WordTokenizer, WordPieceTokenizer, RetrievalImageConverter):
        monkeypatch.setattr(part, "backbone_cls", ToyBackbone)
    ToyBackbone().save_to_preset(str(tmp_path))
    return str(tmp_path)


def word_tokenizer(captions):
    return WordTokenizer.from_captions(captions, sequence_length=9, cleaning="cusa")


def wordpiece_tokenizer(captions):
    return WordPieceTokenizer.from_captions(captions, max_size=150, sequence_length=11, lowercase=False)


TOKENIZERS = pytest.mark.parametrize("make_tokenizer", [word_tokenizer, wordpiece_tokenizer])


@TOKENIZERS
def test_tokenizer(preset, captions, make_tokenizer):
    tokenizer = make_tokenizer(captions)
    tokenizer.save_to_preset(preset)
    for cls in (type(tokenizer), keras_hub.tokenizers.Tokenizer):
        loaded = cls.from_preset(preset)
        assert type(loaded) is type(tokenizer) and loaded.get_config() == tokenizer.get_config()
        np.testing.assert_array_equal(np.asarray(loaded(captions)), np.asarray(tokenizer(captions)))
    assert type(tokenizer).from_preset(preset, sequence_length=5)("a").shape[-1] == 5


def test_image_converter(preset):
    converter = RetrievalImageConverter((6, 8), scale=[0.1, 0.2, 0.3], offset=1.0, interpolation="bilinear")
    converter.save_to_preset(preset)
    loaded = RetrievalImageConverter.from_preset(preset)
    assert type(loaded) is RetrievalImageConverter and loaded.get_config() == converter.get_config()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype="uint8")
    np.testing.assert_array_equal(np.asarray(loaded(pixels)), np.asarray(converter(pixels)))


@TOKENIZERS
@pytest.mark.parametrize("with_converter", [True, False])
def test_preprocessor(preset, captions, make_tokenizer, with_converter):
    converter = RetrievalImageConverter((6, 8)) if with_converter else None
    preprocessor = RetrievalPreprocessor(make_tokenizer(captions), converter)
    preprocessor.save_to_preset(preset)
    loaded = RetrievalPreprocessor.from_preset(preset)
    assert type(loaded.tokenizer) is type(preprocessor.tokenizer)
    ids = np.asarray(preprocessor({"text": captions})["token_ids"])
    np.testing.assert_array_equal(np.asarray(loaded({"text": captions})["token_ids"]), ids)
    assert loaded.image_size == ((6, 8) if with_converter else None)


def test_preprocessor_without_a_tokenizer(preset):
    RetrievalPreprocessor(None, RetrievalImageConverter((6, 8))).save_to_preset(preset)
    loaded = RetrievalPreprocessor.from_preset(preset)
    assert loaded.tokenizer is None and loaded.image_size == (6, 8)


@TOKENIZERS
def test_keras_archive_holds_the_vocabulary(tmp_path, captions, make_tokenizer):
    model = ToyModel(make_tokenizer(captions))
    ids = np.asarray(model.tokenizer(captions)) % 50
    expected = np.asarray(keras.ops.convert_to_numpy(model(ids)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.tokenizer.get_vocabulary() == model.tokenizer.get_vocabulary()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(ids)), expected)


def test_a_packaged_vocabulary_is_a_name_in_presets_and_archives(preset, tmp_path):
    tokenizer = WordPieceTokenizer("bert_uncased", sequence_length=7)
    assert tokenizer.vocabulary_size() == 30522
    assert np.asarray(tokenizer("Two dogs!")).tolist() == [101, 2048, 6077, 999, 102, 0, 0]
    RetrievalPreprocessor(tokenizer).save_to_preset(preset)
    assert not list((tmp_path / "assets").rglob("*.txt"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["config"]["vocabulary"] == "bert_uncased"
    loaded = WordPieceTokenizer.from_preset(preset)
    assert loaded.get_config() == tokenizer.get_config() and loaded.get_vocabulary() == tokenizer.get_vocabulary()
    assert RetrievalPreprocessor.from_preset(preset).tokenizer.vocabulary_size() == 30522
    ToyModel(tokenizer).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").tokenizer.vocabulary_size() == 30522
    # The same list out of a file is the same vocabulary, and a preset with a file still loads.
    (tmp_path / "vocabulary.txt").write_text("\n".join(tokenizer.get_vocabulary()) + "\n", encoding="utf-8")
    read = WordPieceTokenizer(sequence_length=7)
    read.load_assets(tmp_path)
    assert read.get_config()["vocabulary"] == "bert_uncased"


def test_the_vocabulary_is_in_the_assets_alone(preset, captions, tmp_path):
    tokenizer = word_tokenizer(captions)
    tokenizer.save_to_preset(preset)
    lines = (tmp_path / "assets" / "tokenizer" / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert lines == tokenizer.get_vocabulary()
    assert json.loads((tmp_path / "tokenizer.json").read_text())["config"]["vocabulary"] is None
