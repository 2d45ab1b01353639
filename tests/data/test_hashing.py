import numpy as np
import pytest

from keras_itr.data.hashing import hash64, integers, permutation, uniform

WRAP = 2**64
PINNED_HASHES = [12035550249420947055, 3069472533636442495, 9405607414650848140]
PINNED_ORDER = [8, 0, 7, 1, 5, 4, 2, 6, 3, 9]


def oracle(*keys):
    """`hash64` of scalars in Python integers."""
    state = 0
    for key in keys:
        if isinstance(key, str):
            folded = 0xCBF29CE484222325
            for byte in key.encode():
                folded = (folded ^ byte) * 0x100000001B3 % WRAP
            key = folded
        state = (state + 0x9E3779B97F4A7C15) % WRAP ^ key % WRAP
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % WRAP
        state = (state ^ state >> 27) * 0x94D049BB133111EB % WRAP
        state ^= state >> 31
    return state


@pytest.mark.parametrize("keys", [(0,), (1, 2, 3), (-1,), (2**63,), (7, "colour", 4), ("é",), ()])
def test_hash64_equals_python_integers(keys):
    value = hash64(*keys)
    assert value.dtype == np.uint64
    assert value.shape == ()
    assert int(value) == oracle(*keys)


def test_hash64_values_are_pinned():
    assert [int(value) for value in hash64(0, np.arange(3))] == PINNED_HASHES


def test_hash64_broadcasts():
    rows, columns = np.arange(4)[:, None], np.arange(5, dtype=np.int32)
    table = hash64(3, rows, "stream", columns)
    assert table.shape == (4, 5)
    assert all(int(table[i, j]) == oracle(3, i, "stream", j) for i in range(4) for j in range(5))


def test_hash64_tells_keys_apart():
    keys = [(0,), (0, 0), (1,), (0, 1), (1, 0), ("a",), ("a", 0), ("b",)]
    assert len({int(hash64(*key)) for key in keys}) == len(keys)
    assert len(np.unique(hash64(0, np.arange(300)[:, None], np.arange(300)))) == 300 * 300


@pytest.mark.parametrize("key", [1.5, np.zeros(3), None, 2**64])
def test_hash64_rejects_keys_that_are_not_integers(key):
    with pytest.raises(TypeError, match="hash key must be an integer"):
        hash64(0, key)


def test_uniform_is_the_upper_bits_and_even():
    draws = uniform(5, "u", np.arange(100_000))
    assert draws.dtype == np.float64
    assert draws[0] == (oracle(5, "u", 0) >> 11) / 2**53
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 90  # chi-square, 49 degrees of freedom: p < 0.001 beyond 85
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02


def test_integers_stay_below_their_bound_and_are_even():
    draws = integers(7, 1, np.arange(70_000))
    assert draws.dtype == np.int64
    assert draws[9] == (oracle(1, 9) >> 32) * 7 >> 32
    assert ((np.bincount(draws, minlength=7) - 10_000) ** 2 / 10_000).sum() < 25
    bounds = np.array([1, 2, 2**32])
    assert (integers(bounds, 1, np.arange(1000)[:, None]) < bounds).all()
    assert integers(1, 4) == 0
    assert integers(np.zeros(0, int), 1, np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize("bound", [0, -3, 2**32 + 1, np.array([4, 0])])
def test_integers_reject_other_bounds(bound):
    with pytest.raises(ValueError, match="`bound` must be from 1"):
        integers(bound, 1, np.arange(2))


def test_permutation_is_pinned_and_a_permutation():
    assert permutation(10, 0, 0).tolist() == PINNED_ORDER
    order = permutation(1000, 3, 4)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(1000))
    assert sorted(range(1000), key=lambda position: oracle(3, 4, position)) == order.tolist()
    assert permutation(0, 1).tolist() == []


def test_permutations_of_other_keys_are_unrelated():
    orders = np.stack([permutation(1000, seed, epoch) for seed in range(2) for epoch in range(3)])
    assert np.abs(np.corrcoef(orders) - np.eye(6)).max() < 0.15
