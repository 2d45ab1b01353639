import importlib
import inspect

import numpy as np
import pytest
from reader_support import message_of, touch
from support import draw

from keras_itr.data import RetrievalTable, TrainingPipeline
from keras_itr.data.annotations import Annotations, build_table
from keras_itr.data.features import MissingData
from keras_itr.data.features_per_file import FeaturesPerFile
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.precomputed import load_precomputed

NAMES = ["b.jpg", "sub/a.jpg", "c.png"]
READERS = {
    "karpathy": "load_karpathy",
    "coco_captions": "load_coco_captions",
    "flickr_tokens": "load_flickr_tokens",
    "pairs": "load_pairs",
    "precomputed": "load_precomputed",
}
COLUMNS = (
    "images",
    "features",
    "max_regions",
    "region_boxes",
    "text_features",
    "teacher_image",
    "teacher_text",
    "image_global",
)


def annotations(**changes):
    arguments = {
        "image_names": NAMES,
        "captions": ["a", "b", "c", "d", "e"],
        "caption_to_image": [1, 0, 1, 2, 0],
        "caption_names": ["a#0", "b#0", "a#1", "c#0", "b#1"],
        "source": "by hand",
        **changes,
    }
    return Annotations(**arguments)


def build(folder, **columns):
    return build_table(annotations(), folder, "val", **columns)


def save_regions(folder, lengths=(2, 4, 3), width=5, **extra):
    """One `.npz` per image in bottom-up attention's layout, boxes in pixels of 200 x 100."""
    regions = [draw(length, width, seed=row) for row, length in enumerate(lengths)]
    for row, (name, array) in enumerate(zip(NAMES, regions, strict=True)):
        path = folder / "regions" / f"{name.rpartition('.')[0]}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        boxes = np.tile(np.array([[20, 10, 200, 100 - row]], "float32"), (len(array), 1))
        arrays = {"x": array, "bbox": boxes, "image_w": 200, "image_h": 100, "num_bbox": len(array), **extra}
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return regions


# The arguments that every reader hands on.


@pytest.mark.parametrize("module", READERS)
def test_every_reader_hands_its_columns_to_build_table(module, monkeypatch):
    reader_module = importlib.import_module(f"keras_itr.data.{module}")
    monkeypatch.setattr(reader_module, "build_table", lambda *given, needs: given)
    # The suffix is what `load_pairs` asks for; the value of each argument is its name.
    own = {} if module == "precomputed" else {"annotations": "{split}.tsv"}
    _, directory, split, *columns = getattr(reader_module, READERS[module])(
        "val", "here", **own, **{column: column for column in COLUMNS}
    )
    assert (directory, split, tuple(columns)) == ("here", "val", COLUMNS)
    assert tuple(inspect.signature(build_table).parameters)[3:-1] == COLUMNS


# One array for all.


def test_rows_follow_the_annotation_and_stay_on_disk(tmp_path):
    arrays = {"ims": draw(3, 4, 5), "teacher": draw(3, 6), "text": draw(5, 7), "soft": draw(5, 8)}
    for name, array in arrays.items():
        np.save(tmp_path / f"val_{name}.npy", array)
    table = build(
        tmp_path,
        features="{split}_ims.npy",
        teacher_image="{split}_teacher.npy",
        text_features="{split}_text.npy",
        teacher_text=tmp_path / "val_soft.npy",
    )
    assert isinstance(table.image_columns["regions"], np.memmap)
    for column, name in (("regions", "ims"), ("teacher_image", "teacher")):
        np.testing.assert_array_equal(table.image_columns[column], arrays[name])
    for column, name in (("text_features", "text"), ("teacher_text", "soft")):
        np.testing.assert_array_equal(table.caption_columns[column], arrays[name])
    assert list(table.captions) == ["a", "b", "c", "d", "e"] and table.image_names == NAMES
    np.testing.assert_array_equal(table.caption_to_image, [1, 0, 1, 2, 0])
    assert table.name == f"{tmp_path.name}/val"


