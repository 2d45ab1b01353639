import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients, load_fixture

from keras_itr.layers import HardNegativeSampler

numpy = ops.convert_to_numpy


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
@pytest.mark.parametrize("name", ["itm_sampling_basic", "itm_sampling_two_images_only", "itm_sampling_fallback"])
def test_fixture(name, direction):
    case, _ = load_fixture("aai", name)
    similarity, ids = case[f"similarity_{direction}"], case["ids"]
    sampler = HardNegativeSampler()
    expected = case[f"probability_{direction}"]
    chances = numpy(sampler.probabilities(similarity, ids))
    np.testing.assert_allclose(chances, expected, rtol=0, atol=1e-5 * expected.max())
    index, valid = sampler(similarity, ids, uniforms=case[f"uniform_{direction}"])
    np.testing.assert_array_equal(numpy(index), case[f"draw_{direction}"])
    assert numpy(valid).all()
    hardest, valid = sampler.hardest(similarity, ids)
    np.testing.assert_array_equal(numpy(hardest), case[f"hardest_{direction}"])
    assert numpy(valid).all()
    uniform = (np.abs(expected - expected.max(1, keepdims=True)) < 1e-12) | (expected == 0)
    np.testing.assert_array_equal(uniform.all(axis=1), case[f"fallback_{direction}"])


def test_one_vanished_row_falls_back_alone():
    similarity = np.array([[0, -200, -300], [1, 2, 3], [90, 0.5, 0]], "float32")
    chances = numpy(HardNegativeSampler().probabilities(similarity))
    np.testing.assert_allclose(chances[0], [0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(chances[1], np.exp([1, -np.inf, 3]) / np.exp([1, 3]).sum(), atol=1e-6)
    # Just not vanished: the ratio of two small weights is kept.
    similarity[0] = [80, 0, -2]
    expected = np.exp([0, -2]) / np.exp([0, -2]).sum()
    np.testing.assert_allclose(numpy(HardNegativeSampler().probabilities(similarity))[0, 1:], expected, atol=1e-5)


def test_rows_without_another_image_are_invalid():
    index, valid = HardNegativeSampler(seed=1)(draw(4, 4), np.array([3, 3, 3, 3]))
    assert not numpy(valid).any() and numpy(index).shape == (4,)
    assert not numpy(HardNegativeSampler().probabilities(draw(1, 1))).any()
    _, valid = HardNegativeSampler().hardest(draw(1, 1))
    assert not numpy(valid).any()


def test_a_uniform_number_near_one_never_draws_an_impossible_column():
    similarity, ids = 3 * draw(32, 32), np.arange(32) // 4
    for near in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        index, valid = HardNegativeSampler()(similarity, ids, uniforms=np.full(32, near, "float32"))
        assert numpy(valid).all() and (ids[numpy(index)] != ids).all()


def test_own_draws_follow_the_probabilities_and_the_seed():
    # Three hundred rows draw among three groups of columns.
    group = np.arange(300) // 100
    similarity = np.repeat(group[None].astype("float32"), 300, axis=0)
    sampler, twin = HardNegativeSampler(seed=5), HardNegativeSampler(seed=5)
    first, second = (numpy(sampler(similarity)[0]) for _ in range(2))
    np.testing.assert_array_equal(numpy(twin(similarity)[0]), first)
    assert (first != second).any() and (first != np.arange(300)).all()
    frequency = np.bincount(group[first], minlength=3) / 300
    np.testing.assert_allclose(frequency, np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), atol=0.1)


def test_draws_inside_fit():
    class Learner(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)
            self.dense.build((None, 3))
            self.sampler = HardNegativeSampler(seed=2)
            self.wrong = keras.metrics.Sum(name="wrong")
            self.built = True

        def call(self, inputs):
            return self.dense(inputs["x"])

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            index, valid = self.sampler(ops.matmul(y_pred, ops.transpose(y_pred)), x["image_id"])
            same = ops.take(x["image_id"], index) == x["image_id"]
            self.wrong.update_state(ops.sum(ops.cast(ops.logical_and(same, valid), "float32")))
            return ops.mean(ops.square(y_pred - ops.take(y_pred, index, axis=0)))

    model = Learner()
    model.compile(optimizer="sgd")
    data = {"x": draw(11, 3), "image_id": np.arange(11, dtype="int32") // 2}
    before = numpy(model.sampler.seed_generator.state).copy()
    assert model.fit(data, batch_size=4, verbose=0).history["wrong"] == [0.0]
    assert (numpy(model.sampler.seed_generator.state) != before).any()


def test_no_gradient():
    def loss(similarity):
        return ops.sum(HardNegativeSampler().probabilities(similarity) ** 2) + 0.0 * ops.sum(similarity)

    _, (grad,) = gradients(loss, [draw(3, 3)])
    assert not grad.any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_configuration_and_mixed_precision(policy):
    sampler = HardNegativeSampler(seed=3, dtype=policy)
    copy = HardNegativeSampler.from_config(sampler.get_config())
    assert copy.get_config() == sampler.get_config()
    similarity, uniforms = 20 * draw(5, 5), np.full(5, 0.3, "float32")
    plain = HardNegativeSampler()(similarity, uniforms=uniforms)
    for one, other in zip(copy(similarity, uniforms=uniforms), plain, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))
    assert np.isfinite(numpy(sampler.probabilities(ops.cast(similarity, "float16")))).all()
