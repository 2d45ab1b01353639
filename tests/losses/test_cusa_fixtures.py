import keras
import numpy as np
import pytest
from support import gradients, load_fixture

from keras_itr.layers import UniversalHead
from keras_itr.losses import (
    cross_modal_soft_label_alignment,
    symmetric_contrastive,
    uni_modal_soft_label_alignment,
)
from keras_itr.models import CUSA
from keras_itr.numerics import unit_rows

CASES = (
    "loss_01_n8",
    "loss_02_dups_n16",
    "loss_05_cold",
    "loss_05u_ultracold",
    "loss_08_sum_mode",
    "loss_15_usa_only_plus_itc",
    "loss_16_n1",
    "loss_18_no_ids",
)


def close(actual, expected, name):
    # Ultracold: absolute only, but a temperature gradient of 896 has float32 steps of 6e-5: two of those.
    rtol = 2**-22 if name == "loss_05u_ultracold" else 1e-4
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients(name):
    case, description = load_fixture("cusa", name)
    settings = description["settings"]
    ids = case.get("in_image_ids")
    count = len(case["in_cross_image"])
    scale = 1 / count if settings["contrastive"]["divided_by_batch_size"] else 1.0
    inputs = ["in_cross_image", "in_cross_text", "in_uni_image", "in_uni_text"]
    taus = [key for key in ("in_tau", "in_cross_tau", "in_uni_tau_image", "in_uni_tau_text") if key in case]

    def terms(*tensors):
        at = dict(zip([*inputs, *taus], tensors, strict=True))
        similarity = keras.ops.matmul(
            unit_rows(at["in_cross_image"]), keras.ops.transpose(unit_rows(at["in_cross_text"]))
        )
        teachers = case["in_teacher_image"], case["in_teacher_text"]
        parts = {"itc": scale * symmetric_contrastive(similarity, ids, at["in_tau"])}
        if "out_csa" in case and settings["csa"]["on"]:
            teacher_tau = float(case["in_cross_the_softlabel_tau"])
            parts["csa"] = settings["csa"]["weight"] * cross_modal_soft_label_alignment(
                similarity, *teachers, at["in_cross_tau"], teacher_tau
            )
        teacher_tau = float(case.get("in_uni_the_softlabel_tau_image", case.get("in_cross_the_softlabel_tau", 1.0)))
        parts["usa"] = settings["usa"]["weight"] * uni_modal_soft_label_alignment(
            at["in_uni_image"], at["in_uni_text"], *teachers, at["in_uni_tau_image"], at["in_uni_tau_text"], teacher_tau
        )
        return parts

    arrays = [case[key] for key in (*inputs, *taus)]
    parts = terms(*[keras.ops.convert_to_tensor(array) for array in arrays])
    for term, value in parts.items():
        close(keras.ops.convert_to_numpy(value), case[f"out_{term}"], name)
    total, grads = gradients(lambda *tensors: sum(terms(*tensors).values()), arrays)
    close(total, case["out_total"], name)
    for key, grad in zip((*inputs, *taus), grads, strict=True):
        close(grad, case[key.replace("in_", "grad_", 1)], name)


def test_heads_inside_the_model():
    case, description = load_fixture("cusa", "heads_01")
    model = CUSA(_PassThrough.backbone(24))
    heads = {
        "cross_image": model.image_head,
        "cross_text": model.text_head,
        "uni_image": model.alignment.image_head,
        "uni_text": model.alignment.text_head,
    }
    variables = {}
    for name, head in heads.items():
        for key in [key for key in case if key.startswith(f"weight_{name}_")]:
            variables[key] = _head_variable(head, key)
    variables["weight_tau"] = model.tau_itc.value
    variables["weight_cross_tau"] = model.alignment.tau_csa.value
    variables["weight_uni_tau_image"] = model.alignment.tau_usa_image.value
    variables["weight_uni_tau_text"] = model.alignment.tau_usa_text.value
    missing = {key for key in case if key.startswith("weight_")} - set(variables)
    assert missing == {key for key in missing if "softlabel" in key}
    for key, variable in variables.items():
        variable.assign(case[key])

    extra = {
        "teacher_image": case["in_teacher_image"],
        "teacher_text": case["in_teacher_text"],
        "image_id": case["in_image_ids"].astype("int32"),
    }

    def loss(image, text):
        features = model({"regions": image, "text_features": text}, training=True)
        return model.compute_loss(x=extra, y_pred=features)

    total, grads = gradients(loss, [case["in_image_features"], case["in_text_features"]], list(variables.values()))
    np.testing.assert_allclose(total, case["out_total"], rtol=1e-4, atol=1e-6)
    expected = [case["grad_image_features"], case["grad_text_features"]]
    expected += [case[f"grad_{key}"] for key in variables]
    for actual, wanted in zip(grads, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-6)
    features = model({"regions": case["in_image_features"], "text_features": case["in_text_features"]})
    terms = model.objectives(features["image"], features["text"], extra)
    terms = {name: keras.ops.convert_to_numpy(value) for name, value in terms.items()}
    weights = description["settings"]
    np.testing.assert_allclose(terms["itc"], case["out_itc"], rtol=1e-4)
    np.testing.assert_allclose(weights["csa"]["weight"] * terms["csa"], case["out_csa"], rtol=1e-4)
    np.testing.assert_allclose(weights["usa"]["weight"] * terms["usa"], case["out_usa"], rtol=1e-4)
    for name, head in heads.items():
        side = "in_image_features" if name.endswith("image") else "in_text_features"
        output = keras.ops.convert_to_numpy(head(case[side]))
        np.testing.assert_allclose(output, case[f"out_{name}"], rtol=1e-4, atol=1e-6)


def test_head_initialisation():
    head = UniversalHead(kernel_stddev=0.02)
    head.build((None, 400))
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in (head.dense.kernel, head.dense.bias))
    assert abs(kernel.std() - 0.02) < 1e-3 and np.abs(bias).max() <= 1 / 20 and bias.std() > 0.02


def _head_variable(head, key):
    part = key.rsplit("_", 1)[-1]
    names = {"gamma": head.normalization.gamma, "beta": head.normalization.beta}
    return {**names, "kernel": head.dense.kernel, "bias": head.dense.bias}[part]


class _PassThrough(keras.layers.Layer):
    """A tower whose pooled vector is its input."""

    token_dim = None

    def __init__(self, side, input_key, width):
        super().__init__()
        self.side, self.input_key, self.output_dim = side, input_key, width
        self.built = True

    def call(self, inputs, training=False):
        return {"pooled": inputs[self.input_key]}

    @classmethod
    def backbone(cls, width):
        from keras_itr.models import DualEncoderBackbone

        return DualEncoderBackbone(cls("image", "regions", width), cls("text", "text_features", width))
