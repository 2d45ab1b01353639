import keras
import numpy as np
import pytest
from loss_support import assert_relative, compiled, unit, value
from support import gradients, load_fixture

from keras_itr.losses import consistent_multimodal_contrastive, hard_negative_triplet, same_image_pairs


def term(name, **settings):
    return compiled(lambda image, text: consistent_multimodal_contrastive(image, text, **settings)[name])


@pytest.mark.parametrize("hardest", (True, False))
def test_hinge(hardest):
    case, _ = load_fixture("tgdt", "case01_hinge_b4")
    suffix = "hardest" if hardest else "all"
    loss, (grad,) = gradients(compiled(lambda s: hard_negative_triplet(s, 0.2, hardest)), [case["similarity"]])
    assert_relative(loss, case[f"loss_{suffix}"], 1e-5)
    assert_relative(grad, case[f"grad_similarity_{suffix}"], 1e-4)


@pytest.mark.parametrize("name", ("inter", "intra", "total"))
def test_values_and_gradients(name):
    case, _ = load_fixture("tgdt", "case03_global_cmc_b8")
    loss, grads = gradients(term(name), [case["image"], case["text"]])
    assert_relative(loss, case[name], 1e-5)
    assert_relative(grads[0], case[f"grad_image_{name}"], 1e-4)
    assert_relative(grads[1], case[f"grad_text_{name}"], 1e-4)


def test_captions_of_one_image():
    case, _ = load_fixture("tgdt", "case06_global_cmc_dup_images")
    for name in ("inter", "intra", "total"):
        loss, grads = gradients(term(name), [case["image"], case["text"]])
        assert_relative(loss, case[name], 1e-5, name)
        assert_relative(grads[1], case[f"grad_text_{name}"], 1e-4, name)
    # Equal rows tie in a maximum, and backends part the gradient among them in different ways.
    grouped = np.stack([grads[0][case["image_ids"] == image].sum(0) for image in np.unique(case["image_ids"])])
    assert_relative(grouped, case["grad_image_total_grouped"], 1e-4)
    excluded = term("inter", positives=same_image_pairs(case["image_ids"]))(case["image"], case["text"])
    assert_relative(value(excluded), case["inter_positives_excluded"], 1e-5)


def test_intra_takes_the_largest_difference_whatever_hardest_is():
    image, text = unit(6, 5), unit(6, 5, seed=1)
    hardest, every = (
        consistent_multimodal_contrastive(image, text, intra_margin=0.1, hardest=h) for h in (True, False)
    )
    assert value(hardest["intra"]) == value(every["intra"]) > 0
    assert value(hardest["inter"]) < value(every["inter"])
    oracle = np.maximum(np.abs(text @ text.T - image @ image.T).max(0) - 0.1, 0).sum()
    np.testing.assert_allclose(value(hardest["intra"]), oracle, rtol=1e-5)


def test_one_pair_and_one_image_cost_nothing():
    for name in ("inter", "intra", "total"):
        loss, grads = gradients(term(name), [unit(1, 5), unit(1, 5, seed=1)])
        assert loss == 0 and not grads[0].any() and not grads[1].any()
    loss, grads = gradients(term("inter", positives=np.ones((4, 4), bool)), [unit(4, 5), unit(4, 5, seed=1)])
    assert loss == 0 and not grads[0].any() and not grads[1].any()


def test_half_precision_is_computed_in_float32():
    image, text = unit(6, 5), unit(6, 5, seed=1)
    half = consistent_multimodal_contrastive(*(keras.ops.cast(rows, "bfloat16") for rows in (image, text)))
    for name, exact in consistent_multimodal_contrastive(image, text).items():
        assert keras.backend.standardize_dtype(half[name].dtype) == "float32"
        np.testing.assert_allclose(value(half[name]), value(exact), rtol=3e-2, atol=3e-2)
