"""Two-stage search is the exhaustive score within the shortlists, pair by pair, however it is cut into blocks."""

import keras
import numpy as np
import pytest
from momentum_support import make_aai
from support import load_fixture, region_backbone
from test_ascl import make as make_ascl
from test_tgdt import boxed_data
from test_tgdt import make as make_tgdt

import keras_itr.files as search_files
from keras_itr.evaluation import ranking_recall, two_stage_recall
from keras_itr.models import CLIP
from keras_itr.search import TwoStageSearch, nearest, shortlist, two_stage_order
from keras_itr.search.region_words import RegionWordScorer

IMAGE_KEYS, TEXT_KEYS = ("regions", "region_mask", "region_boxes"), ("token_ids", "padding_mask")


def sides(data):
    """Six images, two captions each; the last caption has no word."""
    image = {key: data[key][::2] for key in IMAGE_KEYS if key in data}
    text = {key: data[key].copy() for key in TEXT_KEYS}
    text["token_ids"][-1, 1:], text["padding_mask"][-1, 2:] = 3, False
    return image, text


METHODS = {
    "tgdt": lambda **arguments: make_tgdt(global_weight=0.5, **arguments),
    "tgdt official": lambda **arguments: make_tgdt(masked_value=0.0, trim_last_word=True, **arguments),
    "ascl": lambda **arguments: make_ascl(**arguments),
    "aai": lambda **arguments: make_aai(**arguments),
    "aai sum": lambda **arguments: make_aai(rerank_mode="sum", **arguments),
}


def case(name):
    keras.utils.set_random_seed(1)
    image, text = sides(boxed_data(12, seed=2))
    return METHODS[name](), image, text


def every_pair(model, image, text):
    pairs = np.argwhere(np.ones((6, 12), bool))
    return model.rerank(image, text, pairs, verbose=False).reshape(6, 12)


@pytest.mark.parametrize("settings", ({}, {"query_block": 5}, {"memory_budget": 1}, {"query_block": 1}))
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_exhaustive_score_within_the_shortlists(name, settings):
    model, image, text = case(name)
    search = TwoStageSearch(model, top_k_image_to_text=5, top_k_text_to_image=3, verbose=False, **settings)
    images, texts = search.encode_images(image), search.encode_texts(text)
    coarse, fine = images["embedding"] @ texts["embedding"].T, every_pair(model, image, text)
    for ranking, coarse_rows, fine_rows, k in (
        (search.image_to_text(images, texts), coarse, fine, 5),
        (search.text_to_image(texts, images), coarse.T, fine.T, 3),
    ):
        assert ranking.ids.shape == ranking.scores.shape == (len(coarse_rows), k)
        np.testing.assert_array_equal(np.sort(ranking.ids, axis=1), shortlist(coarse_rows, k))
        found = np.take_along_axis(fine_rows, ranking.ids, axis=1)
        np.testing.assert_allclose(ranking.scores, found, rtol=1e-5, atol=1e-5)
        assert (np.diff(ranking.scores, axis=1) <= 0).all()
        np.testing.assert_array_equal(ranking.ids, two_stage_order(coarse_rows, fine_rows, k))


@pytest.mark.parametrize("name", ("tgdt", "ascl", "aai"))
def test_a_shortlist_as_long_as_the_gallery_is_exhaustive(name):
    model, image, text = case(name)
    search = TwoStageSearch(model, 12, 99, verbose=False)
    ranking, back = search.image_to_text(image, text), search.text_to_image(text, image)
    fine = every_pair(model, image, text) if model.dot_product else model.score(image, text)
    for found, scores in ((ranking, fine), (back, fine.T)):
        expected = np.take_along_axis(scores, found.ids, axis=1)
        if not model.dot_product:
            np.testing.assert_array_equal(found.scores, expected)
        np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(
            np.sort(found.ids, axis=1), np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        )


def test_recall_is_that_of_the_matrices():
    model, image, text = case("tgdt")
    search = TwoStageSearch(model, 5, 3, verbose=False)
    owner = np.arange(12) // 2
    found = ranking_recall(search.image_to_text(image, text), search.text_to_image(text, image), owner)
    coarse = model.score(image, text, mode="global")
    assert found == two_stage_recall(coarse, every_pair(model, image, text), owner, 5, 3)
    assert found["t2i_shortlist"] < 100


