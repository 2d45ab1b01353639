"""The nearest items against a sort of all products: ties, tiles, threads, equal items in any place, faults."""

import importlib

import keras
import numpy as np
import pytest

from keras_itr.search import nearest, shortlist
from keras_itr.search.nearest import best_first, pair_products

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="NumPy alone; once is enough")
module = importlib.import_module("keras_itr.search.nearest")


def exhaustive(queries, gallery, k):
    products = queries.astype("float64") @ np.asarray(gallery, "float64").T
    ids = shortlist(products, min(k, len(gallery)))
    return ids, np.take_along_axis(products, ids, axis=1)


@pytest.mark.parametrize("count", (1, 63, 64, 65, 1000))
@pytest.mark.parametrize("k", (1, 10, 64, 999, 5000))
@pytest.mark.parametrize("tile_bytes", (1, 1 << 17))
def test_small_integers_tie_by_place(count, k, tile_bytes):
    rng = np.random.default_rng(count + k)
    queries = rng.integers(-2, 3, (9, 4)).astype("float32")
    gallery = rng.integers(-2, 3, (count, 4)).astype("float32")
    ids, products = nearest(queries, gallery, k, tile_bytes)
    expected = exhaustive(queries, gallery, k)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(products, expected[1])
    assert ids.dtype == np.int64 and products.dtype == np.float32


@pytest.mark.parametrize("order", ("random", "rising", "falling", "equal"))
@pytest.mark.parametrize("count", (1, 15, 300))
def test_every_order_of_the_gallery(order, count, monkeypatch):
    monkeypatch.setattr(module, "SMALL_WORK", 1)  # several threads, where there are several cores
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(count, 16)), rng.normal(size=(3000, 16))
    gallery = {
        "random": gallery,
        "rising": gallery[np.argsort(gallery @ queries[0])],
        "falling": gallery[np.argsort(-gallery @ queries[0])],
        "equal": np.repeat(gallery[:1], 3000, axis=0),
    }[order]
    ids, products = nearest(queries, gallery, 7, 1 << 14)
    np.testing.assert_array_equal(ids, exhaustive(queries, gallery, 7)[0] if order != "equal" else [range(7)] * count)
    np.testing.assert_allclose(products, pair_products(queries, gallery, ids), rtol=0, atol=0)


@pytest.mark.parametrize("count", (1, 16, 100))
def test_equal_items_are_equal_wherever_they_stand(count):
    """Products of a BLAS differ in their last digit by the place of an item; which of equals is ahead must not."""
    rng = np.random.default_rng(1)
    items = rng.normal(size=(30, 100)).astype("float32")
    which = rng.integers(0, 30, 5000)
    queries = rng.normal(size=(count, 100)).astype("float32")
    ids, products = nearest(queries, items[which], 40, 1 << 17)
    scores = pair_products(queries, items, np.broadcast_to(np.arange(30), (count, 30)))
    for row in range(count):
        expected = sorted(range(5000), key=lambda item: (-scores[row, which[item]], item))[:40]
        assert best_first(ids, products)[0][row].tolist() == expected
    alone = nearest(queries[:1], items[which], 40)
    np.testing.assert_array_equal(alone[1][0], products[0])


def test_half_precision_and_what_may_be_found():
    rng = np.random.default_rng(2)
    queries, gallery = rng.normal(size=(20, 8)).astype("float32"), rng.normal(size=(700, 8)).astype("float16")
    np.testing.assert_array_equal(nearest(queries, gallery, 5)[0], exhaustive(queries, gallery, 5)[0])
    valid = rng.random(700) < 0.1
    places = np.flatnonzero(valid)
    for k in (5, 700):
        ids, products = nearest(queries, gallery, k, 1 << 12, valid)
        np.testing.assert_array_equal(ids, places[exhaustive(queries, gallery[places], k)[0]])
        assert products.shape == (20, min(k, len(places)))
    assert [part.shape for part in nearest(queries[:0], gallery, 5)] == [(0, 5), (0, 5)]


def test_faults():
    rows = np.ones((70, 3), "float32")
    with pytest.raises(ValueError, match=r"must fit, received \(2, 3\) and \(4, 5\)"):
        nearest(np.zeros((2, 3)), np.zeros((4, 5)), 1)
    with pytest.raises(ValueError, match="valid leaves no item"):
        nearest(rows, rows, 1, valid=np.zeros(70, bool))
    for where in (0, 69):
        broken = rows.copy()
        broken[where, 1] = np.nan
        for queries, gallery in ((broken, rows), (rows, broken)):
            with pytest.raises(ValueError, match="must not hold NaN"):
                nearest(queries, gallery, 2, 1)
    with pytest.raises(ValueError, match="must be finite"), np.errstate(over="ignore"):
        nearest(-3e38 * rows, 3e38 * rows, 70)
