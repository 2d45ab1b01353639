import gc

import keras
import numpy as np
import pytest
from support import draw, gradients, load_fixture

from keras_itr.layers import GeneralizedPooling, RegionTower


def assign(layer, case, prefix="keras_"):
    forward, backward = layer.recurrence.forward_layer.cell, layer.recurrence.backward_layer.cell
    variables = {
        f"{prefix}fwd_kernel": forward.kernel,
        f"{prefix}fwd_recurrent_kernel": forward.recurrent_kernel,
        f"{prefix}fwd_bias": forward.bias,
        f"{prefix}bwd_kernel": backward.kernel,
        f"{prefix}bwd_recurrent_kernel": backward.recurrent_kernel,
        f"{prefix}bwd_bias": backward.bias,
        f"{prefix}score_kernel": layer.score.kernel,
    }
    for key, variable in variables.items():
        variable.assign(case[key])
    return variables


@pytest.mark.parametrize(
    "name", ["gpo_00_basic", "gpo_01_extra_padding", "gpo_04_len1", "gpo_06_ties", "gpo_07_zero_length"]
)
def test_fixture(name):
    case, description = load_fixture("gpo", name)
    layer = GeneralizedPooling(*[description["settings"][key] for key in ("position_dim", "hidden_dim", "temperature")])
    variables = assign(layer, case)
    mask = case["mask"].astype(bool)

    def loss(features):
        return keras.ops.sum(layer(features, mask) * keras.ops.convert_to_tensor(case["cotangent"]))

    pooled = keras.ops.convert_to_numpy(layer(case["features"], mask))
    np.testing.assert_allclose(pooled, case["pooled"], rtol=1e-4, atol=1e-5)
    counts = mask.sum(axis=1)
    coefficients = keras.ops.convert_to_numpy(layer.coefficients(counts))
    width = min(coefficients.shape[1], case["coefficients"].shape[1])
    np.testing.assert_allclose(coefficients[:, :width], case["coefficients"][:, :width], rtol=1e-4, atol=1e-5)
    _, grads = gradients(loss, [case["features"]], list(variables.values()))
    for key, grad in zip(("features", *variables), grads, strict=True):
        if f"grad_{key}" in case:
            np.testing.assert_allclose(grad, case[f"grad_{key}"], rtol=1e-4, atol=1e-5, err_msg=key)


def test_fixture_of_other_sizes_and_holes():
    case, _ = load_fixture("gpo", "gpo_case0")
    layer = GeneralizedPooling(position_dim=8, hidden_dim=6)
    names = {"fwd": "forward", "bwd": "backward"}
    renamed = {f"keras_{short}_{part}": case[f"keras_{long}_{part}"] for short, long in names.items()
               for part in ("kernel", "recurrent_kernel", "bias")}  # fmt: skip
    assign(layer, {**renamed, "keras_score_kernel": case["linear"].reshape(6, 1)})
    mask = case["mask"].astype(bool)
    pooled = keras.ops.convert_to_numpy(layer(case["features"], mask))
    np.testing.assert_allclose(pooled, case["pooled"], rtol=1e-5, atol=1e-5)
    order = np.array([4, 0, 5, 2, 1, 3])
    scattered = keras.ops.convert_to_numpy(layer(case["features"][:, order], mask[:, order]))
    np.testing.assert_allclose(scattered, pooled, atol=1e-6)


def test_padding_garbage_and_shuffling_change_nothing():
    layer = GeneralizedPooling()
    features = draw(2, 5, 3)
    plain = keras.ops.convert_to_numpy(layer(features))
    padded = np.concatenate([features[:, ::-1], np.full((2, 3, 3), np.nan, "float32")], axis=1)
    mask = np.arange(8)[None].repeat(2, 0) < 5
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(padded, mask)), plain, atol=1e-6)


def test_a_constant_score_is_the_masked_mean():
    layer = GeneralizedPooling()
    layer.score.kernel.assign(np.zeros((32, 1)))
    features = draw(2, 5, 3)
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
    mean = np.stack([features[row][mask[row]].mean(axis=0) for row in range(2)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(features, mask)), mean, atol=1e-6)


def test_config_round_trip_and_odd_width():
    config = GeneralizedPooling(position_dim=4, hidden_dim=5, temperature=0.2).get_config()
    assert GeneralizedPooling.from_config(config).get_config() == config
    with pytest.raises(ValueError, match="even"):
        GeneralizedPooling(position_dim=5)
    with pytest.raises(ValueError, match="temperature must be above 0, a divisor, received 0"):
        GeneralizedPooling(temperature=0)
    with pytest.raises(ValueError, match="a size of 1 or more, or None to thaw, received 0"):
        GeneralizedPooling(4, 4).freeze(0)