def test_images_and_captions_are_looked_up_by_id(tmp_path):
    regions, soft = draw(4, 2, 3), draw(6, 4)
    np.save(tmp_path / "all.npy", regions)
    (tmp_path / "all_ids.txt").write_text("c.png\nother.jpg\nb.jpg\nsub/a.jpg\n")
    np.save(tmp_path / "soft.npy", soft)
    (tmp_path / "soft_ids.txt").write_text("b#1\nb#0\nc#0\na#1\na#0\nz#0\n")
    table = build(tmp_path, features="all.npy", teacher_text="soft.npy")
    np.testing.assert_array_equal(table.image_columns["regions"], regions[[2, 3, 0]])
    np.testing.assert_array_equal(table.caption_columns["teacher_text"], soft[[4, 1, 3, 2, 0]])


def test_rows_per_caption_are_read_at_the_first_of_each_image(tmp_path):
    repeated = draw(5, 2, 3)
    np.save(tmp_path / "ims.npy", repeated)
    table = build(tmp_path, features="ims.npy")
    np.testing.assert_array_equal(table.image_columns["regions"], repeated[[1, 0, 3]])


# Photos.


def test_photos_are_paths_in_the_image_folder(tmp_path):
    touch(tmp_path / "photos_val", NAMES)
    table = build(tmp_path, images="photos_{split}")
    assert list(table.image_columns["images"]) == [str(tmp_path / "photos_val" / name) for name in NAMES]
    row = TrainingPipeline(table, batch_size=2).rows(0)
    assert row["images"].dtype == object and row["images"].shape == (2,)


def test_a_photo_lies_at_its_annotated_path_or_under_its_name(tmp_path):
    given = annotations(image_paths=["one/b.jpg", "one/sub/a.jpg", "one/c.png"])
    # In its folder although there is another of that name; its folder not there; in the folder where others are not.
    touch(tmp_path, ["b.jpg", "one/b.jpg", "sub/a.jpg", "c.png"])
    table = build_table(given, tmp_path, "val", images="")
    assert list(table.image_columns["images"]) == [str(tmp_path / name) for name in ("one/b.jpg", "sub/a.jpg", "c.png")]


def test_a_missing_photo_is_named_where_the_others_are(tmp_path):
    given = annotations(image_paths=["one/b.jpg", "one/sub/a.jpg", "one/c.png"])
    touch(tmp_path, ["flat/b.jpg", "flat/sub/a.jpg", "folders/one/b.jpg", "folders/one/sub/a.jpg"])
    assert "the first is " + str(tmp_path / "flat/c.png") in message_of(build_table, given, tmp_path, "", images="flat")
    message = message_of(build_table, given, tmp_path, "", images="folders")
    assert "the first is " + str(tmp_path / "folders/one/c.png") in message


def test_missing_photos_are_counted(tmp_path):
    touch(tmp_path / "photos", ["b.jpg", "c.jpg"])
    (tmp_path / "photos" / "sub" / "a.jpg").mkdir(parents=True)  # a folder is no photo
    touch(tmp_path / "photos" / "sub", ["aa.jpg"])
    message = message_of(build, tmp_path, images="photos")
    assert "images: 2 of 3 files are missing, the first is" in message
    assert message.endswith("sub/a.jpg; the nearest name there is aa.jpg.")


def test_missing_photos_and_features_are_reported_together_before_any_array_is_read(tmp_path):
    touch(tmp_path / "photos", ["b.jpg", "sub/a.jpg"])
    save_regions(tmp_path)
    (tmp_path / "regions" / "c.npz").rename(tmp_path / "regions" / "d.npz")
    (tmp_path / "regions" / "b.npz").write_bytes(b"broken")
    message = message_of(build, tmp_path, images="photos", features="regions/{stem}.npz")
    assert "images: 1 of 3 files are missing" in message and "features: 1 of 3 files are missing" in message


