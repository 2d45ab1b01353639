import json

import numpy as np
import pytest
from reader_support import LETTERS, grouped, message_of, random_images, touch
from support import draw

from keras_itr.data.coco_captions import load_coco_captions

# The fields of `captions_val2014.json`, as published.
COCO = {
    "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
    "images": [
        {
            "license": 3,
            "file_name": "COCO_val2014_000000391895.jpg",
            "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg",
            "height": 360,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "id": 391895,
        },
        {"license": 4, "file_name": "COCO_val2014_000000060623.jpg", "height": 427, "width": 640, "id": 60623},
        {"license": 1, "file_name": "COCO_val2014_000000483108.jpg", "height": 640, "width": 428, "id": 483108},
    ],
    "licenses": [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "a licence"}],
    "annotations": [
        {"image_id": 483108, "id": 37, "caption": "A man on a bicycle next to a train"},
        {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet on a small moped on a dirt road. "},
        {
            "image_id": 483108,
            "id": 49,
            "caption": "A person is riding a bicycle but there is a train in the background.",
        },
    ],
}
NAMES = [COCO["images"][row]["file_name"] for row in (0, 2)]


def write(folder, document=COCO):
    (folder / "captions_val.json").write_text(json.dumps(document), encoding="utf-8")
    touch(folder / "val2014", NAMES)


def test_the_layout_of_coco(tmp_path):
    write(tmp_path)
    table = load_coco_captions("val", tmp_path, images="{split}2014")
    assert table.image_names == NAMES  # the image without captions is left out, and its photo is not looked for
    assert list(table.captions) == [annotation["caption"] for annotation in COCO["annotations"]]
    np.testing.assert_array_equal(table.caption_to_image, [1, 0, 1])
    assert list(table.image_columns["images"]) == [str(tmp_path / "val2014" / name) for name in NAMES]


def test_teachers_by_image_and_by_annotation(tmp_path):
    write(tmp_path)
    image, text = draw(3, 4), draw(3, 5)
    np.save(tmp_path / "image.npy", image)
    (tmp_path / "image_ids.txt").write_text("\n".join(entry["file_name"] for entry in COCO["images"]))
    np.save(tmp_path / "text.npy", text)
    (tmp_path / "text_ids.txt").write_text("49\n37\n770337\n")
    table = load_coco_captions("val", tmp_path, images="val2014", teacher_image="image.npy", teacher_text="text.npy")
    np.testing.assert_array_equal(table.image_columns["teacher_image"], image[[0, 2]])
    np.testing.assert_array_equal(table.caption_columns["teacher_text"], text[[1, 2, 0]])


