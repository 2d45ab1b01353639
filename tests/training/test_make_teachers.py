"""Teachers of a recipe, an annotation file and a folder; the command that an error names is the one that helps."""

import json
import shlex

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from support import draw

from keras_itr.data import SentenceEncoder, load_karpathy, load_precomputed
from keras_itr.data.caption_files import read_caption_file
from keras_itr.training import RecipeError, make_teachers, train

WORDS = ["photo", "number", "another", "caption", "of", *"0123456789"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
RECIPE = """
model:
  method: vse_infinity
  embedding_dim: 8
  image_tower: {type: convolutional, filters: [4, 4], embedding_dim: 8}
  text_tower: {type: transformer, embedding_dim: 8, num_layers: 1, num_heads: 2}
  tokenizer: {type: word, sequence_length: 8}
  image_converter: {image_size: [16, 16]}
  plugins: [{type: soft_label_alignment}]
data:
  source: karpathy
  directory: own
  images: photos
  test: null
  teacher_image: "{split}_teacher_image.npy"
  teacher_text: "{split}_teacher_text.npy"
run: {epochs: 1, batch_size: 4, learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random sentence encoder of keras-hub, and the directory it was saved to."""
    backbone = keras_hub.models.BertBackbone(len(PIECES), 2, 2, 8, 12, max_sequence_length=20)
    tokenizer = keras_hub.models.BertTokenizer(PIECES, lowercase=True)
    preprocessor = keras_hub.models.BertTextEmbedderPreprocessor(tokenizer, sequence_length=20)
    embedder = keras_hub.models.BertTextEmbedder(backbone, preprocessor, pooling_mode="mean", normalize=True)
    directory = tmp_path_factory.mktemp("encoder")
    embedder.save_to_preset(str(directory))
    return embedder, directory


@pytest.fixture
def recipe(tmp_path):
    random, images = np.random.default_rng(0), []
    (tmp_path / "own/photos").mkdir(parents=True)
    for index in range(6):
        pixels = random.integers(0, 256, (30, 20 + index, 3), dtype="uint8")
        (tmp_path / "own/photos" / f"{index}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
        sentences = [
            {"raw": f"Photo number {index}.", "sentid": 10 + index},
            {"raw": f"Another caption of {index}", "sentid": 20 + index},
        ]
        images.append({"filename": f"{index}.jpg", "split": "train" if index < 4 else "val", "sentences": sentences})
    (tmp_path / "own/dataset.json").write_text(json.dumps({"images": images}))
    (tmp_path / "own.yaml").write_text(RECIPE)
    return tmp_path / "own.yaml"


def test_a_sentence_encoder_embeds_as_keras_hub_does(encoder):
    embedder, directory = encoder
    texts = ["Photo number 1.", "caption", "", "another " * 30]
    # No more positions than there are.
    vectors = SentenceEncoder(directory, sequence_length=64)(texts)
    np.testing.assert_allclose(vectors, embedder.predict(texts, verbose=0), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # Padding of a longer caption beside it changes nothing.
    np.testing.assert_allclose(SentenceEncoder(directory, 20)(texts[:1]), vectors[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"pooling_mode_cls_token": True}, None), ({"pooling_mode_mean_sqrt_len_tokens": True}, "asks for mean_sqrt_len")],
)
def test_the_pooling_is_that_of_the_folder(encoder, tmp_path, asked, message):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for path in encoder[1].rglob("*"):
        target = folder / path.relative_to(encoder[1])
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 8, **asked}))
    if message:
        with pytest.raises(ValueError, match=message):
            SentenceEncoder(folder)
        return
    expected = SentenceEncoder(encoder[1], pooling="first")(["photo 1"])
    np.testing.assert_allclose(SentenceEncoder(folder)(["photo 1"]), expected, atol=1e-6)