# One file per image.


def test_one_file_per_image_is_padded_and_masked(tmp_path):
    regions = save_regions(tmp_path)
    table = build(tmp_path, features="regions/{stem}.npz", region_boxes="regions/{stem}.npz")
    columns = table.image_columns
    assert columns["regions"].shape == (3, 4, 5) and columns["regions"].dtype == np.float32
    np.testing.assert_array_equal(columns["region_mask"], np.arange(4) < np.array([[2], [4], [3]]))
    expected = np.zeros((3, 4, 5), "float32")
    boxes = np.zeros((3, 4, 4), "float32")
    for row, array in enumerate(regions):
        expected[row, : len(array)] = array
        boxes[row, : len(array)] = [0.1, 0.1, 1.0, 1.0 - 0.01 * row]
    np.testing.assert_array_equal(columns["regions"], expected)
    np.testing.assert_allclose(columns["region_boxes"], boxes, rtol=1e-6)


def test_rows_of_a_column_of_files_are_those_of_the_whole(tmp_path):
    save_regions(tmp_path)
    column = FeaturesPerFile([tmp_path / "regions" / f"{stem}.npz" for stem in ("b", "sub/a", "c")])
    whole = np.asarray(column)
    for rows in (1, -1, slice(1, 3), [2, 0, 2], np.array([1, 1]), np.array([True, False, True])):
        np.testing.assert_array_equal(column[rows], whole[rows])
    assert column[[]].shape == (0, 4, 5) and len(column) == 3 and column.ndim == 3


def test_a_column_of_files_reads_no_more_than_was_asked_for(tmp_path):
    save_regions(tmp_path)
    column = FeaturesPerFile([str(tmp_path / "regions" / f"{stem}.npz") for stem in ("b", "sub/a", "c")])
    read, column.read = [], lambda path, read_file=column.read: (read.append(path), read_file(path))[1]
    column[[2, 0]]
    assert [path[-5:] for path in read] == ["c.npz", "b.npz"]


def test_the_first_regions_are_kept_where_there_are_more_than_max_regions(tmp_path):
    regions = save_regions(tmp_path)
    columns = build(
        tmp_path, features="regions/{stem}.npz", max_regions=3, region_boxes="regions/{stem}.npz"
    ).image_columns
    np.testing.assert_array_equal(columns["regions"][1], regions[1][:3])
    np.testing.assert_array_equal(columns["region_mask"].sum(axis=1), [2, 3, 3])
    assert columns["region_boxes"].shape == (3, 3, 4)
    wide = build(tmp_path, features="regions/{stem}.npz", max_regions=9).image_columns
    assert wide["regions"].shape == (3, 9, 5) and wide["region_mask"].sum() == 9


def test_npy_files_by_full_name_and_a_teacher_per_image(tmp_path):
    regions, teachers = draw(3, 2, 4).astype("float16"), draw(3, 6)
    for row, name in enumerate(NAMES):
        for kind, array in (("regions", regions[row]), ("teachers", teachers[row])):
            (tmp_path / "val" / kind / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "val" / kind / f"{name}.npy", array)
    columns = build(
        tmp_path,
        features="{split}/regions/{name}.npy",
        teacher_image="{split}/teachers/{name}.npy",
        image_global="{split}/teachers/{name}.npy",
    ).image_columns
    assert columns["regions"].dtype == np.float16
    np.testing.assert_array_equal(columns["regions"], regions)
    np.testing.assert_array_equal(columns["teacher_image"], teachers)
    np.testing.assert_array_equal(columns["image_global"], teachers)


