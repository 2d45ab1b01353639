"""tools/index.py and tools/search.py: from photos to a page, and faults in one line."""

import json

import keras
import pytest
import tensorflow as tf
from test_commands import ROOT, command

from keras_itr.data import load_shapes

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="flags alone; once is enough")


def test_photos_to_a_page(tmp_path):
    table = load_shapes("test", num_scenes=3)
    (tmp_path / "photos").mkdir()
    for scene, pixels in enumerate(table.image_columns["images"]):
        (tmp_path / f"photos/{scene}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (tmp_path / "photos/broken.jpg").write_bytes(b"none")
    result = command(ROOT / "tools/index.py", "cusa_shapes", "photos", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "gallery: 3 photos, 3 embedded now" in result.stdout and "broken.jpg is no readable" in result.stdout
    caption = table.captions[0]
    flags = ("--k", "2", "--json", "found.json", "--html", "found.html")
    result = command(ROOT / "tools/search.py", caption, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0].split() == ["rank", "score", "photo"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["query"] == caption and len(found["items"]) == 2
    assert (tmp_path / "found.html").read_text().count("data:image/jpeg") == 2
    result = command(ROOT / "tools/search.py", caption, "--index", "none", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: none: there is no such folder")]
