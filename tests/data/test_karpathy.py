import json

import numpy as np
import pytest
from reader_support import LETTERS, grouped, message_of, random_images, touch
from support import draw

from keras_itr.data.karpathy import load_karpathy

# The fields of `dataset_coco.json`, as published.
COCO = {
    "images": [
        {
            "filepath": "val2014",
            "sentids": [770337, 771687],
            "filename": "COCO_val2014_000000391895.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [
                {"tokens": ["a", "man"], "raw": "A man with a red helmet. ", "imgid": 0, "sentid": 770337},
                {"tokens": ["man"], "raw": "Man riding a motor bike", "imgid": 0, "sentid": 771687},
            ],
            "cocoid": 391895,
        },
        {
            "filepath": "train2014",
            "sentids": [787980],
            "filename": "COCO_train2014_000000522418.jpg",
            "imgid": 1,
            "split": "restval",
            "sentences": [{"tokens": ["a"], "raw": "A woman wearing a net", "imgid": 1, "sentid": 787980}],
            "cocoid": 522418,
        },
        {
            "filepath": "train2014",
            "sentids": [5],
            "filename": "COCO_train2014_000000184613.jpg",
            "imgid": 2,
            "split": "train",
            "sentences": [{"tokens": ["a"], "raw": "A child holding a flowered umbrella", "imgid": 2, "sentid": 5}],
            "cocoid": 184613,
        },
    ],
    "dataset": "coco",
}
FILES = [f"{image['filepath']}/{image['filename']}" for image in COCO["images"]]