@keras.saving.register_keras_serializable(package="keras_itr_tests")
class Poolings(keras.Model):
    """Makes its poolings while it is loaded, in memory that is freed and taken again."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.poolings = []
        for _ in range(8):
            self.poolings.append(GeneralizedPooling(2, 2))
            gc.collect()
        self.built = True

    def call(self, inputs):
        return inputs


def test_poolings_of_a_loaded_model_share_nothing(tmp_path):
    # What was there before is not searched again and again.
    gc.freeze()
    model = Poolings()
    model.save(tmp_path / "model.keras")
    for _ in range(3):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert len({id(weight) for weight in loaded.weights}) == len(model.weights) == 8 * 7
    gc.unfreeze()


@pytest.mark.parametrize("name", ["gpo_07_zero_length"])
def test_frozen_equals_unfrozen(name):
    case, description = load_fixture("gpo", name)
    layer = GeneralizedPooling(*[description["settings"][key] for key in ("position_dim", "hidden_dim", "temperature")])
    assign(layer, case)
    features, mask = case["features"], case["mask"].astype(bool)
    live, short = (keras.ops.convert_to_numpy(layer(features[:, :n], mask[:, :n])) for n in (features.shape[1], 3))
    layer.freeze(features.shape[1])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(features, mask)), live)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(features[:, :3], mask[:, :3])), short, atol=1e-6)
    layer.freeze(20)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(features, mask)), live, atol=1e-6)
    _, grads = gradients(lambda x: keras.ops.sum(layer(x, mask) * keras.ops.convert_to_tensor(case["cotangent"])),
                         [features], [layer.score.kernel])  # fmt: skip
    if "grad_features" in case:
        np.testing.assert_allclose(grads[0], case["grad_features"], rtol=1e-4, atol=1e-5)
    assert not grads[1].any()


def test_a_frozen_layer_reads_no_weight_until_it_thaws():
    layer = GeneralizedPooling(4, 4)
    features = draw(2, 5, 3)
    live = keras.ops.convert_to_numpy(layer(features))
    layer.freeze(5)
    for weight in layer.weights:
        weight.assign(weight + np.float32(np.nan))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(features)), live)
    with pytest.raises(ValueError, match=r"frozen for sets of up to 5, received 6; freeze\(6\)"):
        layer(draw(2, 6, 3))
    layer.freeze(None)
    assert np.isnan(keras.ops.convert_to_numpy(layer(features))).any()


def test_the_table_is_saved_with_the_weights(tmp_path):
    towers = [RegionTower(6, 4) for _ in range(2)]
    features = draw(2, 5, 4)
    towers[0].pooling_layer.freeze(5)
    keras.saving.save_weights(towers[0], tmp_path / "frozen.weights.h5")
    keras.saving.load_weights(towers[1], tmp_path / "frozen.weights.h5")
    assert towers[1].pooling_layer.frozen_table.shape == (6, 5)
    np.testing.assert_array_equal(*[keras.ops.convert_to_numpy(tower.pooling_layer(features)) for tower in towers])
    towers[0].pooling_layer.freeze(None)
    keras.saving.save_weights(towers[0], tmp_path / "live.weights.h5")
    keras.saving.load_weights(towers[1], tmp_path / "live.weights.h5")
    assert towers[1].pooling_layer.frozen_table is None


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow")
def test_no_recurrent_operation_in_a_frozen_graph():
    import tensorflow as tf

    layer = GeneralizedPooling(4, 4)

    def operations():
        specs = tf.TensorSpec((None, None, 3)), tf.TensorSpec((None, None), "bool")
        function = tf.function(lambda features, mask: layer(features, mask)).get_concrete_function(*specs)
        return function, {operation.type for operation in function.graph.get_operations()}

    features, mask = draw(2, 4, 3), np.array([[1, 0, 1, 1], [0, 0, 0, 0]], bool)
    live, kinds = operations()
    assert {kind for kind in kinds if "While" in kind}
    layer.freeze(9)
    frozen, kinds = operations()
    assert not {kind for kind in kinds if "While" in kind or "RNN" in kind or "ReadVariable" in kind}, kinds
    np.testing.assert_allclose(*[f(tf.constant(features), tf.constant(mask)) for f in (live, frozen)], atol=1e-6)
