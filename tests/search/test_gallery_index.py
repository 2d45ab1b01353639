"""A gallery index against brute force: engines, ties, changes, files; what is damaged is named."""

import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest

from keras_itr import files
from keras_itr.search import GalleryIndex
from keras_itr.search.index_files import read_manifest
from keras_itr.search.sampling import evenly, share_found

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="NumPy alone; once is enough")


def unit(count, seed=0, dim=16):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype("float32")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


VECTORS, QUERIES = unit(500), unit(30, seed=1)
NAMES = [f"{number:03}.jpg" for number in range(500)]


def best(vectors, queries, k):
    """Places by a sort of all products."""
    products = queries.astype("float64") @ vectors.astype("float64").T
    return np.argsort(-products, axis=1, kind="stable")[:, :k], -np.sort(-products, axis=1)[:, :k]


def make(engine, tmp_path, **settings):
    if engine == "faiss":
        pytest.importorskip("faiss", reason="the engine faiss is not installed")
        # All lists are searched: nothing is missed.
        settings = {"approximate_above": 100, "lists": 8, "probes": 8, **settings}
    if engine == "milvus":
        pytest.importorskip("pymilvus", reason="the engine milvus is not installed")
        pytest.importorskip("milvus_lite", reason="the embedded Milvus is not installed")
        settings = {"uri": str(tmp_path / "gallery.db"), **settings}
    return GalleryIndex(engine=engine, **settings)


ENGINES = ("exact", "faiss", "milvus")


@pytest.mark.parametrize("engine", ENGINES)
def test_finds_changes_and_comes_back(engine, tmp_path):
    index = make(engine, tmp_path)
    index.add(NAMES[:300], VECTORS[:300])
    index.add(NAMES[300:], VECTORS[300:])
    places, products = best(VECTORS, QUERIES, 7)
    ids, scores = index.search(QUERIES, 7)
    np.testing.assert_array_equal(ids, np.array(NAMES)[places])
    np.testing.assert_allclose(scores, products, atol=1e-6)
    assert scores.dtype == np.float32 and len(index) == 500 and "007.jpg" in index and "x" not in index

    gone = [NAMES[place] for place in places[0, :3]]
    index.delete(gone)
    moved = NAMES[places[0, 3]]
    index.add([moved], -VECTORS[places[0, 3]][None], replace=True)
    assert len(index) == 497 and gone[0] not in index and index.ids[-1] == moved
    now = VECTORS.copy()
    now[places[0, 3]] *= -1
    kept = np.array([place for place, name in enumerate(NAMES) if name not in gone])
    expected = np.array(NAMES)[kept[best(now[kept], QUERIES, 9)[0]]]
    np.testing.assert_array_equal(index.search(QUERIES, 9)[0], expected)
    np.testing.assert_array_equal(index.vectors([moved, "001.jpg"]), now[[places[0, 3], 1]])

    index.notes = {"made of": "noise"}
    index.save(tmp_path / "saved")
    again = GalleryIndex.load(tmp_path / "saved")
    assert again.ids == index.ids and again.notes == index.notes and again.settings == index.settings
    for one, other in zip(again.search(QUERIES, 9), index.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    # What was loaded grows, shrinks and is saved over itself.
    again.add(["new.jpg"], QUERIES[:1])
    again.delete(["000.jpg"])
    assert again.search(QUERIES[:1], 1)[0].tolist() == [["new.jpg"]]
    again.save(tmp_path / "saved")
    last = GalleryIndex.load(tmp_path / "saved", verify=False)
    assert last.ids == again.ids and len(last) == 497
    np.testing.assert_array_equal(last.search(QUERIES, 20)[0], again.search(QUERIES, 20)[0])
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".saved")]


@pytest.mark.parametrize("engine", ("exact", "faiss"))
@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_vectors_stay_on_disk_in_their_type(engine, dtype, tmp_path):
    index = make(engine, tmp_path, dtype=dtype)
    index.add(range(500), VECTORS)
    rounded = VECTORS.astype(dtype).astype("float32")
    np.testing.assert_array_equal(index.search(QUERIES, 5)[0], best(rounded, QUERIES, 5)[0])
    index.save(tmp_path / "saved")
    assert os.path.getsize(tmp_path / "saved/vectors.npy") == 500 * 16 * np.dtype(dtype).itemsize + 128
    again = GalleryIndex.load(tmp_path / "saved")
    engine = getattr(again._engine, "exact", again._engine)
    assert isinstance(engine.store.stored, np.memmap) and again.vectors([3]).dtype == dtype
    ids, scores = again.search(QUERIES, 5)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(scores, index.search(QUERIES, 5)[1])