def write(folder, document=COCO):
    (folder / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    touch(folder / "images", FILES)


def test_the_layout_of_coco(tmp_path):
    write(tmp_path)
    table = load_karpathy("test", tmp_path, images="images")
    assert list(table.captions) == ["A man with a red helmet. ", "Man riding a motor bike"]
    assert table.image_names == ["COCO_val2014_000000391895.jpg"]
    assert list(table.image_columns["images"]) == [str(tmp_path / "images" / FILES[0])]
    np.testing.assert_array_equal(table.caption_to_image, [0, 0])


def test_photos_unpacked_into_one_folder(tmp_path):
    write(tmp_path)
    names = [image["filename"] for image in COCO["images"]]
    touch(tmp_path / "flat", names)
    table = load_karpathy("train", tmp_path, images="flat")
    assert list(table.image_columns["images"]) == [str(tmp_path / "flat" / name) for name in names[1:]]


@pytest.mark.parametrize(
    ("split", "restval", "expected"), [("train", True, [1, 2]), ("train", False, [2]), ("restval", False, [1])]
)
def test_restval_belongs_to_train(split, restval, expected, tmp_path):
    write(tmp_path)
    table = load_karpathy(split, tmp_path, images="images", restval=restval)
    assert table.image_names == [COCO["images"][row]["filename"] for row in expected]


def test_features_by_file_and_teachers_by_sentence(tmp_path):
    write(tmp_path)
    regions, soft = draw(2, 3, 4), draw(3, 5)
    for row, name in enumerate(("COCO_train2014_000000522418", "COCO_train2014_000000184613")):
        np.save(tmp_path / f"{name}.npy", regions[row])
    np.save(tmp_path / "soft.npy", soft)
    (tmp_path / "soft_ids.txt").write_text("5\n770337\n787980\n")
    table = load_karpathy("train", tmp_path, features="{stem}.npy", teacher_text="soft.npy")
    np.testing.assert_array_equal(table.image_columns["regions"], regions)
    np.testing.assert_array_equal(table.caption_columns["teacher_text"], soft[[2, 0]])


@pytest.mark.parametrize("seed", range(3))
def test_round_trip(seed, tmp_path):
    images = random_images(seed, LETTERS + "\n\t")
    splits = dict(
        zip(images, np.random.default_rng(seed).choice(["train", "val", "restval"], len(images)), strict=True)
    )
    # Without sentid, filepath and the rest: what has no use is not asked for.
    entries = [
        {"filename": name, "split": splits[name], "sentences": [{"raw": caption} for caption in captions]}
        for name, captions in images.items()
    ]
    (tmp_path / "dataset_val.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"images": entries}).encode())
    touch(tmp_path, images)
    table = load_karpathy("val", tmp_path, "dataset_{split}.json", images=".")
    expected = {name: captions for name, captions in images.items() if splits[name] == "val"}
    assert grouped(table) == expected and list(grouped(table)) == list(expected)


def changed(row=None, sentence=None, **fields):
    """COCO with other fields in one image or sentence; None removes a field."""
    document = json.loads(json.dumps(COCO))
    node = document if row is None else document["images"][row]
    node = node if sentence is None else node["sentences"][sentence]
    node.update(fields)
    for key in [key for key, value in node.items() if value is None]:
        del node[key]
    return json.dumps(document).encode()


SPLITS = "splits are test, restval, train"
MALFORMED = {
    "unknown split": (changed(2, split="val"), "no image of split 'trian'; splits are test, restval, val"),
    "split nearest": (changed(), f"dataset.json: no image of split 'trian'; {SPLITS}; did you mean 'train'?"),
    "empty file": (b" \n", "dataset.json: the file is empty."),
    "cut off": (changed()[:-20], "dataset.json:1: not JSON ("),
    "cut off in a line": (json.dumps(COCO, indent=1).encode()[:200], "dataset.json:14: not JSON ("),
    "not UTF-8": (
        b'{"images": [\n{"filename": "caf\xe9.jpg"}]}',
        "dataset.json:2: byte 0xe9 is not UTF-8; save the fi",
    ),
    "a list": (b"[1, 2]", "dataset.json: must be a JSON object with a list 'images', got [1, 2]."),
    "no images": (changed(images=None), "dataset.json: the key 'images' is missing; its keys are dataset."),
    "images misspelt": (b'{"image": []}', "dataset.json: the key 'images' is missing; did you mean 'image'?"),
    "no image": (changed(images=[]), "no image of split 'trian'; splits are none."),
    "images no list": (changed(images={}), "dataset.json: images: must be a list, got {}."),
    "image no object": (changed(images=["a.jpg"]), "dataset.json: images[0]: must be an object, got 'a.jpg'."),
    "no filename": (
        changed(1, filename=None),
        "dataset.json: images[1]: the key 'filename' is missing; did you mean 'f",
    ),
    "filename no text": (changed(1, filename=7), "dataset.json: images[1].filename: must be text, got 7."),
    "filename empty": (changed(1, filename=""), "images[1].filename: must be a file name, got ''."),
    "filename of two lines": (changed(1, filename="a\nb"), "images[1].filename: must be a file name, got 'a\\nb'."),
    "filename outside": (
        changed(1, filename="../a.jpg"),
        "images[1].filename: '../a.jpg' leads out of the image folde",
    ),
    "filename absolute": (changed(1, filename="/a.jpg"), "images[1].filename: '/a.jpg' leads out of the image folder"),
    "filename twice": (
        changed(2, filename="COCO_val2014_000000391895.jpg"),
        "images[2].filename: image 'COCO_val2014_000000391895.jpg' stands twice, first at images[0].filename; keep",
    ),
    "no split": (changed(0, split=None), "dataset.json: images[0]: the key 'split' is missing; its keys are filepath,"),
    "COCO's own layout": (
        changed(annotations=[]),
        "has the layout of COCO's own files; read its captions with load_coco_",
    ),
}
OF_TRAIN = {
    "filepath outside": (changed(2, filepath="../x"), "images[2].filepath: '../x' leads out of the image folder"),
    "no sentences": (
        changed(2, sentences=None),
        "dataset.json: images[2]: the key 'sentences' is missing; did you mean",
    ),
    "sentences empty": (
        changed(2, sentences=[]),
        "images[2].sentences: image 'COCO_train2014_000000184613.jpg' has no",
    ),
    "sentence no object": (changed(2, sentences=["a"]), "images[2].sentences[0]: must be an object, got 'a'."),
    "no raw": (changed(2, 0, raw=None), "images[2].sentences[0]: the key 'raw' is missing; its keys are tokens, imgid"),
    "raw no text": (changed(2, 0, raw=["a"]), "images[2].sentences[0].raw: must be text, got ['a']."),
    "half a character": (
        changed(2, 0, raw="a \ud83d"),
        "images[2].sentences[0]: a caption must be text, got 'a \\ud83d'",
    ),
    "raw empty": (
        changed(2, 0, raw=" "),
        "dataset.json: images[2].sentences[0]: empty caption; remove it or fill it in.",
    ),
    "sentid no number": (
        changed(2, 0, sentid=1.5),
        "images[2].sentences[0].sentid: must be a number or text, got 1.5.",
    ),
    "sentid twice": (
        changed(2, 0, sentid=787980),
        "images[2].sentences[0]: caption '787980' stands twice, first at images[1].sentences[0]; keep one.",
    ),
}


@pytest.mark.parametrize("name", [*MALFORMED, *OF_TRAIN])
def test_malformed(name, tmp_path):
    split = "trian" if name in MALFORMED else "train"
    content, message = {**MALFORMED, **OF_TRAIN}[name]
    write(tmp_path)
    (tmp_path / "dataset.json").write_bytes(content)
    assert message in message_of(load_karpathy, split, tmp_path, images="images")


def test_a_missing_photo_and_a_missing_file(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / FILES[2]).unlink()
    message = message_of(load_karpathy, "train", tmp_path, images="images")
    assert message.startswith(f"images: 1 of 2 files are missing, the first is {tmp_path}/images/{FILES[2]};")
    message = message_of(load_karpathy, "train", tmp_path, "dataset_coco.json", images="images")
    assert message == f"{tmp_path}/dataset_coco.json: no such file; did you mean dataset.json?"
