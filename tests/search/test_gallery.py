"""Folders of photos and files of captions to galleries: killed, changed, damaged; searched four ways, in two stages."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.data import load_shapes
from keras_itr.models import TGDT, DualEncoderBackbone, from_preset
from keras_itr.search import (
    Found,
    Gallery,
    GalleryIndex,
    TwoStageSearch,
    gallery_indexing,
    index_gallery,
    search_gallery,
)
from keras_itr.search.gallery_report import found_json, found_page, found_table

tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
TABLE = load_shapes("test", num_scenes=12)
CAPTIONS = list(dict.fromkeys(TABLE.captions))[:20]


def write_photo(path, scene):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(TABLE.image_columns["images"][scene]).numpy())
    os.utime(path, ns=(10**18 + scene, 10**18 + scene))


@pytest.fixture
def photos(tmp_path):
    """Seven photos, two of them in a folder below; a hidden one, and one that is none."""
    for scene in range(7):
        write_photo(tmp_path / "photos" / ("below" if scene > 4 else "") / f"{scene}.png", scene)
    (tmp_path / "photos/._0.png").write_bytes(b"of another system")
    write_photo(tmp_path / "photos/.trash/9.png", 9)
    (tmp_path / "photos/notes.txt").write_text("mine")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def cusa():
    return from_preset("cusa_shapes")


@pytest.fixture
def quick(cusa, monkeypatch):
    """The model is not loaded anew for every gallery."""
    for place in (gallery_indexing._Encoder, Gallery):
        monkeypatch.setattr(place, "model", property(lambda self: cusa))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png", "below/5.png", "below/6.png"]


def test_photos_are_indexed_and_found_by_captions_and_photos(photos, tmp_path, capsys):
    done = index_gallery("cusa_shapes", photos, tmp_path / "gallery", batch_size=3)
    assert done == {"items": 7, "embedded": 7, "kept": 0, "removed": 0, "broken": 0}
    assert "7 photos, 7 embedded now, 0 kept, 0 removed" in capsys.readouterr().out
    assert set(os.listdir(tmp_path)) == {"photos", "gallery"}
    gallery = Gallery(tmp_path / "gallery")
    assert gallery.index.ids == NAMES
    expected = gallery.model.embed_images([str(photos / name) for name in NAMES], verbose=False)
    np.testing.assert_allclose(gallery.index.vectors(NAMES), expected, atol=1e-5)
    for query, vector in (
        (TABLE.captions[0], gallery.model.embed_texts([TABLE.captions[0]], verbose=False)),
        (str(photos / "3.png"), expected[3:4]),
    ):
        found = gallery.search(query, k=3)
        products = (vector @ expected.T)[0]
        assert found.ids == [NAMES[place] for place in np.argsort(-products, kind="stable")[:3]]
        np.testing.assert_allclose(found.scores, np.sort(products)[::-1][:3], atol=1e-5)
        assert (
            found.side == "image"
            and not found.reranked
            and set(found.seconds)
            == {
                "load",
                "encode",
                "search",
                "rerank",
            }
        )
    assert found.query_side == "image" and found.ids[0] == "3.png" and len(gallery.search("a", k=99).ids) == 7


@tensorflow_only
def test_captions_are_indexed_and_found(quick, photos, tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join([*CAPTIONS, "", CAPTIONS[0]]))
    (tmp_path / "captions.tsv").write_text("number\ttext\n" + "".join(f"{n}\t{c}\n" for n, c in enumerate(CAPTIONS)))
    done = index_gallery("cusa_shapes", tmp_path / "captions.txt", tmp_path / "gallery", verbose=False)
    assert done["items"] == len(CAPTIONS)
    found = search_gallery(tmp_path / "gallery", str(photos / "0.png"), k=4, json_path=tmp_path / "found.json")
    model = Gallery(tmp_path / "gallery").model
    scores = model.score([str(photos / "0.png")], CAPTIONS, verbose=False)[0]
    assert found.ids == [CAPTIONS[place] for place in np.argsort(-scores, kind="stable")[:4]]
    assert [item["id"] for item in json.loads((tmp_path / "found.json").read_text())["items"]] == found.ids
    assert Gallery(tmp_path / "gallery").search(CAPTIONS[5], k=1).ids == CAPTIONS[5:6]
    # The same captions out of a column; one more is the only one that is embedded.
    again = index_gallery("cusa_shapes", tmp_path / "captions.tsv", tmp_path / "gallery", "text", verbose=False)
    assert (again["embedded"], again["kept"]) == (0, len(CAPTIONS))
    with open(tmp_path / "captions.tsv", "a") as file:
        file.write("99\ta blue cross\n")
    again = index_gallery("cusa_shapes", tmp_path / "captions.tsv", tmp_path / "gallery", "text", verbose=False)
    assert (again["embedded"], again["kept"]) == (1, len(CAPTIONS))
    with pytest.raises(ValueError, match=r"no 'caption' there; columns are number, text"):
        index_gallery("cusa_shapes", tmp_path / "captions.tsv", tmp_path / "other")


@tensorflow_only
def test_only_what_is_new_or_changed_is_embedded(quick, photos, tmp_path):
    def index():
        return index_gallery("cusa_shapes", photos, tmp_path / "gallery", batch_size=3, verbose=False)

    index()
    before = tree(tmp_path / "gallery")
    assert index() == {"items": 7, "embedded": 0, "kept": 7, "removed": 0, "broken": 0}
    assert tree(tmp_path / "gallery") == before
    (photos / "1.png").unlink()
    write_photo(photos / "2.png", 10)
    write_photo(photos / "above.png", 11)
    assert index() == {"items": 7, "embedded": 2, "kept": 5, "removed": 1, "broken": 0}
    gallery = GalleryIndex.load(tmp_path / "gallery/index")
    names = [name for name in NAMES if name != "1.png"]
    assert gallery.ids == sorted([*names, "above.png"])
    index_gallery("cusa_shapes", photos, tmp_path / "anew", batch_size=3, verbose=False)
    fresh = GalleryIndex.load(tmp_path / "anew/index")
    np.testing.assert_allclose(gallery.vectors(gallery.ids), fresh.vectors(gallery.ids), atol=1e-6)
    # Another type of vectors, or damage, is a reason to embed all of them.
    again = index_gallery("cusa_shapes", photos, tmp_path / "gallery", dtype="float16", verbose=False)
    assert again["embedded"] == 7
    (tmp_path / "gallery/index/vectors.npy").write_bytes(b"")
    again = index_gallery("cusa_shapes", photos, tmp_path / "gallery", dtype="float16", verbose=False)
    assert again["embedded"] == 7


@tensorflow_only
def test_broken_photos_are_named_and_left_out(quick, photos, tmp_path, capsys):
    (photos / "3.png").write_bytes(b"no photo")
    (photos / "below/5.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3\.png is no readable JPEG.*'skip'"):
        index_gallery("cusa_shapes", photos, tmp_path / "gallery", batch_size=2, on_error="raise")
    assert not (tmp_path / "gallery").exists()
    for _ in range(2):
        done = index_gallery("cusa_shapes", photos, tmp_path / "gallery", batch_size=2)
        text = capsys.readouterr().out
        assert done["broken"] == 2 and "3.png is no readable" in text and "below/5.png is empty" in text
    gallery = Gallery(tmp_path / "gallery")
    assert gallery.index.ids == ["0.png", "1.png", "2.png", "4.png", "below/6.png"]
    expected = gallery.model.embed_images([str(photos / name) for name in gallery.index.ids], verbose=False)
    np.testing.assert_allclose(gallery.index.vectors(gallery.index.ids), expected, atol=1e-5)
    # Mended, it is embedded; the other is not tried again.
    write_photo(photos / "3.png", 3)
    done = index_gallery("cusa_shapes", photos, tmp_path / "gallery", batch_size=2)
    assert (done["embedded"], done["broken"]) == (1, 1)
    for name in NAMES:
        (photos / name).write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"none of the 7 photos can be decoded; the first: .*0\.png is no readable"):
        index_gallery("cusa_shapes", photos, tmp_path / "gallery")


# Children of one process: the n-th kills itself at the n-th step at which a file or folder takes the place of another,
# on what those before it have left. The encoder is a stand-in, for TensorFlow does not like forks.
DYING_PROCESS = """
import os, shutil, signal, sys
import numpy as np
from keras_itr.search import gallery_indexing