@pytest.mark.parametrize("engine", ("exact", "faiss"))
def test_equals_stand_in_the_order_they_were_added(engine, tmp_path):
    index = make(engine, tmp_path)
    which = np.random.default_rng(3).integers(0, 40, 500)
    names = [f"{number:03}" for number in np.random.default_rng(4).permutation(500)]
    for start in range(0, 500, 170):
        index.add(names[start : start + 170], VECTORS[which[start : start + 170]])
    expected = [
        sorted(range(500), key=lambda row: (-scores[which[row]], row))[:60]
        for scores in (QUERIES.astype("float64") @ VECTORS[:40].T.astype("float64"))
    ]
    np.testing.assert_array_equal(index.search(QUERIES, 60)[0], np.array(names)[np.array(expected)])
    index.save(tmp_path / "saved")
    again = GalleryIndex.load(tmp_path / "saved")
    again.add(["later"], VECTORS[which[:1]])
    twins = [names[row] for row in range(500) if which[row] == which[0]]
    assert again.search(VECTORS[which[:1]], len(twins) + 1)[0][0].tolist() == [*twins, "later"]
    # One that is replaced counts as added now.
    again.add(twins[:1], VECTORS[which[:1]], replace=True)
    assert again.search(VECTORS[which[:1]], len(twins) + 1)[0][0].tolist() == [*twins[1:], "later", twins[0]]


def test_few_items_and_none(tmp_path):
    index = GalleryIndex()
    assert index.search(QUERIES, 3)[0].shape == index.search(QUERIES, 3)[1].shape == (30, 0)
    index.save(tmp_path / "empty")
    assert len(GalleryIndex.load(tmp_path / "empty")) == 0
    index.add(["a"], VECTORS[:1])
    assert index.search(QUERIES, 3)[0].tolist() == [["a"]] * 30
    assert index.search(QUERIES[:0], 3)[0].shape == (0, 1)
    index.delete(["a"])
    assert index.search(QUERIES, 3)[0].shape == (30, 0)
    index.add([], np.empty((0, 16)))
    index.add(np.array([5, 7]), VECTORS[:2])
    assert index.search(VECTORS[:1], 9)[0].tolist() == [[5, 7]] and np.int64(7) in index
    # Products as they are: nothing is normalised.
    index.add([9], 10 * VECTORS[:1])
    np.testing.assert_allclose(index.search(VECTORS[:1], 1)[1], [[10]], rtol=1e-6)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["b", "000.jpg"], VECTORS[:2], "id '000.jpg' is in the index already; delete it first, or pass replace=True"),
        (["b", "b"], VECTORS[:2], "id 'b' is given twice"),
        (["b", 3], VECTORS[:2], "ids must be all ints or all strings, got int, str"),
        ([1, 2], VECTORS[:2], "ids must be all ints or all strings"),
        ([1.5], VECTORS[:1], "ids must be all ints or all strings, got float, str"),
        ("ab", VECTORS[:2], "ids must be a sequence"),
        (["b"], VECTORS[:2], r"vectors must be numbers \(1, D\), got float32 \(2, 16\)"),
        (["b"], VECTORS[0], r"vectors must be numbers \(1, D\), got float32 \(16,\)"),
        (["b"], VECTORS[:1, :3], r"vectors must be 16 wide, as those of the index, got \(1, 3\)"),
        (["b", "c"], np.where(np.eye(2, 16) > 0, np.nan, 0), "the vector of id 'b' holds a number that float16"),
        (["b", "c"], np.eye(2, 16) * [[1], [1e6]], "the vector of id 'c' holds a number that float16 cannot hold"),
    ],
)
def test_faulty_items_change_nothing(ids, vectors, message):
    index = GalleryIndex(dtype="float16")
    index.add(NAMES, VECTORS)
    with pytest.raises(ValueError, match=message):
        index.add(ids, vectors)
    assert index.ids == NAMES and len(index.search(QUERIES, 500)[0][0]) == 500


