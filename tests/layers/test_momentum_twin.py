import keras
import numpy as np
import pytest
from keras import ops
from support import draw, gradients, load_fixture, region_data

from keras_itr.layers import (
    ConceptQuery,
    ConvolutionalTower,
    GeneralizedPooling,
    MomentumTwin,
    RecurrentTextTower,
    RegionTower,
)

IDS = np.array([[2, 4, 5, 3, 0, 0], [2, 6, 7, 8, 9, 3]], "int32")


def built(layer, *shapes):
    layer.build(*shapes)
    return layer


ENCODERS = {
    "region": (lambda: RegionTower(6, 8, pooling="mean", dropout=0.3), ({"regions": draw(2, 4, 6)},)),
    "convolutional": (lambda: ConvolutionalTower((4, 4), (4,), 8), ({"images": draw(2, 4, 4, 3)},)),
    "recurrent": (lambda: RecurrentTextTower(12, 8, 5, pooling="mean"), ({"token_ids": IDS, "padding_mask": IDS > 0},)),
    "pooling": (lambda: GeneralizedPooling(4, 4), (draw(2, 6, 3), IDS > 0)),
    "query": (lambda: built(ConceptQuery(4), (None, 6), (None, 5)), (draw(2, 6), draw(7, 5))),
    "dense": (lambda: built(keras.layers.Dense(3), (None, 6)), (draw(2, 6),)),
    "functional": (lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]), (draw(2, 6),)),
}


def numpy(x):
    return keras.tree.map_structure(lambda value: ops.convert_to_numpy(ops.stop_gradient(value)), x)


def shift(layer, by=0.1):
    for weight in layer.weights:
        weight.assign(ops.convert_to_numpy(weight) + by)


def assert_equal(one, other, **kwargs):
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, **kwargs), one, other)