def test_features_on_disk(tmp_path):
    model, image, text = case("tgdt")
    search = TwoStageSearch(model, 5, 3, verbose=False)
    images = search.encode_images(image, directory=tmp_path / "images")
    texts = search.encode_texts(text, batch_size=5, directory=tmp_path / "texts")
    assert all(isinstance(array, np.memmap) for array in (*images.values(), *texts.values()))
    search.encode_images(image, directory=tmp_path / "texts")
    names = sorted(path.name for path in (tmp_path / "texts").glob("text_*"))
    assert names == ["text_embedding.npy", "text_mask.npy", "text_tokens.npy"]
    for key, rows in search.load_texts(tmp_path / "texts").items():
        assert isinstance(rows, np.memmap)
        np.testing.assert_array_equal(rows, texts[key])
    with pytest.raises(ValueError, match="holds no text_"):
        search.load_texts(tmp_path / "images")
    in_memory = search.image_to_text(image, text)
    ranking = search.image_to_text(images, texts)
    np.testing.assert_array_equal(ranking.ids, in_memory.ids)
    np.testing.assert_allclose(ranking.scores, in_memory.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(search.text_to_image(texts, images).ids, search.text_to_image(text, image).ids)


def _failing_second_write(write):
    def failing(rows, start, batch):
        if start:
            raise RuntimeError("power cut")
        write(rows, start, batch)

    return failing


def test_an_interrupted_encoding_leaves_the_old_features(tmp_path, monkeypatch):
    model, _, text = case("tgdt")
    search = TwoStageSearch(model, verbose=False)
    old = {key: np.array(rows) for key, rows in search.encode_texts(text, directory=tmp_path).items()}
    monkeypatch.setattr(search_files.Rows, "write", _failing_second_write(search_files.Rows.write))
    with pytest.raises(RuntimeError, match="power cut"):
        search.encode_texts({key: rows[::-1] for key, rows in text.items()}, batch_size=5, directory=tmp_path)
    for key, rows in old.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"text_{key}.npy"), rows)


@pytest.mark.parametrize("name", ("tgdt", "ascl"))
def test_new_features_in_the_same_dict_are_seen(name):
    model, image, text = case(name)
    search = TwoStageSearch(model, 5, 3, verbose=False)
    gallery, texts = search.encode_images(image), search.encode_texts(text)
    search.text_to_image(texts, gallery)
    others = search.encode_images({key: rows[::-1].copy() for key, rows in image.items()})
    gallery.update(others)
    expected = TwoStageSearch(model, 5, 3, verbose=False).text_to_image(texts, others)
    np.testing.assert_array_equal(search.text_to_image(texts, gallery).scores, expected.scores)


@pytest.mark.parametrize("k", (5, 12))
def test_no_query_finds_nothing(k):
    model, image, text = case("tgdt")
    search = TwoStageSearch(model, k, verbose=False)
    nobody = {key: rows[:0] for key, rows in search.encode_images(image).items()}
    ranking = search.image_to_text(nobody, text)
    assert ranking.ids.shape == ranking.scores.shape == (0, k)