def test_faulty_questions_and_settings():
    index = GalleryIndex()
    index.add(NAMES, VECTORS)
    for queries, k, message in (
        (QUERIES, 0, "k must be an integer of at least 1"),
        (QUERIES[:, :3], 1, r"queries must be numbers \(Q, 16\), got float32 \(30, 3\)"),
        (QUERIES[0], 1, r"got float32 \(16,\)"),
        (np.full((2, 16), np.inf), 1, "query 0 holds NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            index.search(queries, k)
    with pytest.raises(ValueError, match="id 'x' is not in the index, which holds 500 items"):
        index.delete(["000.jpg", "x"])
    with pytest.raises(ValueError, match="id 'x' is not in the index"):
        index.vectors(["x"])
    assert len(index) == 500
    with pytest.raises(ValueError, match="unknown engine 'fais'; engines are exact, faiss, milvus"):
        GalleryIndex(engine="fais")
    with pytest.raises(ValueError, match="engine 'exact' has no setting 'probes'; its settings are dtype"):
        GalleryIndex(probes=3)
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float16', got 'int8'"):
        GalleryIndex(4, dtype="int8")


def test_what_is_not_installed_is_one_line(monkeypatch, tmp_path):
    for module, engine in (("faiss", "faiss"), ("pymilvus", "milvus")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r'pip install "keras-itr\[search\]"'):
            GalleryIndex(4, engine=engine, **({"uri": "a.db"} if engine == "milvus" else {}))


@pytest.fixture
def saved(tmp_path):
    index = GalleryIndex()
    index.add(NAMES, VECTORS)
    index.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", ("vectors.npy", "ids.json"))
def test_damage_is_found_and_named(name, saved):
    path, whole = saved / name, (saved / name).read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{name}: is damaged.*index anew"):
        GalleryIndex.load(saved)
    path.write_bytes(whole[:-5])
    for verify in (True, False):
        with pytest.raises(ValueError, match=rf"{name}: has [0-9,]+ bytes of [0-9,]+, so it is not whole; index anew"):
            GalleryIndex.load(saved, verify)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}: is missing; index anew"):
        GalleryIndex.load(saved)


def test_no_index_half_an_index_and_a_later_one(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        GalleryIndex.load(tmp_path / "none")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match=r"holds no index, for it has no index\.json"):
        GalleryIndex.load(tmp_path / "photos")
    with pytest.raises(ValueError, match="is there already"):
        GalleryIndex.load(saved).save(tmp_path / "photos")
    text = (saved / "index.json").read_text()
    (saved / "index.json").write_text(text[:40])
    with pytest.raises(ValueError, match=r"index\.json: is damaged"):
        GalleryIndex.load(saved)
    (saved / "index.json").write_text(json.dumps({**json.loads(text), "format": 2}))
    with pytest.raises(ValueError, match="has format 2, this version of keras_itr reads 1"):
        GalleryIndex.load(saved)


@pytest.mark.parametrize("killed_at", (1, 2))
def test_a_kill_while_it_is_replaced_leaves_the_old_or_the_new(killed_at, saved, monkeypatch):
    class Killed(BaseException):
        pass

    calls = []

    def replace(source, target):
        calls.append(source)
        if len(calls) == killed_at:
            raise Killed
        shutil.move(source, target)

    index = GalleryIndex.load(saved)
    index.delete(NAMES[:1])
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        # A process that is killed tidies nothing up.
        patch.setattr(files.shutil, "rmtree", lambda *arguments, **options: None)
        with pytest.raises(Killed):
            index.save(saved)
    assert len(GalleryIndex.load(saved)) == (500 if killed_at == 1 else 499)
    index.save(saved)
    assert len(GalleryIndex.load(saved)) == 499 and len(list(saved.parent.iterdir())) == 1


def test_recall_is_measured_told_and_kept(tmp_path):
    pytest.importorskip("faiss", reason="the engine faiss is not installed")
    index = GalleryIndex(engine="faiss", approximate_above=100, lists=20, probes=1)
    index.add(range(500), VECTORS)
    recall = index.measure_recall(QUERIES, k=5)
    exact = best(VECTORS, QUERIES, 5)[0]
    found = index.search(QUERIES, 5)[0]
    expected = np.mean([len(set(one) & set(other)) / 5 for one, other in zip(exact, found, strict=True)])
    assert recall == {"recall": round(100 * expected, 2), "k": 5, "queries": 30, "of": "given queries"}
    assert 10 < recall["recall"] < 95
    index.add([500], VECTORS[:1])
    assert index.recall is None
    index.save(tmp_path / "saved")
    assert index.recall["of"] == "own vectors" and index.recall["queries"] == 256
    assert read_manifest(tmp_path / "saved")["recall"] == GalleryIndex.load(tmp_path / "saved").recall == index.recall
    more = GalleryIndex.load(tmp_path / "saved", probes=20)
    assert more.measure_recall()["recall"] == 100 and more.settings["probes"] == 20
    # A query whose lists hold too few items is answered all the same, by exact search.
    np.testing.assert_array_equal(
        index.search(QUERIES, 501)[0], best(np.vstack([VECTORS, VECTORS[:1]]), QUERIES, 501)[0]
    )
    assert GalleryIndex.load(tmp_path / "saved", approximate_above=1000).measure_recall()["recall"] == 100


def test_shares():
    assert evenly(10, 3).tolist() == [0, 4, 9] and evenly(2, 9).tolist() == [0, 1]
    found, wanted = np.array([[0, 7, 3], [1, 2, 3]]), np.array([[0, 3, 5], [4, 2, 1]])
    assert share_found(found, wanted, np.array([0, -1]), 2) == 50.0


def test_milvus_and_the_folder_must_agree(tmp_path):
    index = make("milvus", tmp_path)
    index.add(NAMES[:5], VECTORS[:5])
    index.save(tmp_path / "saved")
    index.add(NAMES[5:6], VECTORS[5:6])
    with pytest.raises(ValueError, match="holds 6 vectors, the index was saved with 5; save after every change"):
        GalleryIndex.load(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"holds a collection 'gallery' already.*overwrite=True"):
        make("milvus", tmp_path).add(NAMES[:5], VECTORS[:5])
    over = make("milvus", tmp_path, overwrite=True)
    over.add(NAMES[:2], VECTORS[:2])
    assert len(over.search(QUERIES, 9)[0][0]) == 2
    with pytest.raises(ValueError, match="needs uri"):
        GalleryIndex(4, engine="milvus")
    with pytest.raises(ValueError, match="only Milvus has them"):
        over.measure_recall()
    over.discard()
    with pytest.raises(ValueError, match="holds 0 vectors"):
        GalleryIndex.load(tmp_path / "saved")
