import warnings

import keras
import numpy as np
import pytest
from momentum_support import array, tensors, word_data
from support import draw, region_backbone

from keras_itr.layers import RecurrentTextTower, RegionFeatureTower
from keras_itr.losses import asymmetry_sensitive_contrastive, symmetric_contrastive
from keras_itr.models import AsCL, DualEncoderBackbone, SoftLabelAlignment


def backbone():
    return DualEncoderBackbone(RegionFeatureTower(12), RecurrentTextTower(20, 12, word_dim=6, pooling="mean"))


def make(towers=None, **arguments):
    return AsCL(towers or backbone(), **{"embedding_dim": 8, "num_heads": 2, "freeze_backbones": False, **arguments})


def with_positives(count=8):
    """`word_data` with generated captions: half of the own one, and the own one in another order."""
    data = word_data(count)
    other = word_data(count, seed=4)
    return {
        **data,
        "positive_token_ids": other["token_ids"],
        "positive_padding_mask": other["padding_mask"],
        "negative_token_ids": data["token_ids"][:, ::-1].copy(),
        "negative_padding_mask": data["padding_mask"][:, ::-1].copy(),
    }


def sides(data):
    return (
        {key: data[key] for key in ("regions", "region_mask", "image_global") if key in data},
        {key: data[key] for key in ("token_ids", "padding_mask")},
    )


def terms_of(model, data, training=False):
    data = tensors(data)
    features = model(data)
    terms = model.objectives(features["image"], features["text"], data, training=training)
    return features, {name: float(array(term)) for name, term in terms.items()}


def test_terms_are_the_losses_of_the_parts():
    model, data = make(coarse_weight=0.1, negatives=()), with_positives()
    ids = data["image_id"]
    features, terms = terms_of(model, data)
    positive = model.encode_texts(tensors({key[9:]: data[key] for key in data if key.startswith("positive_")}))
    for name, text in (("original", features["text"]), ("positive", positive)):
        similarity = model.similarity(features["image"], text)
        expected = array(asymmetry_sensitive_contrastive(similarity, 0.1, True, ids))
        assert terms[name] == pytest.approx(float(expected), rel=1e-5)
    products = features["image"]["embedding"] @ keras.ops.transpose(features["text"]["embedding"])
    assert terms["coarse"] == pytest.approx(float(array(symmetric_contrastive(products, ids, 0.05))), rel=1e-5)


def test_generated_negatives_enter_in_training_alone():
    data = with_positives()
    without = make(negatives=())
    quiet = terms_of(without, data)[1]
    # Word order: the captions of another order are more columns of the first term.
    loud = terms_of(without, data, training=True)[1]
    assert loud["original"] > quiet["original"] and loud["positive"] == pytest.approx(quiet["positive"], rel=1e-5)
    features, _ = terms_of(without, data)
    negative = without.encode_texts(tensors({key[9:]: data[key] for key in data if key.startswith("negative_")}))
    texts = {key: keras.ops.concatenate([features["text"][key], negative[key]]) for key in ("tokens", "mask")}
    expected = asymmetry_sensitive_contrastive(
        without.similarity(features["image"], texts), 0.1, True, data["image_id"]
    )
    assert loud["original"] == pytest.approx(float(array(expected)), rel=1e-5)
    # Word features: columns of both terms.
    both = terms_of(make(negatives=("zero_token",), negatives_per_text=2), with_positives(), training=True)[1]
    assert all(np.isfinite(value) for value in both.values())
    keras.utils.set_random_seed(0)
    noisy = make(negatives=("noise",))
    silent, noise = terms_of(noisy, data)[1], terms_of(noisy, data, training=True)[1]
    assert noise["original"] > silent["original"] and noise["positive"] > silent["positive"]


def test_without_positives_the_captions_take_their_place_and_it_warns_once():
    model, data = make(negatives=()), word_data()
    with pytest.warns(UserWarning, match="positive_token_ids"):
        terms = terms_of(model, data, training=True)[1]
    assert terms["positive"] == pytest.approx(terms["original"], rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        terms_of(model, data, training=True)
        terms_of(make(negatives=(), positive_weight=0.0), data, training=True)


@pytest.mark.parametrize("conditioning", ("pairwise", "paired"))
def test_a_score_is_that_of_its_pair_alone(conditioning):
    model, (image, text) = make(conditioning=conditioning), sides(word_data())
    scores = model.score(image, text)
    pairs = np.argwhere(np.ones((8, 8), bool))
    np.testing.assert_allclose(model.rerank(image, text, pairs, batch_size=5), scores.reshape(-1), atol=1e-5)
    few = model.score({key: rows[2:4] for key, rows in image.items()}, {key: rows[5:6] for key, rows in text.items()})
    np.testing.assert_allclose(few, scores[2:4, 5:6], atol=1e-5)
    chunked = make(text_chunk_size=3)
    for new, old in zip(chunked.weights, model.weights, strict=True):
        new.assign(array(old))
    np.testing.assert_allclose(chunked.score(image, text), scores, atol=1e-5)


def test_paired_conditioning_is_for_training_alone():
    model, data = make(conditioning="paired"), with_positives()
    layer, features = model.hierarchical_similarity, model(tensors(data))
    parts = [features["image"]["tokens"], features["text"]["tokens"], features["image"]["image_global"]]
    with pytest.raises(ValueError, match="training"):
        layer(*parts)
    assert keras.ops.shape(layer(*parts, training=True)) == (8, 8)
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(data, batch_size=8, verbose=0).history["loss"][0])