@pytest.mark.parametrize("name", ("tgdt", "ascl"))
def test_half_precision_is_one_function(name, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, image, text = case(name)
        search = TwoStageSearch(model, 5, 3, verbose=False)
        texts = search.encode_texts(text, directory=tmp_path)
        ranking = search.image_to_text(image, texts)
        expected = np.take_along_axis(model.score(image, text, verbose=False), ranking.ids, axis=1)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(ranking.scores, expected, rtol=2e-3 if name == "ascl" else 1e-5, atol=1e-4)


@pytest.mark.parametrize("k", (5, 12))
def test_nan_is_an_error(k):
    model, image, text = case("tgdt")
    search = TwoStageSearch(model, k, verbose=False)
    images = search.encode_images(image)
    images["tokens"][1] = np.nan
    with pytest.raises(ValueError, match="second-stage scores must not be NaN"):
        search.image_to_text(images, text)


def test_equal_scores_stand_in_the_order_of_their_rows():
    model, image, text = case("tgdt")
    search = TwoStageSearch(model, 5, 3, verbose=False)
    # Features, not inputs: an encoder may round equal rows of a batch differently.
    twins = {key: np.repeat(rows[:1], 6, axis=0) for key, rows in search.encode_images(image).items()}
    ranking = search.text_to_image(text, twins)
    np.testing.assert_array_equal(ranking.ids, np.broadcast_to(np.arange(3), (12, 3)))


def test_the_official_case():
    golden, description = load_fixture("tgdt", "case15_two_stage_40x200_k10")
    assert description["config"]["k_image_to_text"] == description["config"]["k_text_to_image"] == 10
    model = make_tgdt(masked_value=0.0, trim_last_word=True)
    search = TwoStageSearch(model, 10, 10, verbose=False)
    images = {"embedding": golden["image_global"], "tokens": golden["regions"], "mask": golden["region_mask"]}
    texts = {"embedding": golden["text_global"], "tokens": golden["words"], "mask": golden["word_mask"]}
    for direction, ranking, scores in (
        ("i2t", search.image_to_text(images, texts), golden["similarity_local"] + golden["similarity_global"]),
        ("t2i", search.text_to_image(texts, images), (golden["similarity_local"] + golden["similarity_global"]).T),
    ):
        expected = golden[f"order_{direction}"]
        found, wanted = (np.take_along_axis(scores, ids, axis=1) for ids in (ranking.ids, expected))
        # Some global scores differ by less than float32 can tell: then another item may close the shortlist.
        assert (ranking.ids == expected).mean() > 0.99
        np.testing.assert_allclose(ranking.scores, found, rtol=1e-5, atol=1e-5)
        same = (np.sort(ranking.ids, 1) == np.sort(expected, 1)).all(axis=1)
        np.testing.assert_allclose(found[same], wanted[same], atol=1e-5)
    metrics = ranking_recall(
        search.image_to_text(images, texts), search.text_to_image(texts, images), golden["caption_to_image"]
    )
    np.testing.assert_allclose([metrics[f"i2t_r{k}"] for k in (1, 5, 10)], golden["recall_i2t"], atol=1e-5)
    np.testing.assert_allclose([metrics[f"t2i_r{k}"] for k in (1, 5, 10)], golden["recall_t2i"], atol=1e-5)


@pytest.mark.parametrize("masked_value", ("-inf", 0.0))
@pytest.mark.parametrize("trim_last_word", (False, True))
@pytest.mark.parametrize("reduction", ("sum", "mean"))
def test_numpy_scores_are_those_of_the_layer(masked_value, trim_last_word, reduction):
    model = make_tgdt(masked_value=masked_value, trim_last_word=trim_last_word)
    model.region_word_similarity.reduction = reduction
    rng = np.random.default_rng(0)

    def side(count, length):
        mask = rng.random((count, length)) < 0.5
        mask[0], mask[1] = False, True
        rows = rng.normal(size=(count, length, 8)).astype("float32")
        rows[~mask] = np.nan
        return {"embedding": rng.normal(size=(count, 8)).astype("float32"), "tokens": rows, "mask": mask}

    images, texts = side(5, 4), side(7, 6)
    expected = keras.ops.convert_to_numpy(
        model.similarity(*({key: keras.ops.convert_to_tensor(x) for key, x in f.items()} for f in (images, texts)))
    )
    scorer = RegionWordScorer(model)
    coarse = images["embedding"] @ texts["embedding"].T
    found = scorer(images, texts, np.broadcast_to(np.arange(7), (5, 7)), coarse, "image")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    found = scorer(texts, images, np.broadcast_to(np.arange(5), (7, 5)), coarse.T, "text")
    np.testing.assert_allclose(found, expected.T, rtol=1e-5, atol=1e-5)
    # One query: its own group, whatever the size of the gallery.
    one = {key: rows[2:3] for key, rows in texts.items()}
    found = scorer(one, images, np.array([[4, 0, 2]]), coarse[[4, 0, 2], 2][None], "text")
    np.testing.assert_allclose(found[0], expected[[4, 0, 2], 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile_bytes", (1, 1000, 1 << 20))
@pytest.mark.parametrize("k", (1, 3, 40, 99))
def test_nearest_is_the_shortlist_of_all_products(k, tile_bytes):
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(-2, 3, (9, 4)).astype("float32"), rng.integers(-2, 3, (40, 4)).astype("float32")
    ids, products = nearest(queries, gallery, k, tile_bytes)
    np.testing.assert_array_equal(ids, shortlist(queries @ gallery.T, k))
    np.testing.assert_array_equal(products, np.take_along_axis(queries @ gallery.T, ids, axis=1))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="CLIP has no second stage"):
        TwoStageSearch(CLIP(region_backbone()))
    with pytest.raises(ValueError, match=r"top_k_image_to_text must be an integer of at least 1, .*got 0"):
        TwoStageSearch(make_tgdt(), top_k_image_to_text=0)
    with pytest.raises(ValueError, match=r"must fit, received \(2, 3\) and \(4, 5\)"):
        nearest(np.zeros((2, 3)), np.zeros((4, 5)), 1)
    with pytest.raises(ValueError, match="must not hold NaN"):
        nearest(np.full((2, 3), np.nan), np.zeros((4, 3)), 1)
    assert TwoStageSearch(make_aai(rerank_top_k=7)).top_k_text_to_image == 7
    assert TwoStageSearch(make_tgdt()).top_k_text_to_image == 100
