import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def command(*arguments, cwd=ROOT):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


@pytest.mark.parametrize(
    "tool",
    [
        "convert.py",
        "evaluate.py",
        "export.py",
        "extract_features.py",
        "index.py",
        "list_presets.py",
        "make_presets.py",
        "make_teachers.py",
        "page.py",
        "search.py",
        "train.py",
    ],
)
def test_help_has_an_example(tool):
    result = command(ROOT / "tools" / tool, "--help")
    assert result.returncode == 0 and f"python tools/{tool}" in result.stdout


def test_smoke_runs_to_an_evaluated_preset(tmp_path):
    result = command(ROOT / "tools/train.py", ROOT / "recipes/cusa_shapes.yaml", "--smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/cusa_shapes-smoke/best/task.json").exists()
    assert (tmp_path / "runs/cusa_shapes-smoke/metrics.json").exists()
    assert "text to image" in result.stdout


BAD = {
    "key": ("--set", "run.epocks=3", "did you mean 'epochs'?"),
    "type": ("--set", "run.epochs=many", "run.epochs: "),
    "argument": ("--set", "model.image_tower.filters=abc", "TypeError"),
    "tower": ("--set", "model.image_tower.type=conv", "unknown value 'conv'"),
    "folder": ("--data_dir", "nowhere", "there is no folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name, tmp_path):
    flag, value, message = BAD[name]
    recipe = "cusa_flickr8k.yaml" if name == "folder" else "cusa_shapes.yaml"
    result = command(ROOT / "tools/train.py", ROOT / "recipes" / recipe, flag, value, cwd=tmp_path)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_faulty_source_of_a_conversion_is_one_line(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"none")
    for source, message in (("nowhere", "nowhere: no such file"), ("weights.pth", "pass allow_pickle")):
        result = command(ROOT / "tools/convert.py", source, "preset", cwd=tmp_path)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "preset").exists()


def test_debug_shows_the_traceback(tmp_path):
    result = command(ROOT / "tools/train.py", "recipes/none.yaml", "--debug", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" in result.stderr
