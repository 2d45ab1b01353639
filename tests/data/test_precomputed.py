import numpy as np
import pytest
from support import draw

from keras_itr.data import load_precomputed


def write(folder, split="dev", images=2, rows=None, captions=None, **arrays):
    captions = captions or [f"caption {index}" for index in range(5 * images)]
    np.save(folder / f"{split}_ims.npy", draw(rows or images, 3, 4).astype("float16"))
    (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    for name, array in arrays.items():
        np.save(folder / f"{split}_{name}.npy", array)


def test_reads_one_row_per_image_from_disk(tmp_path):
    write(tmp_path, teacher_text=draw(10, 6), teacher_image=draw(2, 7))
    (tmp_path / "dev_names.txt").write_text("one.jpg\ntwo.jpg\n")
    table = load_precomputed(
        "dev", tmp_path, teacher_text="{split}_teacher_text.npy", teacher_image="{split}_teacher_image.npy"
    )
    assert (table.num_images, table.num_captions) == (2, 10)
    assert isinstance(table.image_columns["regions"], np.memmap)
    assert table.image_names == ["one.jpg", "two.jpg"]
    np.testing.assert_array_equal(table.caption_to_image, np.repeat([0, 1], 5))


def test_rows_repeated_per_caption_are_read_once(tmp_path):
    write(tmp_path)
    features = np.repeat(np.load(tmp_path / "dev_ims.npy"), 5, axis=0)
    np.save(tmp_path / "dev_ims.npy", features)
    table = load_precomputed("dev", tmp_path)
    np.testing.assert_array_equal(np.asarray(table.image_columns["regions"]), features[[0, 5]])


def test_a_teacher_by_id_is_looked_up_by_name(tmp_path):
    teacher = draw(3, 4)
    write(tmp_path, teacher_image=teacher)
    (tmp_path / "dev_names.txt").write_text("b\na\n")
    (tmp_path / "dev_teacher_image_ids.txt").write_text("a\nb\nc\n")
    table = load_precomputed("dev", tmp_path, teacher_image="{split}_teacher_image.npy")
    np.testing.assert_array_equal(table.image_columns["teacher_image"][[0, 1]], teacher[[1, 0]])
    (tmp_path / "dev_names.txt").write_text("b\nz\n")
    with pytest.raises(ValueError, match="no row for id 'z' in dev_teacher_image_ids"):
        load_precomputed("dev", tmp_path, teacher_image="{split}_teacher_image.npy")


def test_ids_without_names_or_given_twice_are_errors(tmp_path):
    write(tmp_path, teacher_image=draw(2, 4))
    (tmp_path / "dev_teacher_image_ids.txt").write_text("a b\nc\n")
    with pytest.raises(ValueError, match="rows by id need the items' names"):
        load_precomputed("dev", tmp_path, teacher_image="{split}_teacher_image.npy")
    (tmp_path / "dev_names.txt").write_text("c\na b\n")
    load_precomputed("dev", tmp_path, teacher_image="{split}_teacher_image.npy")
    (tmp_path / "dev_teacher_image_ids.txt").write_text("c\nc\n")
    with pytest.raises(ValueError, match="an id stands twice"):
        load_precomputed("dev", tmp_path, teacher_image="{split}_teacher_image.npy")


def bad_features(folder):
    features = np.load(folder / "dev_ims.npy")
    features[1, 2, 0] = np.nan
    np.save(folder / "dev_ims.npy", features)


MALFORMED = {
    "empty caption": (lambda f: write(f, captions=["a"] * 4 + [""] + ["b"] * 5), "dev_caps.txt:5: empty caption"),
    "not five": (lambda f: write(f, captions=["a"] * 9), "9 captions are no multiple of lines_per_image=5"),
    "counts": (lambda f: write(f, rows=3), "has 3 rows, but 10 captions at 5 an image need 2"),
    "nan": (lambda f: (write(f), bad_features(f)), "row 1 holds a number that is not finite"),
    "rank": (lambda f: (write(f), np.save(f / "dev_ims.npy", draw(2, 4))), "expected 3 axes, found shape (2, 4)"),
    "names": (lambda f: (write(f), (f / "dev_names.txt").write_text("one\n")), "1 names for 2 images"),
    "no captions": (lambda f: (write(f), (f / "dev_caps.txt").unlink()), "dev_caps.txt: no such file"),
    "no features": (lambda f: (write(f), (f / "dev_ims.npy").rename(f / "dve_ims.npy")), "did you mean dve_ims.npy?"),
    "no folder": (lambda f: None, "no such file"),
    "teacher rows": (lambda f: write(f, teacher_text=draw(9, 4)), "9 rows for 10 items"),
    "pickle": (
        lambda f: (write(f), np.save(f / "dev_teacher_text.npy", np.array([{}] * 10, object), allow_pickle=True)),
        "not a plain .npy array",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, tmp_path):
    make, message = MALFORMED[name]
    make(tmp_path)
    teacher = "{split}_teacher_text.npy" if name in ("teacher rows", "pickle") else None
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_precomputed("dev", tmp_path, teacher_text=teacher)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_precomputed("dev", tmp_path / "nowhere")
