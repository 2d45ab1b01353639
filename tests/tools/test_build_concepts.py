"""The command that makes concept graphs: every layout, equal bytes, one split alone, errors of one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_itr.data import ConceptGraph, build_concept_graph

ROOT = Path(__file__).parent.parent.parent
TRAIN = ["A man riding a horse.", "the brown horse, running", "a man and a dog", "a dog is running; it's a dog"]
TEST = ["a zebra in the snow", "a brown zebra"]


def command(*arguments, cwd=ROOT):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    tool = [sys.executable, ROOT / "tools/build_concepts.py"]
    return subprocess.run([*tool, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def karpathy(path, **splits):
    """Karpathy's JSON of splits, one image of all the captions each; there is no photo."""
    images = [
        {"filename": f"{split}.jpg", "split": split, "sentences": [{"raw": caption} for caption in captions]}
        for split, captions in splits.items()
    ]
    path.write_text(json.dumps({"images": images}))
    return path


def outputs(path):
    return path.read_bytes(), path.with_name(f"{path.stem}_summary.json").read_bytes()


def test_help_has_an_example():
    result = command("--help")
    assert result.returncode == 0 and "python tools/build_concepts.py flickr8k/train_caps.txt" in result.stdout


def test_a_karpathy_file_twice_and_with_an_unseen_caption(tmp_path):
    source = karpathy(tmp_path / "dataset.json", train=TRAIN[:3], restval=TRAIN[3:])
    for name in ("one", "two"):
        result = command(source.name, "--output", f"{name}.npz", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    karpathy(source, train=TRAIN[:3], restval=TRAIN[3:], test=TEST, val=TEST[:1])
    build_concept_graph(source, tmp_path / "three.npz", verbose=False)
    assert outputs(tmp_path / "one.npz") == outputs(tmp_path / "two.npz") == outputs(tmp_path / "three.npz")
    first, second = result.stdout.splitlines()
    assert first == "4 captions, 6 concepts, 16 edges: two.npz, two_summary.json"
    assert second.startswith("strongest: brown -> horse 1.00, ")
    assert {path.name for path in tmp_path.iterdir()} == {
        source.name,
        *(f"{name}{end}" for name in ("one", "two", "three") for end in (".npz", "_summary.json")),
    }
    graph = ConceptGraph.load(tmp_path / "one.npz")
    expected = ConceptGraph.from_captions(TRAIN)
    assert graph.concepts == expected.concepts == ["dog", "horse", "man", "running", "brown", "riding"]
    np.testing.assert_array_equal(graph.embeddings, expected.embeddings)
    assert graph.settings == {**expected.settings, "source": "dataset.json", "split": "train"}
    summary = json.loads((tmp_path / "one_summary.json").read_text())
    assert summary["num_edges"] == graph.num_edges == 16
    assert summary["concepts"][0]["count"] == 2


def test_every_layout_gives_the_same_graph(tmp_path):
    rows = [("one.jpg", caption) for caption in TRAIN[:2]] + [("two.jpg", caption) for caption in TRAIN[2:]]
    keyed = [(f"{image}#{number}", caption) for number, (image, caption) in enumerate(rows)]
    files = {
        "train_caps.txt": "\n".join(TRAIN) + "\n",
        "mine.txt": "\r\n\r\n".join(TRAIN),
        "pairs.tsv": "image\tcaption\tsplit\n"
        + "".join(f"{image}\t{caption}\ttrain\n" for image, caption in rows)
        + "three.jpg\ta zebra\ttest\n",
        "pairs.jsonl": "".join(json.dumps({"image": i, "caption": c, "split": "train"}) + "\n" for i, c in rows),
        "results.token": "".join(f"{key}\t{caption}\n" for key, caption in keyed) + "three.jpg#0\ta zebra\n",
        "train.txt": "one.jpg\ntwo.jpg\n",
        "captions_train2017.json": json.dumps(
            {
                "images": [{"id": 1, "file_name": "one.jpg"}],
                "annotations": [{"id": i, "image_id": 1, "caption": caption} for i, caption in enumerate(TRAIN)],
            }
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, newline="")
    expected = ConceptGraph.from_captions(TRAIN)
    for name in set(files) - {"train.txt"}:
        graph = build_concept_graph(tmp_path / name, tmp_path / "graph.npz", verbose=False)
        assert graph.concepts == expected.concepts, name
        np.testing.assert_array_equal(graph.cooccurrence, expected.cooccurrence)


def test_word_classes_quotas_and_vectors(tmp_path):
    (tmp_path / "train_caps.txt").write_text("\n".join(TRAIN))
    (tmp_path / "classes.tsv").write_text(
        "Man\tobject\nhorse\tobject\ndog\tobject\nbrown\tproperty\nrunning\tmotion\nriding\tmotion\nunicorn\tobject\n"
    )
    (tmp_path / "glove.txt").write_text("dog 1 2\nhorse 3 4\nbrown 5 6\nrunning 7 8\n")
    flags = ["--num_concepts", "4", "--quotas", "2", "1", "1", "--word_classes", "classes.tsv", "--glove", "glove.txt"]
    result = command("train_caps.txt", "--output", "out/graph.npz", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    graph = ConceptGraph.load(tmp_path / "out/graph.npz")
    assert graph.concepts == ["dog", "horse", "brown", "running"]
    assert graph.classes == ["object", "object", "property", "motion"]
    assert graph.embeddings.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert (graph.settings["word_classes"], graph.settings["embeddings"]) == ("classes.tsv", "glove.txt")
    rows = json.loads((tmp_path / "out/graph_summary.json").read_text())["concepts"]
    assert [row["class"] for row in rows] == graph.classes
    # Without quotas they are those of the paper, of which these captions fill a few.
    graph = build_concept_graph(
        tmp_path / "train_caps.txt", tmp_path / "graph.npz", word_classes=tmp_path / "classes.tsv", verbose=False
    )
    assert graph.concepts == ["dog", "horse", "man", "brown", "running", "riding"]


BAD = {
    "absent": (["train_cap.txt"], "train_cap.txt: no such file; did you mean train_caps.txt?"),
    "other split": (["dev_caps.txt"], "by its name this file holds split 'dev', not 'train'"),
    "other split of COCO": (["captions_val.json"], "by its name this file holds split 'val', not 'train'"),
    "unknown split": (["dataset.json", "--split", "trian"], "no image of split 'trian'"),
    "suffix": (["photos.zip"], "no annotation file is called '.zip'"),
    "quotas alone": (["train_caps.txt", "--quotas", "2", "1", "1"], "give word_classes too"),
    "quotas": (
        ["train_caps.txt", "--quotas", "2", "1", "1", "--word_classes", "classes.tsv"],
        "quotas must be three numbers that make num_concepts 300",
    ),
    "class": (["train_caps.txt", "--word_classes", "objekt.tsv"], "objekt.tsv:2: unknown class 'objekt'"),
    "second class": (
        ["train_caps.txt", "--word_classes", "twice.tsv"],
        "twice.tsv:2: 'Dog' is object above and motion here",
    ),
    "no class": (["train_caps.txt", "--word_classes", "train_caps.txt"], "train_caps.txt:1: must be a word, a tab"),
    "glove": (["train_caps.txt", "--glove", "none.txt"], "none.txt: no such file"),
    "number": (["train_caps.txt", "--num_concepts", "0"], "num_concepts must be at least 1, got 0"),
    "output": (["train_caps.txt", "--output", "graph.json"], "must end in .npz"),
    "folder that is a file": (
        ["train_caps.txt", "--output", "dev_caps.txt/graph.npz"],
        "dev_caps.txt/graph.npz: cannot be written (File exists).",
    ),
    "file that is a folder": (
        ["train_caps.txt", "--output", "taken.npz"],
        "error: taken.npz is there and is no file; name a file to write.",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions")
    for name in ("train_caps.txt", "dev_caps.txt", "photos.zip"):
        (path / name).write_text("\n".join(TRAIN))
    (path / "captions_val.json").write_text('{"images": [], "annotations": []}')
    karpathy(path / "dataset.json", train=TRAIN)
    (path / "taken.npz").mkdir()
    (path / "classes.tsv").write_text("dog\tobject\n")
    (path / "objekt.tsv").write_text("dog\tobject\nman\tobjekt\n")
    (path / "twice.tsv").write_text("dog\tobject\nDog\tmotion\n")
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_to_do_and_leaves_nothing(name, folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.chdir(folder)
    import build_concepts
    import command_line

    arguments, message = BAD[name]
    monkeypatch.setattr(sys, "argv", ["build_concepts.py", "--output", "graph.npz", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command_line.run(build_concepts.parser(), build_concepts.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(folder.glob("graph*"))


def test_the_split_that_a_name_holds_may_be_asked_for(folder, tmp_path):
    graph = build_concept_graph(folder / "dev_caps.txt", tmp_path / "graph.npz", split="dev", verbose=False)
    assert graph.settings["split"] == "dev" and graph.settings["captions"] == 4
