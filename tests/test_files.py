import pytest

from keras_itr.files import complete_replacement, folder_written_whole, read_unreplaced, written_whole


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "above/preset"
    with pytest.raises(RuntimeError), folder_written_whole(path) as aside:
        (aside / "a.txt").write_text("half")
        raise RuntimeError
    assert list((tmp_path / "above").iterdir()) == []
    with folder_written_whole(path) as aside:
        (aside / "a.txt").write_text("whole")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "whole" and list((tmp_path / "above").iterdir()) == [path]


def test_a_folder_that_is_there_is_replaced_only_when_asked_to(tmp_path):
    path = tmp_path / "preset"
    path.mkdir()
    (path / "a.txt").write_text("old")
    with pytest.raises(ValueError, match="is there already"), folder_written_whole(path):
        pass
    with pytest.raises(RuntimeError), folder_written_whole(path, overwrite=True):
        raise RuntimeError
    assert (path / "a.txt").read_text() == "old"
    with folder_written_whole(path, overwrite=True) as aside:
        (aside / "b.txt").write_text("new")
    assert [file.name for file in path.iterdir()] == ["b.txt"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    with folder_written_whole(tmp_path / "a") as aside:
        (aside / "x").write_text("mine")
        with (
            pytest.raises(ValueError, match="a is being written by another process"),
            folder_written_whole(tmp_path / "a"),
        ):
            pass
        complete_replacement(tmp_path / "a")
        assert (aside / "x").read_text() == "mine"
    assert (tmp_path / "a/x").read_text() == "mine"


def test_what_is_read_is_of_one_version(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
        (tmp_path / name / "y").write_text(name)
    (tmp_path / "a").symlink_to(tmp_path / "one")
    seen = []

    def read():
        seen.append((tmp_path / "a" / "x").read_text())
        if len(seen) == 1:
            # Another process puts the second version in its place.
            (tmp_path / "a").unlink()
            (tmp_path / "a").symlink_to(tmp_path / "two")
        return seen[-1], (tmp_path / "a" / "y").read_text()

    assert read_unreplaced(tmp_path / "a", read) == ("two", "two") and len(seen) == 2

    def damaged():
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        read_unreplaced(tmp_path / "a", damaged)


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    with written_whole(tmp_path / "link.json") as aside:
        aside.write_text("new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "target.json").read_text() == "new"
    with pytest.raises(ValueError, match="is there and is no file"), written_whole("/dev/null"):
        pass
