import keras
import numpy as np
import pytest
from keras import ops
from support import draw, load_fixture

from keras_itr.layers import FeatureQueue


def contents(queue):
    return ops.convert_to_numpy(queue.features()), ops.convert_to_numpy(queue.ids())


class Ring:
    """The queue in plain Python."""

    def __init__(self, size, dim):
        self.features, self.ids, self.written = np.zeros((size, dim), "float32"), np.full(size, -1), 0

    def enqueue(self, features, ids):
        for feature, index in zip(features, ids, strict=True):
            slot = self.written % len(self.ids)
            self.features[slot], self.ids[slot] = feature, index
            self.written += 1


class Learner(keras.Model):
    """Reads the queue before it writes, as a method does; what it writes does not depend on the training."""

    def __init__(self, queue):
        super().__init__()
        self.dense = keras.layers.Dense(queue.dim)
        self.dense.build((None, queue.dim))
        self.queue = queue
        self.seen = keras.metrics.Sum(name="seen")

    def call(self, inputs):
        return self.dense(inputs["features"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        keys, ids = self.queue.features(), self.queue.ids()
        if training:
            self.queue.enqueue(x["features"], x["image_id"])
        # The reads above must still be those of before.
        valid = ops.cast(ids != -1, "float32")
        self.seen.update_state(ops.sum(ops.sum(keys, axis=1) * valid))
        return ops.mean(ops.square(ops.matmul(y_pred, ops.transpose(keys))) * valid[None, :]) + ops.mean(y_pred)


def test_fixture_wraparound():
    case, description = load_fixture("coder", "queue_00_wraparound")
    queue = FeatureQueue(**description["settings"])
    for push in range(5):
        queue.enqueue(case[f"push{push}"], case[f"ids{push}"])
        features, ids = contents(queue)
        np.testing.assert_array_equal(features, case[f"buffer{push}"])
        np.testing.assert_array_equal(ids, case[f"queue_ids{push}"])
        assert int(ops.convert_to_numpy(queue.pointer)) == case[f"pointer{push}"]
        assert (ids != -1).sum() == case[f"filled{push}"]
    np.testing.assert_array_equal(ops.convert_to_numpy(queue.valid_for(case["probe_ids"])), case["probe_valid"])


def test_fixture_of_aai():
    case, description = load_fixture("aai", "queue_ema_case2")
    queue = FeatureQueue(description["config"]["size"], case["batches"].shape[-1])
    for step, (batch, ids) in enumerate(zip(case["batches"], case["batch_ids"], strict=True)):
        queue.enqueue(batch, ids)
        features, queue_ids = contents(queue)
        np.testing.assert_allclose(features, case["features_after"][step], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(queue_ids, case["ids_after"][step])


@pytest.mark.parametrize("sizes", [(3, 3, 3), (1, 7, 2), (7,), (9, 2), (2, 20), (5, 15, 1)])
def test_contents_after_batches_of_any_size(sizes):
    queue, ring = FeatureQueue(7, 2), Ring(7, 2)
    for step, size in enumerate(sizes):
        batch, ids = draw(size, 2, seed=step), np.arange(size) + 100 * step
        queue.enqueue(batch, ids)
        ring.enqueue(batch, ids)
        features, queue_ids = contents(queue)
        np.testing.assert_array_equal(features, ring.features)
        np.testing.assert_array_equal(queue_ids, ring.ids)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 9])
def test_contents_after_fit(batch_size):
    # 23 rows end in a smaller batch, which TensorFlow sees as a symbolic one.
    data = {"features": draw(23, 3), "image_id": np.arange(23, dtype="int32") // 2}
    model, ring, seen = Learner(FeatureQueue(7, 3)), Ring(7, 3), []
    model.compile(optimizer="sgd")
    history = model.fit(data, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        total = 0.0
        for start in range(0, 23, batch_size):
            total += ring.features[ring.ids != -1].sum()
            rows = slice(start, start + batch_size)
            ring.enqueue(data["features"][rows], data["image_id"][rows])
        seen.append(total)
    features, ids = contents(model.queue)
    np.testing.assert_array_equal(features, ring.features)
    np.testing.assert_array_equal(ids, ring.ids)
    assert int(ops.convert_to_numpy(model.queue.pointer)) == 46 % 7
    np.testing.assert_allclose(history.history["seen"], seen, rtol=1e-4, atol=1e-4)
    model.evaluate(data, batch_size=batch_size, verbose=0)
    np.testing.assert_array_equal(contents(model.queue)[0], ring.features)


def test_what_was_read_stays():
    queue = FeatureQueue(3, 2)
    features, ids = queue.features(), queue.ids()
    queue.enqueue(draw(2, 2), [4, 5])
    np.testing.assert_array_equal(ops.convert_to_numpy(features), np.zeros((3, 2)))
    np.testing.assert_array_equal(ops.convert_to_numpy(ids), [-1, -1, -1])


def test_valid_slots_are_written_and_of_other_images():
    queue = FeatureQueue(4, 2)
    assert not ops.convert_to_numpy(queue.valid_for([0, 1])).any()
    queue.enqueue(draw(3, 2), np.array([5, 6, 5]))
    expected = [[False, True, False, False], [True, True, True, False], [True, True, True, False]]
    np.testing.assert_array_equal(ops.convert_to_numpy(queue.valid_for([5, 9, -1])), expected)


def test_configuration_and_weights_round_trip(tmp_path):
    model = Learner(FeatureQueue(5, 3))
    model.built = True
    model.queue.enqueue(draw(7, 3), np.arange(7))
    model.save_weights(tmp_path / "queue.weights.h5")
    config = model.queue.get_config()
    other = Learner(FeatureQueue.from_config(config))
    other.built = True
    other.load_weights(tmp_path / "queue.weights.h5")
    assert other.queue.get_config() == config
    for queue in (model.queue, other.queue):
        queue.enqueue(draw(2, 3, seed=4), [8, 9])
    for own, loaded in zip(contents(model.queue), contents(other.queue), strict=True):
        np.testing.assert_array_equal(own, loaded)
    model.queue.reset()
    for weight, empty in zip(model.queue.get_weights(), FeatureQueue(5, 3).get_weights(), strict=True):
        np.testing.assert_array_equal(weight, empty)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_features_stay_float32(policy):
    queue = FeatureQueue(3, 2, dtype=policy)
    assert [variable.dtype for variable in queue.weights] == ["float32", "int32", "int32"]
    assert not queue.trainable_variables
    queue.enqueue(ops.cast(draw(2, 2), "float16"), [0, 1])
    features, _ = contents(queue)
    assert features.dtype == np.float32 and np.isfinite(features).all()
    np.testing.assert_allclose(features[:2], draw(2, 2), atol=2e-3)


def test_errors():
    with pytest.raises(ValueError, match="positive size and dim, received 0 and 3"):
        FeatureQueue(0, 3)
    with pytest.raises(ValueError, match=r"holds features of width 3, received \(2, 4\)"):
        FeatureQueue(5, 3).enqueue(draw(2, 4), [0, 1])
    with pytest.raises(ValueError, match="needs one id per row, received 3 ids for 2 rows"):
        FeatureQueue(5, 3).enqueue(draw(2, 3), [0, 1, 2])
