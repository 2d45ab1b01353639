import numpy as np
import pytest
from reader_support import LETTERS, grouped, message_of, random_images, touch
from support import draw

from keras_itr.data.flickr_tokens import load_flickr_tokens

# The lines of `Flickr8k.token.txt`, as published.
TOKENS = """\
1000268201_693b08cb0e.jpg#0\tA child in a pink dress is climbing up a set of stairs in an entry way .
1000268201_693b08cb0e.jpg#1\tA girl going into a wooden building .
1001773457_577c3a7d70.jpg#0\tA black dog and a spotted dog are fighting
1002674143_1b742ab4b8.jpg#0\tA little girl covered in paint sits in front of a painted rainbow .
1001773457_577c3a7d70.jpg#1\tTwo dogs "play" on the road, #2 of three
2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway
"""
NAMES = ["1001773457_577c3a7d70.jpg", "1000268201_693b08cb0e.jpg"]
LIST = "".join(f"{name}\n" for name in NAMES)


def write(folder, tokens=TOKENS, names=LIST):
    (folder / "results.token").write_text(tokens, encoding="utf-8")
    (folder / "val.txt").write_text(names, encoding="utf-8")
    touch(folder / "images", NAMES)


def test_the_layout_of_flickr8k(tmp_path):
    write(tmp_path)
    table = load_flickr_tokens("val", tmp_path, images="images")
    assert table.image_names == NAMES
    assert list(table.captions) == [
        "A black dog and a spotted dog are fighting",
        'Two dogs "play" on the road, #2 of three',
        "A child in a pink dress is climbing up a set of stairs in an entry way .",
        "A girl going into a wooden building .",
    ]
    np.testing.assert_array_equal(table.caption_to_image, [0, 0, 1, 1])


def test_a_list_without_suffixes_and_with_windows_line_ends(tmp_path):
    write(tmp_path, names="1001773457_577c3a7d70 \r\n\r\n1000268201_693b08cb0e\r\n")
    assert load_flickr_tokens("val", tmp_path, images="images").image_names == NAMES


def test_captions_are_looked_up_by_token(tmp_path):
    write(tmp_path)
    text = draw(6, 3)
    np.save(tmp_path / "text.npy", text)
    (tmp_path / "text_ids.txt").write_text("".join(line.split("\t")[0] + "\n" for line in TOKENS.splitlines()))
    table = load_flickr_tokens("val", tmp_path, images="images", text_features="text.npy")
    np.testing.assert_array_equal(table.caption_columns["text_features"], text[[2, 4, 0, 1]])


@pytest.mark.parametrize("seed", range(3))
def test_round_trip(seed, tmp_path):
    images = {name.replace("1", "#"): captions for name, captions in random_images(seed, LETTERS + "\t").items()}
    lines = [f"{name}#{k}\t{caption}" for name, captions in images.items() for k, caption in enumerate(captions)]
    (tmp_path / "all.token").write_text("\n".join(lines), encoding="utf-8")
    chosen = [name for row, name in enumerate(images) if row % 3]
    (tmp_path / "train_list").write_text("\n".join(chosen))
    touch(tmp_path, images)
    table = load_flickr_tokens("train", tmp_path, "all.token", split_files="{split}_list", images="")
    assert grouped(table) == {name: images[name] for name in chosen}


def replaced(old, new):
    assert old in TOKENS
    return {"tokens": TOKENS.replace(old, new)}


MALFORMED = {
    "empty token file": ({"tokens": "\n"}, "results.token: the file is empty."),
    "empty list": ({"names": ""}, "val.txt: the file is empty."),
    "no tab": (
        replaced("#1\tA girl", "#1 A girl"),
        "results.token:2: must be name.jpg#0, a tab and a caption, got '1000",
    ),
    "no number": (
        replaced("cb0e.jpg#1\t", "cb0e.jpg\t"),
        "results.token:2: must be name.jpg#0, a tab and a caption, g",
    ),
    "number no number": (
        replaced("cb0e.jpg#1\t", "cb0e.jpg#one\t"),
        "results.token:2: must be name.jpg#0, a tab and a",
    ),
    "no caption": (replaced("#1\tA girl going into a wooden building .", "#1"), "results.token:2: must be name.jpg#0"),
    "no name": (
        replaced("1000268201_693b08cb0e.jpg#1\t", "#1\t"),
        "results.token:2: must be name.jpg#0, a tab and a ca",
    ),
    "empty caption": (replaced("A girl going into a wooden building .", " "), "results.token:2: empty caption; remove"),
    "id twice": (
        replaced("1001773457_577c3a7d70.jpg#1", "1001773457_577c3a7d70.jpg#0"),
        "results.token:5: caption '1001773457_577c3a7d70.jpg#0' stands twice, first at line 3; keep one.",
    ),
    "name outside": (
        {"tokens": "../a.jpg#0\tA dog\n", "names": "../a.jpg"},
        "results.token:1: '../a.jpg' leads out of the image folder; write the path from there.",
    ),
    "unknown image": (
        {"names": "1001773457_577c3a7d70.jpg\n1000268201_693b08cb0f.jpg\n"},
        "val.txt:2: image '1000268201_693b08cb0f.jpg' has no caption in results.token; did you mean '1000268201",
    ),
    "image twice": (
        {"names": "1001773457_577c3a7d70.jpg\n\n1001773457_577c3a7d70\n"},
        "val.txt:3: image '1001773457_577c3a7d70' stands twice, first at line 1; keep one.",
    ),
    "either of two": (
        {"tokens": "a.jpg#0\tA dog\na.png#0\tA cat\n", "names": "a\n"},
        "val.txt:1: 'a' may be a.jpg or a.png; write the suffix.",
    ),
    "a token file for a list": ({"names": TOKENS}, "val.txt:1: image '1000268201_693b08cb0e.jpg#0\\tA child in a pink"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, tmp_path):
    files, message = MALFORMED[name]
    write(tmp_path, **files)
    assert message in message_of(load_flickr_tokens, "val", tmp_path, images="images")


@pytest.mark.parametrize("file", ["results.token", "val.txt"])
def test_bytes_that_are_not_utf_8(file, tmp_path):
    write(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + b"caf\xe9.jpg#0\ta\n")
    line = (tmp_path / file).read_bytes().count(b"\n")
    message = message_of(load_flickr_tokens, "val", tmp_path, images="images")
    assert f"{file}:{line}: byte 0xe9 is not UTF-8" in message


def test_both_files_are_named_when_both_are_missing(tmp_path):
    write(tmp_path)
    message = message_of(load_flickr_tokens, "vall", tmp_path, "result.token", images="images")
    assert "result.token: no such file; did you mean results.token?" in message
    assert "vall.txt: no such file; did you mean val.txt?" in message
