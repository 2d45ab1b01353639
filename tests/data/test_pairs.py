import csv
import json

import numpy as np
import pytest
from reader_support import LETTERS, grouped, message_of, random_images, touch
from support import draw

from keras_itr.data.pairs import load_pairs

CSV = """\
image,caption,split
dogs/one.jpg,"A dog, asleep",train
two.jpg,A cat,val
dogs/one.jpg,"The ""good"" dog
of the house",train

three.jpg,A bird,train
"""
NAMES = ["dogs/one.jpg", "three.jpg"]
TSV = """\
file\tid\ttext
dogs/one.jpg\t7\tA dog, "asleep"
three.jpg\t8\tA bird
dogs/one.jpg\t9\tThe good dog
"""


def write(folder, name="captions.csv", content=CSV):
    (folder / name).write_text(content, encoding="utf-8")
    touch(folder / "photos", [*NAMES, "two.jpg"])


@pytest.mark.parametrize("given", ["trian", "Train", " train ", "trains"])
def test_a_misspelt_split_is_not_lost_without_a_word(given, tmp_path):
    lines = ["image,caption,split", "a.jpg,a dog,train", f"b.jpg,a cat,{given}", "c.jpg,a cow,trainval", "d.jpg,ox,val"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    np.save(tmp_path / "rows.npy", np.zeros((1, 2, 3), "float32"))
    with pytest.raises(ValueError, match=r"a\.csv:3: split .* looks like 'train' misspelt"):
        load_pairs("train", tmp_path, "a.csv", features="rows.npy")
    assert load_pairs("val", tmp_path, "a.csv", features="rows.npy").num_images == 1


def test_two_ways_to_write_a_path_are_one_image(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,split\na.jpg,a dog,train\n./a.jpg,a big dog,train\n")
    np.save(tmp_path / "rows.npy", np.zeros((1, 2, 3), "float32"))
    assert load_pairs("train", tmp_path, "a.csv", features="rows.npy").num_images == 1
    (tmp_path / "a.csv").write_text("image,caption,split\na.jpg,a dog,train\n.//a.jpg,a big dog,val\n")
    with pytest.raises(ValueError, match="keep it in one of them"):
        load_pairs("train", tmp_path, "a.csv", features="rows.npy")


def test_a_csv_with_a_column_of_splits(tmp_path):
    write(tmp_path)
    table = load_pairs("train", tmp_path, "captions.csv", images="photos")
    assert table.image_names == NAMES
    assert list(table.captions) == ["A dog, asleep", 'The "good" dog\nof the house', "A bird"]
    np.testing.assert_array_equal(table.caption_to_image, [0, 0, 1])
    assert list(table.image_columns["images"]) == [str(tmp_path / "photos" / name) for name in NAMES]
    assert load_pairs("val", tmp_path, "captions.csv", images="photos").image_names == ["two.jpg"]


def test_a_tsv_per_split_with_other_columns_keeps_the_order_of_the_rows(tmp_path):
    write(tmp_path, "val.tsv", TSV)
    table = load_pairs("val", tmp_path, "{split}.tsv", images="photos", image_column="file", caption_column="text")
    assert list(table.captions) == ['A dog, "asleep"', "A bird", "The good dog"]
    np.testing.assert_array_equal(table.caption_to_image, [0, 1, 0])


def test_a_column_of_splits_that_is_named_counts_in_files_per_split_too(tmp_path):
    write(tmp_path, "train.csv", CSV.replace("split", "part").replace("train", "a"))
    arguments = {"annotations": "{split}.csv", "images": "photos"}
    assert load_pairs("train", tmp_path, **arguments).num_captions == 4
    assert "no row of split 'train' in column 'part'; splits are a, val." in message_of(
        load_pairs, "train", tmp_path, split_column="part", **arguments
    )


def test_absolute_paths_and_teachers_by_id(tmp_path):
    photo = tmp_path / "elsewhere" / "one.jpg"
    touch(photo.parent, ["one.jpg"])
    (tmp_path / "photos").mkdir()
    content = json.dumps({"image": str(photo), "caption": "A dog", "split": "train"})
    (tmp_path / "captions.jsonl").write_text(f"{content}\n{content}\n")
    text = draw(2, 3)
    np.save(tmp_path / "text.npy", text)
    (tmp_path / "text_ids.txt").write_text(f"{photo}#1\n{photo}#0\n")
    table = load_pairs("train", tmp_path, "captions.jsonl", images="photos", teacher_text="text.npy")
    assert list(table.image_columns["images"]) == [str(photo)]
    np.testing.assert_array_equal(table.caption_columns["teacher_text"], text[[1, 0]])


def write_random(path, rows):
    """Rows of dicts in the layout that the suffix tells."""
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        elif path.suffix == ".tsv":
            file.writelines("\t".join(cells) + "\r\n" for cells in (rows[0], *(row.values() for row in rows)))
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_round_trip(suffix, seed, tmp_path):
    images = random_images(seed, LETTERS if suffix == ".tsv" else LETTERS + "\n\t")
    rng = np.random.default_rng(seed)
    split_of = {name: str(rng.choice(["train", "val"])) for name in images}
    rows = [
        {"split": split_of[name], "caption": caption, "image": name}
        for name, captions in images.items()
        for caption in captions
    ]
    rows = [rows[at] for at in rng.permutation(len(rows))]
    write_random(tmp_path / f"captions{suffix}", rows)
    touch(tmp_path, images)
    table = load_pairs("val", tmp_path, f"captions{suffix}", images=".")
    expected = {}
    for row in rows:
        if row["split"] == "val":
            expected.setdefault(row["image"], []).append(row["caption"])
    assert grouped(table) == expected and list(grouped(table)) == list(expected)
    assert list(table.captions) == [row["caption"] for row in rows if row["split"] == "val"]


def replaced(old, new):
    assert old in CSV
    return CSV.replace(old, new).encode()


def jsonl(**row):
    good = {"image": "two.jpg", "caption": "A cat", "split": "val"}
    return "".join(f"{json.dumps(line)}\n" for line in (good, {**good, **row})).encode()


MALFORMED = {
    "unknown split": ("a.csv", CSV.replace("train", "dev").encode(), "splits are dev, val; did you mean 'val'?"),
    "empty file": ("a.csv", b"", "a.csv: the file is empty."),
    "header only": (
        "a.csv",
        b"image,caption,split\n",
        "a.csv: no row of split 'vall' in column 'split'; splits are none.",
    ),
    "header missing": ("a.csv", b"one.jpg,A dog,val\n", "a.csv:1: no 'image' there; columns are one.jpg, A dog, val."),
    "no caption column": (
        "a.csv",
        replaced("caption", "Caption"),
        "a.csv:1: no 'caption' there; columns are image, Ca",
    ),
    "column nearest": ("a.csv", replaced("caption", "captions"), "did you mean 'captions'?"),
    "no split column": (
        "a.csv",
        replaced("split", "fold"),
        "a.csv:1: no 'split' there; columns are image, caption, fold. Or write {split} into annotations, one file per",
    ),
    "column twice": (
        "a.csv",
        replaced("caption,", "image,caption,"),
        "a.csv:1: two columns are called 'image'; rename",
    ),
    "too few cells": ("a.csv", replaced("two.jpg,A cat,val", "two.jpg,A cat"), "a.csv:3: 2 cells for the 3 columns of"),
    "comma in a caption": (
        "a.csv",
        replaced("A bird", "A bird, flying"),
        "a.csv:7: 4 cells for the 3 columns of the header; quote a caption that holds a comma.",
    ),
    "open quote": ("a.csv", replaced('asleep"', "asleep"), "a.csv:2: not CSV ("),
    "quote to the end": (
        "a.csv",
        replaced("A bird", '"A bird'),
        "a.csv:7: not CSV (unexpected end of data); close every",
    ),
    "semicolons": ("a.csv", replaced(",", ";"), "a.csv:1: no 'image' there; columns are image;caption;split."),
    "not UTF-8": ("a.csv", replaced("A cat", "caf~").replace(b"~", b"\xe9"), "a.csv:3: byte 0xe9 is not UTF-8"),
    "UTF-16": ("a.csv", CSV.encode("utf-16"), "a.csv:1: byte 0xff is not UTF-8; save the file as UTF-8."),
    "empty image": ("a.csv", replaced("two.jpg,", ","), "a.csv:3: must be a file name, got ''."),
    "image outside": (
        "a.csv",
        replaced("two.jpg,", "../two.jpg,"),
        "a.csv:3: '../two.jpg' leads out of the image folder",
    ),
    "empty split": ("a.csv", replaced("A cat,val", "A cat,"), "a.csv:3: the split must be text, got ''."),
    "image in two splits": (
        "a.csv",
        replaced("two.jpg", "dogs/one.jpg"),
        "a.csv:3: image 'dogs/one.jpg' is of split 'val', and of 'train' at line 2; keep it in one of them.",
    ),
    "tab in a caption": (
        "a.tsv",
        b"image\tcaption\tsplit\na.jpg\tA\tdog\tval\n",
        "a.tsv:2: 4 cells for the 3 columns of the header; a caption holds no tab.",
    ),
    "a csv called tsv": ("a.tsv", CSV.encode(), "a.tsv:1: no 'image' there; columns are image,caption,split."),
    "json cut off": (
        "a.jsonl",
        jsonl()[:-6],
        "a.jsonl:2: not JSON (Unterminated string, column 51); write one object a line.",
    ),
    "json of one list": ("a.jsonl", b"[1]\n", "a.jsonl:1: must be one JSON object, got [1]."),
    "json key": (
        "a.jsonl",
        b'{"img": "a", "caption": "b", "split": "c"}',
        "a.jsonl:1: no 'image' there; keys are img, c",
    ),
    "json image no text": ("a.jsonl", jsonl(image=["a"]), "a.jsonl:2: must be a file name, got ['a']."),
    "json split no text": ("a.jsonl", jsonl(split=3), "a.jsonl:2: the split must be text, got 3."),
    "other suffix": ("a.txt", CSV.encode(), "annotations='a.txt': the suffix must be .tsv, .csv, .jsonl."),
}
OF_VAL = {
    "empty caption": ("a.csv", replaced("A cat", " "), "a.csv:3: empty caption; remove it or fill it in."),
    "windows line ends": (
        "a.tsv",
        b"image\tcaption\tsplit\r\ntwo.jpg\t \tval\r\n",
        "a.tsv:2: empty caption; remove it",
    ),
    "json caption no text": ("a.jsonl", jsonl(caption=None), "a.jsonl:2: a caption must be text, got None."),
    "photo missing": ("a.csv", replaced("two.jpg", "too.jpg"), "images: 1 of 1 files are missing, the first is "),
    "photo nearest": ("a.csv", replaced("two.jpg", "too.jpg"), "photos/too.jpg; the nearest name there is two.jpg."),
}


@pytest.mark.parametrize("name", [*MALFORMED, *OF_VAL])
def test_malformed(name, tmp_path):
    split = "vall" if name in MALFORMED else "val"
    file, content, message = {**MALFORMED, **OF_VAL}[name]
    write(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert message in message_of(load_pairs, split, tmp_path, file, images="photos")


def test_a_file_per_split_without_rows(tmp_path):
    write(tmp_path, "val.tsv", "image\tcaption\n")
    assert message_of(load_pairs, "val", tmp_path, "{split}.tsv", images="photos").endswith("no row of split 'val'.")