@pytest.mark.parametrize("key", ["features", "feat", "x"])
def test_names_of_the_array_in_an_archive(key, tmp_path):
    array = draw(2, 3)
    # A pickled array beside it, as bottom-up attention's archives have, is no harm: it is never read.
    np.savez(tmp_path / "one.npz", **{key: array}, info=np.array({"objects": []}, dtype=object))
    np.testing.assert_array_equal(FeaturesPerFile([tmp_path / "one.npz"])[0], array)


def test_half_precision_beside_single_is_single(tmp_path):
    np.save(tmp_path / "a.npy", np.float32([[0.1]]))
    np.save(tmp_path / "b.npy", np.float16([[1.5]]))
    column = FeaturesPerFile([tmp_path / "a.npy", tmp_path / "b.npy"])
    assert column[[0, 1]].dtype == np.float32 and column[0][0, 0] == np.float32(0.1)


def test_batches_and_subsets_of_a_table_of_files(tmp_path):
    regions = save_regions(tmp_path)
    table = build(tmp_path, features="regions/{stem}.npz")
    batch = TrainingPipeline(table, batch_size=5).rows(0)
    for image, rows, mask in zip(batch["image_id"], batch["regions"], batch["region_mask"], strict=True):
        np.testing.assert_array_equal(rows[mask], regions[image])
    first = table.subset(1)
    np.testing.assert_array_equal(np.asarray(first.image_columns["regions"])[0, :2], regions[0])


# Boxes.


def test_boxes_that_are_scaled_already_stay(tmp_path):
    boxes = np.array([[0.1, 0.2, 0.5, 1.0]], "float32")
    save_regions(tmp_path, lengths=(1, 1, 1), bbox=None, boxes=boxes)
    columns = build(tmp_path, features="regions/{stem}.npz", region_boxes="regions/{stem}.npz").image_columns
    np.testing.assert_array_equal(columns["region_boxes"][2], boxes)


def test_boxes_in_one_array_beside_features_in_many(tmp_path):
    save_regions(tmp_path)
    boxes = np.tile(np.float32([0, 0, 0.5, 1]), (3, 4, 1))
    np.save(tmp_path / "boxes.npy", boxes)
    columns = build(tmp_path, features="regions/{stem}.npz", region_boxes="boxes.npy").image_columns
    np.testing.assert_array_equal(columns["region_boxes"], boxes)


# What must be refused.


def save(folder, name, array):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)


def boxes_with(folder, row, region, box):
    save(folder, "val_ims.npy", draw(3, 2, 4))
    boxes = np.tile(np.float32([0, 0, 0.5, 1]), (3, 2, 1))
    boxes[row, region] = box
    save(folder, "val_boxes.npy", boxes)


def not_finite(folder, value):
    regions = save_regions(folder)
    regions[1][3, 2] = value
    np.savez(folder / "regions" / "sub" / "a.npz", x=regions[1])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


