import keras
import numpy as np
import pytest
from support import draw, gradients, load_fixture

from keras_itr.layers import RegionFeatureTower, RegionTower


@pytest.mark.parametrize(("name", "training"), [("encoder_00_eval", False), ("encoder_02_train_masked", True)])
def test_fixture(name, training):
    case, description = load_fixture("encoder", name)
    settings = description["settings"]
    tower = RegionTower(case["regions"].shape[-1], settings["embedding_dim"], settings["hidden_dim"], pooling="gpo")
    cells = tower.pooling_layer.recurrence.forward_layer.cell, tower.pooling_layer.recurrence.backward_layer.cell
    variables = {
        "weight_shortcut_kernel": tower.shortcut.kernel,
        "weight_shortcut_bias": tower.shortcut.bias,
        "weight_hidden_kernel": tower.hidden.kernel,
        "weight_hidden_bias": tower.hidden.bias,
        "weight_output_kernel": tower.output_layer.kernel,
        "weight_output_bias": tower.output_layer.bias,
        "weight_norm_gamma": tower.normalization.gamma,
        "weight_norm_beta": tower.normalization.beta,
        "weight_pool_score_kernel": tower.pooling_layer.score.kernel,
    }
    for direction, cell in zip(("fwd", "bwd"), cells, strict=True):
        variables[f"weight_pool_{direction}_kernel"] = cell.kernel
        variables[f"weight_pool_{direction}_recurrent_kernel"] = cell.recurrent_kernel
        variables[f"weight_pool_{direction}_bias"] = cell.bias
    for key, variable in variables.items():
        variable.assign(case[key])
    tower.normalization.moving_mean.assign(case["weight_norm_moving_mean"])
    tower.normalization.moving_variance.assign(case["weight_norm_moving_variance"])
    mask = case["region_mask"].astype(bool)

    def embed(regions):
        pooled = tower({"regions": regions, "region_mask": mask}, training=training)["pooled"]
        return pooled / (keras.ops.norm(pooled, axis=-1, keepdims=True) + 1e-8)

    def loss(regions):
        return keras.ops.sum(embed(regions) * keras.ops.convert_to_tensor(case["cotangent"]))

    _, grads = gradients(loss, [case["regions"]], list(variables.values()))
    for key, grad in zip(("regions", *variables), grads, strict=True):
        if f"grad_{key}" in case:
            np.testing.assert_allclose(grad, case[f"grad_{key}"], rtol=1e-4, atol=1e-5, err_msg=key)
    tower.normalization.moving_mean.assign(case["weight_norm_moving_mean"])
    tower.normalization.moving_variance.assign(case["weight_norm_moving_variance"])
    embedding = keras.ops.convert_to_numpy(keras.ops.stop_gradient(embed(case["regions"])))
    np.testing.assert_allclose(embedding, case["embedding"], rtol=1e-4, atol=1e-5)
    if training:
        statistics = tower.normalization.moving_mean, tower.normalization.moving_variance
        for actual, key in zip(statistics, ("after_norm_moving_mean", "after_norm_moving_variance"), strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(actual), case[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["gpo", "mean", "max", "first"])
def test_padding_changes_nothing(pooling):
    tower = RegionTower(6, 4, pooling=pooling)
    regions = draw(2, 3, 6)
    padded = np.concatenate([regions, draw(2, 2, 6)], axis=1)
    mask = np.arange(5)[None].repeat(2, 0) < 3
    plain = tower({"regions": regions})["pooled"]
    masked = tower({"regions": padded, "region_mask": mask})["pooled"]
    np.testing.assert_allclose(
        *[keras.ops.convert_to_numpy(keras.ops.stop_gradient(x)) for x in (plain, masked)], atol=1e-6
    )


def test_nan_behind_the_mask_reaches_no_feature_and_no_weight():
    tower = RegionTower(6, 4, pooling="mean", dropout=0.5)
    regions, mask = draw(2, 5, 6), np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    regions[~mask] = np.nan

    def loss(regions):
        return keras.ops.sum(tower({"regions": regions, "region_mask": mask}, training=True)["pooled"])

    value, grads = gradients(loss, [regions], tower.trainable_variables)
    assert np.isfinite(value) and all(np.isfinite(grad).all() for grad in grads)
    assert all(np.isfinite(keras.ops.convert_to_numpy(weight)).all() for weight in tower.weights)
    plain = RegionFeatureTower(6)({"regions": regions, "region_mask": mask})
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(plain["tokens"]), np.where(mask[..., None], regions, 0))