class Encoder:
    def __init__(self, *arguments): pass
    def __call__(self, batch):
        faults = ["is broken." if path.endswith("4.png") else "" for path in batch]
        rows = [[os.path.getsize(path), len(path)] for path, fault in zip(batch, faults) if not fault]
        return {"embedding": np.array(rows, "float32"), "tokens": np.array(rows, "float32")[:, None]}, faults

def run(out, last_step):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    replace, calls = os.replace, []
    def dying(source, target):
        calls.append(source)
        if len(calls) == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = dying
    gallery_indexing.index_gallery("cusa_shapes", photos, out, batch_size=2, verbose=False)
    os._exit(0)

def killed_again_and_again(out):
    step = 1
    while (status := run(out, step)) != 0:
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and step < 50, status
        step += 1
    assert step > 4, step

gallery_indexing._Encoder = Encoder
photos, killed, whole = sys.argv[1:]
killed_again_and_again(killed)
shutil.copytree(killed, killed + "_once")
assert run(whole, 0) == 0
# Over a gallery that is there: it stays until the new one takes its place.
os.remove(photos + "/1.png")
os.rename(photos + "/0.png", photos + "/8.png")
killed_again_and_again(killed)
"""


@tensorflow_only
def test_a_process_killed_at_every_step_ends_with_the_same_bytes(photos, tmp_path):
    paths = [str(tmp_path / name) for name in ("photos", "killed", "whole")]
    result = subprocess.run([sys.executable, "-c", DYING_PROCESS, *paths], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "killed_once") == tree(tmp_path / "whole") and len(tree(tmp_path / "whole")) == 7
    assert GalleryIndex.load(tmp_path / "whole/index").ids == [*NAMES[:4], *NAMES[5:]]
    assert GalleryIndex.load(tmp_path / "killed/index").ids == ["2.png", "3.png", "8.png", *NAMES[5:]]
    assert sorted(os.listdir(tmp_path)) == ["killed", "killed_once", "photos", "whole"]


def test_a_second_stage_orders_the_shortlist(photos, tmp_path):
    clip = from_preset("clip_shapes")
    keras.utils.set_random_seed(0)
    sizes = {"embedding_dim": 16, "local_layers": 1, "global_layers": 1, "num_heads": 2, "intermediate_dim": 16}
    backbone = DualEncoderBackbone(clip.backbone.image_tower, clip.backbone.text_tower)
    model = TGDT(backbone, preprocessor=clip.preprocessor, **sizes)
    model.save_to_preset(tmp_path / "tgdt")
    index_gallery(tmp_path / "tgdt", photos, tmp_path / "gallery", batch_size=4, verbose=False)
    gallery = Gallery(tmp_path / "gallery")
    assert sorted(os.listdir(tmp_path / "gallery/features")) == [
        "image_embedding.npy",
        "image_mask.npy",
        "image_tokens.npy",
    ]
    found, caption = gallery.search(CAPTIONS[0], k=5), CAPTIONS[:1]
    both = TwoStageSearch(model, verbose=False)
    ranking = both.text_to_image(caption, [str(photos / name) for name in NAMES])
    assert found.reranked and found.ids == [NAMES[row] for row in ranking.ids[0][:5]]
    np.testing.assert_allclose(found.scores, ranking.scores[0][:5], rtol=1e-4, atol=1e-4)
    plain = gallery.search(CAPTIONS[0], k=5, rerank=False)
    assert not plain.reranked
    products = (model.embed_texts(caption, verbose=False) @ gallery.index.vectors(NAMES).T)[0]
    np.testing.assert_allclose(plain.scores, np.sort(products)[::-1][:5], atol=1e-5)
    assert not gallery.search(str(photos / "0.png")).reranked
    texts, images = both.encode_texts(caption), both.load_images(tmp_path / "gallery/features")
    given = both.order_shortlists(texts, images, [[6, 2, 4]], "text")
    assert sorted(given.ids[0]) == [2, 4, 6] and (np.diff(given.scores) <= 0).all()
    for ids in ([[0, 7]], [[-1]], [0], [[0], [1]], [[0.5]], [[]]):
        with pytest.raises(ValueError, match="ids must be"):
            both.order_shortlists(texts, images, ids, "text")


@tensorflow_only
def test_a_gallery_fits_one_preset_and_says_what_is_wrong(photos, tmp_path):
    shutil.copytree(os.path.dirname(from_preset.__code__.co_filename) + "/../presets/cusa_shapes", tmp_path / "mine")
    index_gallery(tmp_path / "mine", photos, tmp_path / "gallery", verbose=False)
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="mine, which is not there any more; pass preset"):
        Gallery(tmp_path / "gallery")
    assert Gallery(tmp_path / "gallery", preset="cusa_shapes").search("a circle", k=1).ids
    with pytest.raises(ValueError, match="which is not clip_shapes; its vectors do not fit"):
        Gallery(tmp_path / "gallery", preset="clip_shapes")
    with pytest.raises(ValueError, match="no preset is called 'cusa_shape'"):
        Gallery(tmp_path / "gallery", preset="cusa_shape")
    gallery = Gallery(tmp_path / "gallery", preset=tmp_path / "moved")
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        gallery.search("a circle", k=0)
    for query, error, message in (
        (" ", ValueError, "the query is empty"),
        ("none.jpg", FileNotFoundError, r"none\.jpg: no such file.*is taken for a photo"),
        (str(photos / "._0.png"), ValueError, "is no readable JPEG"),
    ):
        with pytest.raises(error, match=message):
            gallery.search(query)
    faults = [
        ({"source": tmp_path / "photo"}, FileNotFoundError, "did you mean photos"),
        ({"source": photos / "0.png"}, ValueError, "must be a folder of photos, or captions"),
        ({"directory": photos}, ValueError, "holds something else than a gallery"),
        ({"preset": "cusa_f30k"}, ValueError, "has no weights"),
        ({"preset": "cusa"}, ValueError, "no preset is called 'cusa'"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'skip' or 'raise'"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        ({"engine": "fais"}, ValueError, "unknown engine 'fais'"),
        ({"probes": 4}, ValueError, "engine 'exact' has no setting 'probes'"),
    ]
    for options, error, message in faults:
        arguments = {"preset": "cusa_shapes", "source": photos, "directory": tmp_path / "other", **options}
        with pytest.raises(error, match=message) as raised:
            index_gallery(**arguments)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "other").exists()


@tensorflow_only
@pytest.mark.parametrize("engine", ("faiss", "milvus"))
def test_other_engines(engine, quick, photos, tmp_path):
    pytest.importorskip("faiss" if engine == "faiss" else "milvus_lite", reason=f"the engine {engine} is not installed")
    settings = {"approximate_above": 3} if engine == "faiss" else {"uri": str(tmp_path / "gallery.db")}
    for expected in ({"embedded": 7, "kept": 0, "removed": 0}, {"embedded": 1, "kept": 5, "removed": 1}):
        done = index_gallery("cusa_shapes", photos, tmp_path / "gallery", engine=engine, verbose=False, **settings)
        assert {key: done[key] for key in expected} == expected
        (photos / "0.png").unlink(missing_ok=True)
        write_photo(photos / "1.png", 8)
    gallery = Gallery(tmp_path / "gallery")
    assert gallery.search(str(photos / "1.png"), k=1).ids == ["1.png"] and len(gallery.index) == 6
    if engine == "milvus":
        assert len(gallery.index._engine.client.list_collections()) == 1


@tensorflow_only
def test_pages_and_tables_show_names_as_they_are(tmp_path):
    write_photo(tmp_path / "good.png", 0)
    seconds = {"load": 1.0, "encode": 0.1, "search": 0.01, "rerank": 0.02}
    name = '<img src=x onerror="alert(1)"> & co.png'
    found = Found("<script>", "text", "image", ["good.png", name], np.array([0.5, 0.25]), True, tmp_path, seconds)
    page = found_page(found)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "onerror=&quot;alert(1)&quot;&gt; &amp; co.png" in page and "<img src=x" not in page
    assert page.count("data:image/jpeg;base64,") == 1 and "photo cannot be read" in page
    assert "http" not in page.replace("http-equiv", "")
    lines = found_table(found).split("\n")
    assert lines[0].split() == ["rank", "score", "photo"] and lines[1].split() == ["1", "0.5000", "good.png"]
    assert "embeddings and second stage" in lines[-1] and "rerank 20 ms" in lines[-1]
    assert json.loads(found_json(found))["items"][1]["path"] == str(tmp_path / name)
    captions = Found(
        str(tmp_path / "good.png"), "image", "text", ["a <b>", "c"], np.array([0.5, 0.2]), False, tmp_path, seconds
    )
    page = found_page(captions)
    assert "a &lt;b&gt;" in page and page.count("<img") == 1 and '<ol class="captions">' in page