def test_vectors_are_means_of_regions_and_words():
    model, data = make(), tensors(word_data())
    image, text = model.encode_images(data), model.encode_texts(data)
    tokens, mask = array(image["tokens"]), array(image["mask"])
    np.testing.assert_allclose(np.linalg.norm(tokens[mask], axis=-1), 1, atol=1e-5)
    for features in (image, text):
        tokens, mask = array(features["tokens"]), array(features["mask"])[..., None]
        mean = np.where(mask, tokens, 0).sum(1) / mask.sum(1)
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        np.testing.assert_allclose(array(features["embedding"]), expected, atol=1e-5)


def test_padding_may_hold_anything():
    model, (image, text) = make(), sides(word_data())
    dirty = {**image, "regions": np.where(image["region_mask"][..., None], image["regions"], np.nan)}
    longer = {key: np.concatenate([column, np.zeros_like(column[:, :3])], 1) for key, column in text.items()}
    np.testing.assert_allclose(model.score(dirty, longer), model.score(image, text), atol=1e-5)
    np.testing.assert_allclose(model.embed_images(dirty), model.embed_images(image), atol=1e-5)


def test_a_pooled_vector_that_nobody_reads_is_refused():
    with pytest.raises(ValueError, match="pass image_global_dim=7 to the constructor"):
        make().embed_images({"regions": draw(2, 3, 12), "image_global": draw(2, 7)})


def test_a_given_pooled_vector():
    data = {**word_data(), "image_global": draw(8, 5)}
    model, (image, text) = make(image_global_dim=5), sides(data)
    scores = model.score(image, text)
    other = model.score({**image, "image_global": draw(8, 5, seed=1)}, text)
    assert np.abs(scores - other).max() > 1e-4
    with pytest.raises(ValueError, match=r"'image_global' \(B, 5\) is missing"):
        model.embed_images(sides(word_data())[0])


@pytest.mark.parametrize("freeze_backbones", (False, True))
def test_one_step_trains_everything_but_frozen_towers(freeze_backbones):
    keras.utils.set_random_seed(0)
    model = make(freeze_backbones=freeze_backbones, coarse_weight=0.1)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [(weight, array(weight)) for weight in model.weights]
    history = model.fit(with_positives(), batch_size=8, verbose=0).history
    assert set(history) == {"loss", "original", "positive", "coarse"}
    changed = {id(weight) for weight, old in before if "seed" not in weight.path and (array(weight) != old).any()}
    towers = {id(weight) for weight in model.backbone.trainable_variables}
    assert changed == {id(weight) for weight in model.trainable_weights}
    assert bool(towers) == (not freeze_backbones)


@pytest.mark.parametrize("freeze_backbones", (False, True))
def test_frozen_towers_stay_frozen(freeze_backbones):
    towers = backbone()
    towers.text_tower.trainable = freeze_backbones
    model = make(towers, freeze_backbones=freeze_backbones)
    for again in (model, AsCL.from_config(model.get_config())):
        trained = {id(weight) for weight in again.trainable_variables}
        assert trained and not trained & {id(weight) for weight in again.backbone.text_tower.variables}


def test_generated_negatives_differ_right_after_an_evaluation():
    model, data = make(negatives=("noise",)), with_positives()
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    trained = [model.fit(data, batch_size=8, verbose=0).history["original"][0]]
    evaluated = model.evaluate(data, batch_size=8, verbose=0, return_dict=True)["original"]
    trained.append(model.fit(data, batch_size=8, verbose=0).history["original"][0])
    assert len(set(trained)) == 2 and min(trained) > evaluated


def test_one_pair_costs_nothing_without_generated_negatives():
    data = {key: rows[:1] for key, rows in with_positives().items() if not key.startswith("negative")}
    assert terms_of(make(negatives=()), data, training=True)[1] == {"original": 0, "positive": 0}
    with_noise = terms_of(make(negatives=("noise",)), data, training=True)[1]
    assert with_noise["original"] > 0 and np.isfinite(with_noise["original"])


def test_a_plugin_sees_the_score():
    model = make(plugins=(SoftLabelAlignment(),))
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    data = {**with_positives(), "teacher_image": draw(8, 5), "teacher_text": draw(8, 7, seed=1)}
    history = model.fit(data, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"][0]) and {"csa", "usa"} <= set(history)


def test_presets_keep_the_model(tmp_path):
    model, (image, text) = make(negatives=("noise", "shuffle"), coarse_weight=0.1), sides(word_data())
    model.save_to_preset(tmp_path / "preset")
    again = AsCL.from_preset(str(tmp_path / "preset"))
    assert again.get_config() == model.get_config()
    np.testing.assert_allclose(again.score(image, text), model.score(image, text), atol=1e-6)


def test_half_precision():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = make()
    finally:
        keras.config.set_dtype_policy(policy)
    image, text = sides(word_data())
    assert np.isfinite(model.score(image, text)).all()
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(with_positives(), batch_size=8, verbose=0).history["loss"][0])


def test_what_it_needs():
    with pytest.raises(ValueError, match="SentenceFeatureTower has none"):
        make(region_backbone())
    with pytest.raises(ValueError, match="at least one of original, positive and coarse"):
        make(original_weight=0.0, positive_weight=0.0)