def test_the_error_names_the_command_that_makes_the_teachers(recipe, encoder):
    folder = recipe.parent
    options = {"data_dir": folder, "run_dir": folder / "run"}
    with pytest.raises(FileNotFoundError) as raised:
        train(recipe, ["data.on_error=skip", "run.epochs=1"], **options)
    message = str(raised.value)
    assert "train_teacher_text.npy" in message and "train_teacher_image.npy" in message and "\n" not in message
    command = shlex.split(message[message.index("python tools") :].split(" PHOTOS")[0].removesuffix("."))
    assert command == [
        *("python", "tools/make_teachers.py", str(recipe), "--data_dir", str(folder), "--set", "data.on_error=skip"),
        *("--text_encoder", "all_minilm_l6_v2_en", "--image_encoder", "MobileNetV2"),
    ]
    rows = make_teachers(
        recipe, encoder[1], "MobileNet", data_dir=folder, image_weights=None, image_size=(32, 32), batch_size=3
    )
    assert rows["text"].shape == (8, 8) and rows["image"].shape == (4, 1024)
    assert (folder / "own/train_teacher_text_ids.txt").read_text() == "10\n20\n11\n21\n12\n22\n13\n23\n"
    expected = SentenceEncoder(encoder[1])(["Photo number 1."])
    np.testing.assert_allclose(rows["text"][2:3], expected, atol=1e-3)
    assert np.isfinite(train(recipe, **options)["rsum"])
    # A preset of the package is a teacher too, made again into other files.
    again = ["data.teacher_text='{split}_t.npy'", "data.teacher_image='{split}_i.npy'"]
    rows = make_teachers(recipe, folder / "run/best", folder / "run/best", data_dir=folder, overrides=again)
    assert rows["text"].shape == (8, 8) and rows["image"].shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(rows["image"].astype("float32"), axis=1), 1, atol=1e-2)


def test_rows_are_found_by_id_from_any_reader(recipe, encoder, tmp_path):
    """Teachers of an annotation file, which needs no photos, and of SCAN's caption file."""
    output = tmp_path / "own/all_text.npy"
    make_teachers(tmp_path / "own/dataset.json", encoder[1], output=output, split="train")
    table = load_karpathy("train", tmp_path / "own", images="photos", teacher_text="all_text.npy")
    np.testing.assert_array_equal(table.caption_columns["teacher_text"][np.arange(8)], np.load(output))
    assert table.caption_names[:2] == ["10", "20"] and table.select([1]).caption_names == ["11", "21"]
    (tmp_path / "dev_caps.txt").write_text("photo 1\nphoto 2\nphoto 3\nphoto 4\n")
    (tmp_path / "dev_names.txt").write_text("a.jpg\nb.jpg\n")
    np.save(tmp_path / "dev_ims.npy", draw(2, 3, 4))
    assert read_caption_file(tmp_path / "dev_caps.txt", "dev")[1] == ["a.jpg#0", "a.jpg#1", "b.jpg#0", "b.jpg#1"]
    rows = make_teachers(tmp_path / "dev_caps.txt", encoder[1], output=tmp_path / "dev_t.npy", split="dev")["text"]
    table = load_precomputed("dev", tmp_path, teacher_text="{split}_t.npy", lines_per_image=2)
    np.testing.assert_array_equal(table.caption_columns["teacher_text"][np.arange(4)], rows)
    (tmp_path / "dev_names.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    with pytest.raises(ValueError, match="3 names, of which 4 captions"):
        read_caption_file(tmp_path / "dev_caps.txt", "dev")


def test_faults_are_one_line(recipe, encoder, tmp_path):
    options = {"data_dir": tmp_path}
    faults = [
        ((recipe,), {}, "give text_encoder, image_encoder or both"),
        ((recipe, encoder[1]), {"output": "x.npy"}, "leave output out"),
        ((tmp_path / "own/dataset.json", encoder[1]), {}, "needs one encoder and output"),
        ((recipe, tmp_path / "own"), {}, "could not be had"),
        (("recipes/cusa_shapes.yaml", encoder[1]), {}, "names no file for the text teacher"),
    ]
    for arguments, further, message in faults:
        with pytest.raises((ValueError, RecipeError), match=message) as raised:
            make_teachers(*arguments, **options, **further)
        assert "\n" not in str(raised.value)
    np.save(tmp_path / "own/train_teacher_text.npy", draw(8, 3))
    with pytest.raises(ValueError, match="made by other means"):
        make_teachers(recipe, encoder[1], **options)


def test_a_table_without_photos_needs_their_folder(tmp_path):
    from keras_itr.data.feature_extraction import photos_of

    np.save(tmp_path / "dev_ims.npy", draw(2, 3, 4))
    (tmp_path / "dev_caps.txt").write_text("photo 1\nphoto 2\n")
    (tmp_path / "dev_names.txt").write_text("a.jpg\nb.jpg\n")
    table = load_precomputed("dev", tmp_path, lines_per_image=1)
    with pytest.raises(ValueError, match="has no photos; give images"):
        photos_of(table)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"b\.jpg: no such file.* 1 of 2 photos"):
        photos_of(table, tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"")
    assert photos_of(table, tmp_path) == (["a.jpg", "b.jpg"], [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")])