@pytest.mark.parametrize("seed", range(3))
def test_round_trip(seed, tmp_path):
    images = random_images(seed, LETTERS + "\n\t")
    entries = [{"id": f"i{row}", "file_name": name} for row, name in enumerate(images)]
    captions = [(f"i{row}", caption) for row, name in enumerate(images) for caption in images[name]]
    order = np.random.default_rng(seed).permutation(len(captions))
    annotations = [{"id": int(at), "image_id": captions[at][0], "caption": captions[at][1]} for at in order]
    document = {"images": entries, "annotations": annotations}
    (tmp_path / "captions_train.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    touch(tmp_path / "photos", images)
    table = load_coco_captions("train", tmp_path, images="photos")
    assert list(table.captions) == [captions[at][1] for at in order]
    read = grouped(table)
    assert list(read) == list(images) and {name: sorted(read[name]) for name in read} == {
        name: sorted(images[name]) for name in images
    }


def changed(part=None, row=None, **fields):
    """COCO with other fields in one image or annotation; None removes a field."""
    document = json.loads(json.dumps(COCO))
    node = document if part is None else document[part][row]
    node.update(fields)
    for key in [key for key, value in node.items() if value is None]:
        del node[key]
    return json.dumps(document).encode()


INSTANCES = [{"segmentation": [[1, 2, 3, 4]], "area": 2.5, "image_id": 391895, "bbox": [1, 2, 3, 4], "category_id": 58}]
MALFORMED = {
    "empty file": (b"", "captions_val.json: the file is empty."),
    "cut off": (
        json.dumps(COCO, indent=1).encode()[:700],
        "captions_val.json:35: not JSON (Unterminated string, column 4); is the file complete?",
    ),
    "not UTF-8": (changed().replace(b"helmet", b"h\xe4lmet"), "captions_val.json:1: byte 0xe4 is not UTF-8"),
    "a list": (json.dumps(COCO["annotations"]).encode(), "must be a JSON object with a list 'images', got [{"),
    "instances": (
        changed(annotations=INSTANCES),
        "holds objects (instances or keypoints), no captions; name the captio",
    ),
    "image info": (
        changed(annotations=None),
        "lists images only (an image_info file), no captions; name the captions_",
    ),
    "Karpathy": (
        b'{"images": [{"filename": "a", "sentences": []}]}',
        "has Karpathy's layout (images with sentences); read",
    ),
    "no images": (changed(images=None), "captions_val.json: the key 'images' is missing; its keys are info, licenses"),
    "no caption": (changed(annotations=[]), "captions_val.json: no caption in 'annotations'."),
    "annotations no list": (changed(annotations=3), "captions_val.json: annotations: must be a list, got 3."),
    "image no object": (changed(images=[3]), "captions_val.json: images[0]: must be an object, got 3."),
    "no id": (changed("images", 1, id=None), "captions_val.json: images[1]: the key 'id' is missing"),
    "id no number": (changed("images", 1, id=[1]), "images[1].id: must be a number or text, got [1]."),
    "id true": (changed("images", 1, id=True), "images[1].id: must be a number or text, got True."),
    "id twice": (
        changed("images", 1, id=391895),
        "captions_val.json: images[1]: image id 391895 stands twice; keep one",
    ),
    "name twice": (
        changed("images", 1, file_name=NAMES[1]),
        f"images[2].file_name: image '{NAMES[1]}' stands twice, first at images[1].file_name; keep one.",
    ),
    "name outside": (
        changed("images", 1, file_name="a/../../b"),
        "images[1].file_name: 'a/../../b' leads out of the im",
    ),
    "name misspelt": (
        changed("images", 1, file_name=None, filename="a.jpg"),
        "captions_val.json: images[1]: the key 'file_name' is missing; did you mean 'filename'?",
    ),
    "unknown image": (
        changed("annotations", 1, image_id=39189),
        "captions_val.json: annotations[1]: image_id 39189 is none of the 3 ids in 'images'.",
    ),
    "image id as text": (
        changed("annotations", 1, image_id="391895"),
        "annotations[1]: image_id '391895' is none of th",
    ),
    "no caption text": (
        changed("annotations", 1, caption=None),
        "annotations[1]: the key 'caption' is missing; its key",
    ),
    "caption no text": (changed("annotations", 1, caption=3.5), "annotations[1].caption: must be text, got 3.5."),
    "caption empty": (
        changed("annotations", 1, caption="\n"),
        "captions_val.json: annotations[1]: empty caption; remove",
    ),
    "caption id twice": (
        changed("annotations", 2, id=37),
        "annotations[2]: caption '37' stands twice, first at annotations[0]; keep one.",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, tmp_path):
    content, message = MALFORMED[name]
    write(tmp_path)
    (tmp_path / "captions_val.json").write_bytes(content)
    assert message in message_of(load_coco_captions, "val", tmp_path, images="val2014")


def test_another_split_is_another_file(tmp_path):
    write(tmp_path)
    message = message_of(load_coco_captions, "vall", tmp_path, images="val2014")
    assert message == f"{tmp_path}/captions_vall.json: no such file; did you mean captions_val.json?"
