import pytest

from keras_itr.files import folder_written_whole


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