class Learner(keras.Model):
    """One tower that learns to agree with its twin."""

    def __init__(self, momentum=0.9, dropout=0.0):
        super().__init__()
        self.tower = RegionTower(12, 4, pooling="mean", dropout=dropout)
        self.twin = MomentumTwin(self.tower, momentum)

    def call(self, inputs, training=False):
        return self.tower(inputs, training=training)["pooled"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            self.twin.update()
        return ops.mean(ops.square(y_pred - self.twin(x, training=training)["pooled"] - 1.0))


@pytest.mark.parametrize("name", ENCODERS)
def test_starts_equal_then_moves_on_its_own(name):
    make, inputs = ENCODERS[name]
    encoder = make()
    count = len(encoder.weights)
    twin = MomentumTwin(encoder, momentum=0.75)
    before = numpy(encoder(*inputs))
    assert_equal(numpy(twin(*inputs)), before, atol=1e-6)
    assert not twin.trainable_variables and len(twin.weights) == count == len(encoder.weights)
    assert not {id(v) for v in twin.variables} & {id(v) for v in encoder.variables}
    old = [np.array(weight) for weight in encoder.get_weights()]
    shift(encoder)
    assert_equal(numpy(twin(*inputs)), before, atol=1e-6)
    twin.update()
    statistics = {id(weight) for weight in encoder.weights if not weight.trainable}
    for weight, start, own in zip(encoder.weights, old, twin.get_weights(), strict=True):
        expected = start + (0.1 if id(weight) in statistics else 0.025)
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
    twin.reset()
    assert_equal(twin.get_weights(), encoder.get_weights(), atol=0)
    assert_equal(numpy(twin(*inputs)), numpy(encoder(*inputs)), atol=1e-6)


def test_fixture_of_four_updates():
    case, description = load_fixture("coder", "ema_00")
    encoder = built(keras.layers.Dense(4, use_bias=False), (None, 5))
    twin = MomentumTwin(encoder, **description["settings"])
    twin.set_weights([case["key_init"]])
    for step in range(4):
        encoder.set_weights([case[f"online{step}"]])
        twin.update()
        np.testing.assert_allclose(twin.get_weights()[0], case[f"key{step}"], rtol=1e-6)


def test_fixture_of_aai():
    case, description = load_fixture("aai", "queue_ema_case2")
    encoder = built(keras.layers.Dense(1, use_bias=False), (None, 3))
    twin = MomentumTwin(encoder, description["config"]["momentum"])
    twin.set_weights([case["average_initial"][:, None]])
    for online, expected in zip(case["online"], case["average_after"], strict=True):
        encoder.set_weights([online[:, None]])
        twin.update()
        np.testing.assert_allclose(twin.get_weights()[0][:, 0], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_update_inside_fit_is_the_average():
    model = Learner()
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    data = region_data(6, teachers=False)
    for _ in range(3):
        twin, online = model.twin.get_weights(), model.tower.get_weights()
        model.fit(data, batch_size=6, verbose=0)
        moved = model.tower.get_weights()
        for weight, old, start, end, own in zip(
            model.tower.weights, twin, online, moved, model.twin.get_weights(), strict=True
        ):
            # Statistics were renewed by the forward pass, before the loss; weights are by the optimizer, after it.
            expected = 0.9 * old + np.float32(0.1) * start if weight.trainable else end
            np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6, err_msg=weight.path)
            # Batch normalisation takes the bias before it away.
            assert np.abs(end - start).max() > 0 or weight.path.endswith("hidden/bias"), weight.path
    own = model.twin.get_weights()
    model.evaluate(data, verbose=0)
    assert_equal(model.twin.get_weights(), own, atol=0)
    twins = {id(variable) for variable in model.twin.variables}
    assert not twins & {id(variable) for variable in model.trainable_variables}
    # Slots of the optimizer: one per trainable weight, none for the twin (plain SGD: iterations and rate only).
    assert len(model.optimizer.variables) == 2


def test_seeds_stay_those_of_the_twin():
    model = Learner(dropout=0.5)
    own, online = (layer.drop.seed_generator.state for layer in (model.twin.twin, model.tower))
    model.compile(optimizer="sgd")
    before = ops.convert_to_numpy(own).copy()
    model.twin.update()
    model.twin.reset()
    model.tower({"regions": draw(2, 4, 12)}, training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(own), before)
    assert own is not online and id(own) not in {id(weight) for weight in model.twin.weights}
    # Drawing in training moves the twin's own state, as a variable of the model.
    model.fit(region_data(6, teachers=False), batch_size=3, verbose=0)
    if keras.backend.backend() != "torch":  # there, dropout draws from PyTorch's own generator
        assert (ops.convert_to_numpy(own) != before).any()
    quiet = [numpy(model.twin({"regions": draw(2, 4, 12)})["pooled"]) for _ in range(2)]
    np.testing.assert_array_equal(*quiet)


def test_no_gradient_passes():
    tower = RegionTower(6, 8, pooling="mean")
    twin = MomentumTwin(tower)

    def loss(regions):
        twin.update()
        return ops.sum(twin({"regions": regions})["pooled"] ** 2)

    value, grads = gradients(loss, [draw(2, 4, 6)], tower.trainable_variables)
    assert value > 0 and not any(np.abs(grad).max() for grad in grads)


def test_stays_frozen_and_normalises_by_its_statistics():
    model = Learner()
    model.trainable = False
    model.trainable = True
    assert model.tower.trainable_variables and not model.twin.trainable_variables
    assert not any(weight.trainable for weight in model.twin.weights)
    regions = {"regions": draw(2, 4, 12)}
    before = model.twin.get_weights()
    training, inference = (numpy(model.twin(regions, training=flag)["pooled"]) for flag in (True, False))
    np.testing.assert_allclose(training, inference, atol=1e-6)
    assert_equal(model.twin.get_weights(), before, atol=0)


def test_a_frozen_encoder_is_followed_straight():
    tower = RegionTower(6, 8, pooling="mean")
    tower.trainable = False
    twin = MomentumTwin(tower)
    shift(tower)
    twin.update()
    assert_equal(twin.get_weights(), tower.get_weights(), atol=0)
    tower.trainable = True
    shift(tower)
    twin.update()
    assert np.abs(twin.get_weights()[0] - tower.get_weights()[0]).min() > 0.09


@pytest.mark.parametrize("name", ["region", "pooling", "query", "dense"])
def test_configuration_makes_a_twin_with_an_encoder_of_its_own(name):
    make, inputs = ENCODERS[name]
    twin = MomentumTwin(make(), momentum=0.5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(twin))
    assert copy.get_config() == twin.get_config() and copy.momentum == 0.5
    assert copy.followed.encoder is not twin.followed.encoder
    copy.set_weights(twin.get_weights())
    assert_equal(numpy(copy(*inputs)), numpy(twin(*inputs)), atol=1e-6)


def test_saved_with_the_model_or_left_out(tmp_path):
    models = [Learner() for _ in range(3)]
    for model in models:
        model.built = True
    shift(models[0].tower)
    models[0].twin.update()
    models[0].save_weights(tmp_path / "all.weights.h5")
    models[1].load_weights(tmp_path / "all.weights.h5")
    assert_equal(models[1].twin.get_weights(), models[0].twin.get_weights(), atol=0)
    assert_equal(models[1].tower.get_weights(), models[0].tower.get_weights(), atol=0)
    # What a preset for serving does with layers that are `training_only`.
    path = tmp_path / "serving.weights.h5"
    assert models[0].twin.training_only
    keras.saving.save_weights(models[0], path, objects_to_skip=[models[0].twin])
    keras.saving.load_weights(models[2], path, objects_to_skip=[models[2].twin])
    models[2].twin.reset()
    assert_equal(models[2].tower.get_weights(), models[0].tower.get_weights(), atol=0)
    assert_equal(models[2].twin.get_weights(), models[0].tower.get_weights(), atol=0)
    assert path.stat().st_size < 0.7 * (tmp_path / "all.weights.h5").stat().st_size


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    tower = RegionTower(6, 8, pooling="mean", dtype=policy)
    twin = MomentumTwin(tower)
    twin.update()
    inputs = {"regions": draw(2, 4, 6)}
    own, online = numpy(twin(inputs)["pooled"]), numpy(tower(inputs)["pooled"])
    assert np.isfinite(own).all() and all(weight.dtype == "float32" for weight in twin.weights)
    np.testing.assert_allclose(own, online, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="needs a built encoder"):
        MomentumTwin(keras.layers.Dense(3))
    with pytest.raises(ValueError, match=r"from 0 to 1, received 1\.5"):
        MomentumTwin(built(keras.layers.Dense(3), (None, 2)), momentum=1.5)