PER_FILE = {"features": "regions/{stem}.npz"}
WITH_BOXES = {**PER_FILE, "region_boxes": "regions/{stem}.npz"}
ONE_FILE = {"features": "{split}_ims.npy"}
ONE_BOXES = {**ONE_FILE, "region_boxes": "{split}_boxes.npy"}
MALFORMED = {
    "nothing to embed": (lambda f: None, {"teacher_text": "t.npy"}, "give images (a folder of photos) or features"),
    "not a pattern": (lambda f: None, {"features": 5}, "features=5: must be the name of a file"),
    "unknown placeholder": (lambda f: None, {"features": "{spilt}.npy"}, "unknown {spilt}; placeholders are {split},"),
    "placeholder nearest": (lambda f: None, {"features": "{spilt}.npy"}, "did you mean '{split}'?"),
    "text per image": (lambda f: None, {**ONE_FILE, "text_features": "{stem}.npy"}, "text_features='{stem}.npy': unkn"),
    "open brace": (lambda f: None, {"features": "{split_ims.npy"}, "features='{split_ims.npy': expected '}'"),
    "boxes alone": (lambda f: None, {"images": "i", "region_boxes": "b.npy"}, "region_boxes: boxes belong to regions"),
    "max_regions zero": (lambda f: None, {**PER_FILE, "max_regions": 0}, "max_regions=0: must be a whole number of at"),
    "max_regions as text": (lambda f: None, {**PER_FILE, "max_regions": "all"}, "max_regions='all': must be a whole"),
    "max_regions, one file": (
        lambda f: None,
        {**ONE_FILE, "max_regions": 3},
        "max_regions: needs one file of features",
    ),
    "rows": (lambda f: save(f, "val_ims.npy", draw(4, 2, 3)), ONE_FILE, "4 rows for 3 images (or 5, one per caption)"),
    "axes": (
        lambda f: save(f, "val_ims.npy", draw(3, 4)),
        ONE_FILE,
        "val_ims.npy: expected 3 axes, found shape (3, 4)",
    ),
    "strings": (lambda f: save(f, "val_ims.npy", np.array(["a"])), ONE_FILE, "rows of numbers are needed, found <U1"),
    "an archive for all": (
        lambda f: np.savez(f / "val.npz", x=draw(3, 2, 4)),
        {"features": "{split}.npz"},
        "val.npz: is an archive; one file for all is a .npy, one per image has {name} or {stem}",
    ),
    "empty array file": (lambda f: touch(f, ["val_ims.npy"]), ONE_FILE, "val_ims.npy: not a plain .npy array (No data"),
    "cut array file": (
        lambda f: (save(f, "val_ims.npy", draw(3, 2, 4)), truncate(f / "val_ims.npy")),
        ONE_FILE,
        "val_ims.npy: not a plain .npy array (mmap length",
    ),
    "same stem": (
        lambda f: (f / "regions").mkdir(),
        {"features": "regions/{stem:.0}.npz"},
        "images 'b.jpg' and 'sub/a.jpg' would both read",
    ),
    "not finite in a file": (lambda f: not_finite(f, np.nan), PER_FILE, "sub/a.npz: row 3 holds a number that is not"),
    "infinite in a file": (lambda f: not_finite(f, np.inf), PER_FILE, "sub/a.npz: row 3 holds a number that is not"),
    "other width": (
        lambda f: (save_regions(f), np.savez(f / "regions" / "c.npz", x=draw(3, 6))),
        PER_FILE,
        "c.npz: width 6, but ",
    ),
    "other axes": (
        lambda f: (save_regions(f), np.savez(f / "regions" / "c.npz", x=draw(1, 3, 5))),
        PER_FILE,
        "c.npz: expected 2 axes, found shape (1, 3, 5)",
    ),
    "no region": (lambda f: save_regions(f, lengths=(2, 0, 1)), PER_FILE, "sub/a.npz: holds no numbers, shape (0, 5)"),
    "integers": (
        lambda f: save_regions(f, x=np.ones((2, 5), int)),
        PER_FILE,
        "b.npz: features must be floats, found i",
    ),
    "transposed": (lambda f: save_regions(f, num_bbox=5), PER_FILE, "shape (2, 5) for num_bbox=5; one row per region"),
    "no such array": (
        lambda f: save_regions(f, x=None),
        PER_FILE,
        "no array 'features' or 'feat' or 'x' in the archiv",
    ),
    "pickled array": (
        lambda f: save_regions(f, x=np.array({"a": 1}, dtype=object)),
        PER_FILE,
        "b.npz: not a plain .npy or .npz array (Object arrays cannot be loaded when allow_pickle=False)",
    ),
    "cut archive": (
        lambda f: (save_regions(f), truncate(f / "regions" / "c.npz")),
        PER_FILE,
        "c.npz: not a plain .npy or .npz array (File is not a zip file)",
    ),
    "empty file": (
        lambda f: (save_regions(f), (f / "regions" / "c.npz").write_bytes(b"")),
        PER_FILE,
        "c.npz: not a plain .npy or .npz array (No data left in file)",
    ),
    "text for an array": (
        lambda f: (save_regions(f), (f / "regions" / "c.npz").write_text("hello")),
        PER_FILE,
        "c.npz: not a plain .npy or .npz array (",
    ),
    "no boxes": (
        lambda f: save_regions(f, bbox=None),
        WITH_BOXES,
        "b.npz: no array 'boxes' or 'bbox' in the archive; ",
    ),
    "pixels without a size": (
        lambda f: save_regions(f, image_w=None),
        WITH_BOXES,
        "b.npz: row 0 is the box (20, 10, 200, 100); a box is x1, y1, x2, y2 with 0 <= x1 <= x2 <= 1",
    ),
    "no width": (lambda f: save_regions(f, image_w=0), WITH_BOXES, "b.npz: image_w must be one positive number, got 0"),
    "other number of boxes": (
        lambda f: save_regions(f, bbox=np.zeros((3, 4), "float32")),
        WITH_BOXES,
        "b.npz: 3 boxes for the image's 2 regions",
    ),
    "boxes of five": (lambda f: save_regions(f, bbox=np.ones((2, 5))), WITH_BOXES, "found shape (2, 5)"),
    "box outside": (
        lambda f: boxes_with(f, 2, 1, [0, 0, 1.2, 1]),
        ONE_BOXES,
        "row 2, region 1 is the box (0, 0, 1.2, 1",
    ),
    "box below": (
        lambda f: boxes_with(f, 0, 1, [0, 0, 1, 1.5]),
        ONE_BOXES,
        "row 0, region 1 is the box (0, 0, 1, 1.5)",
    ),
    "box left": (lambda f: boxes_with(f, 0, 1, [-0.1, 0, 1, 1]), ONE_BOXES, "region 1 is the box (-0.1, 0, 1, 1)"),
    "box above": (lambda f: boxes_with(f, 0, 1, [0, -0.1, 1, 1]), ONE_BOXES, "region 1 is the box (0, -0.1, 1, 1)"),
    "box not finite": (lambda f: boxes_with(f, 2, 0, np.nan), ONE_BOXES, "row 2 holds a number that is not finite"),
    "box backwards": (
        lambda f: boxes_with(f, 1, 0, [0.5, 0, 0.2, 1]),
        ONE_BOXES,
        "row 1, region 0 is the box (0.5, 0,",
    ),
    "box upside down": (lambda f: boxes_with(f, 0, 0, [0, 0.9, 0.2, 0.1]), ONE_BOXES, "row 0, region 0 is the box (0,"),
    "boxes for fewer regions": (
        lambda f: (boxes_with(f, 0, 0, 0), save(f, "val_ims.npy", draw(3, 9, 4))),
        ONE_BOXES,
        "val_boxes.npy: 2 boxes an image for 9 regions",
    ),
    "ids that are not text": (
        lambda f: (save(f, "val_ims.npy", draw(3, 2, 4)), (f / "val_ims_ids.txt").write_bytes(b"a\n\xff\n")),
        ONE_FILE,
        "val_ims_ids.txt:2: byte 0xff is not UTF-8",
    ),
    "teacher of regions": (
        lambda f: (save_regions(f), save(f, "val_t.npy", draw(3, 2, 4))),
        {**PER_FILE, "teacher_image": "{split}_t.npy"},
        "val_t.npy: expected 2 axes, found shape (3, 2, 4)",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, tmp_path):
    make, columns, message = MALFORMED[name]
    make(tmp_path)
    assert message in message_of(build, tmp_path, **columns)


# Missing data.


def test_all_that_is_missing_is_named_at_once_before_the_annotation_is_read(tmp_path):
    touch(tmp_path, ["dataset_coco.json"])
    (tmp_path / "photos").mkdir()

    def read():
        raise AssertionError("read too early")

    with pytest.raises(MissingData) as caught:
        build_table(
            read,
            tmp_path,
            "val",
            images="fotos",
            features="regions/{split}/{stem}.npz",
            teacher_text="{split}_teacher.npy",
            needs=[tmp_path / "dataset_coc.json"],
        )
    assert str(caught.value) == (
        f"4 files or folders are missing. {tmp_path}/dataset_coc.json: no such file; did you mean dataset_coco.json? "
        f"{tmp_path}/val_teacher.npy: no such file. {tmp_path}/fotos: no such folder; did you mean photos? "
        f"{tmp_path}/regions/val: there is no folder {tmp_path}/regions; set data.directory or pass --data_dir."
    )


def test_a_data_folder_that_is_not_there_is_named_once(tmp_path):
    message = message_of(
        build_table, annotations, tmp_path / "no", "val", images="photos", needs=[tmp_path / "no" / "a.json"]
    )
    assert message == (
        "2 files or folders are missing. "
        f"For a.json, photos there is no folder {tmp_path}/no; set data.directory or pass --data_dir."
    )


@pytest.mark.parametrize(("argument", "kind"), [("images", "file"), ("features", "folder")])
def test_a_folder_for_a_file_and_a_file_for_a_folder(argument, kind, tmp_path):
    (tmp_path / "folder").mkdir()
    touch(tmp_path, ["file"])
    wanted = {"file": "folder", "folder": "file"}[kind]
    assert message_of(build, tmp_path, **{argument: kind}) == f"{tmp_path}/{kind}: is a {kind}; a {wanted} is needed."


# The rest.


def test_patterns_fill_in_names_with_their_folders():
    pattern = FilePattern("features", "{split}/{stem}_x.npy", "data", "val")
    assert pattern.paths(["a/b.c.jpg", "d"]) == ["data/val/a/b.c_x.npy", "data/val/d_x.npy"]
    assert pattern.per_image and str(pattern.folder) == "data/val"
    assert not FilePattern("features", "{split}_ims.npy", "data", "val").per_image


def test_precomputed_captions_with_features_per_image_and_photos(tmp_path):
    save_regions(tmp_path)
    touch(tmp_path / "photos", NAMES)
    (tmp_path / "val_caps.txt").write_text("".join(f"caption {number}\n" for number in range(6)))
    arguments = {"features": "regions/{stem}.npz", "images": "photos", "lines_per_image": 2}
    assert "val_caps.txt: features needs the images' names; write them into val_names.txt" in message_of(
        load_precomputed, "val", tmp_path, **{**arguments, "images": None}
    )
    (tmp_path / "val_names.txt").write_text("\n".join(NAMES))
    soft = draw(6, 4)
    np.save(tmp_path / "soft.npy", soft)
    (tmp_path / "soft_ids.txt").write_text("".join(f"{name}#{k}\n" for k in (1, 0) for name in NAMES))
    table = load_precomputed("val", tmp_path, teacher_text="soft.npy", **arguments)
    assert set(table.image_columns) == {"images", "regions", "region_mask"}
    np.testing.assert_array_equal(table.caption_columns["teacher_text"], soft[[3, 0, 4, 1, 5, 2]])
    arguments["lines_per_image"] = 0
    assert "lines_per_image=0: must be a whole number" in message_of(load_precomputed, "val", tmp_path, **arguments)


def test_summary_of_a_table():
    def summary(owners, count):
        return RetrievalTable(
            {"regions": draw(count, 1, 1)}, {"text": ["a"] * len(owners)}, owners, name="d/s"
        ).summary()

    assert summary([0, 0, 1], 2) == "d/s: 2 images, 3 captions (1 to 2 an image)"
    assert summary(list(range(1000)) * 5, 1000) == "d/s: 1,000 images, 5,000 captions (5 an image)"


def test_annotations_know_their_number_of_images():
    assert annotations().num_images == annotations(image_names=None).num_images == 3
