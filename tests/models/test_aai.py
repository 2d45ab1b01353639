import types

import keras
import numpy as np
import pytest
from momentum_support import (
    QUEUE_IDS,
    UNIFORMS,
    array,
    arrays,
    copy_weights,
    features_and_terms,
    first_views,
    give_uniforms,
    hold_statistics,
    lasting,
    make_aai,
    normalised,
    queues,
    set_apart,
    tensors,
    twins,
    two_views,
    word_data,
)
from support import draw, gradients, region_backbone, region_data

from keras_itr.evaluation import evaluate, two_stage_recall
from keras_itr.layers import ConvolutionalTower, RecurrentTextTower, RegionTower, SentenceFeatureTower
from keras_itr.losses import (
    image_text_contrastive,
    image_text_matching,
    intra_modal_separability,
    local_mutual_information,
)
from keras_itr.models import AAI, DualEncoderBackbone, from_preset
from keras_itr.search import shortlist

IMAGE_KEYS, TEXT_KEYS = ("regions", "region_mask"), ("token_ids", "padding_mask")


def sides(data):
    return tuple({key: data[key] for key in keys} for keys in (IMAGE_KEYS, TEXT_KEYS))


def keys_of(encoder, data):
    """Momentum features of what the second branch reads, and their normalised global vectors."""
    features = {key: array(value) for key, value in encoder(tensors(first_views(data))).items()}
    return features, normalised(features["image_global"]), normalised(features["text_global"])


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


# Terms.


def test_terms_are_the_losses_of_the_model_s_own_parts():
    data = two_views()
    model = set_apart(make_aai(momentum=0.9, distillation_ramp_steps=4, lmim_estimator="jsd"))
    give_uniforms(model)
    model.steps.assign(2)
    old_images, old_texts = (array(queue.features()) for queue in queues(model))
    key_ids = np.concatenate([data["image_id"], QUEUE_IDS, [-1] * 3])
    features, terms = features_and_terms(model, data, training=True)
    # The twin moved before it was asked, and has not moved since.
    momentum, image_key, text_key = keys_of(model.momentum_backbone, data)
    v, w, tau, ids = features["image"]["embedding"], features["text"]["embedding"], terms["tau"], data["image_id"]
    kv, kw = np.concatenate([image_key, old_images]), np.concatenate([text_key, old_texts])

    def targets(key, keys):
        return softmax(np.where(key_ids != -1, key @ keys.T / tau, -np.inf))

    expected = {
        "tau": 0.07,
        # Two of four steps of the ramp.
        "itc": image_text_contrastive(
            v, w, kv, kw, tau, ids, key_ids, targets(image_key, kw), targets(text_key, kv), 0.4 * 2 / 4
        ),
        "ims": intra_modal_separability(v, w, kv, kw, tau, ids, key_ids),
        "lmim": (
            local_mutual_information(v, normalised(momentum["image_tokens"]), momentum["image_mask"], tau, "jsd", ids)
            # Without the start token.
            + local_mutual_information(
                w, normalised(momentum["text_tokens"][:, 1:]), momentum["text_mask"][:, 1:], tau, "jsd", ids
            )
        )
        / 2,
        "itm": matching(model, features, v @ text_key.T / tau, w @ image_key.T / tau, ids),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        # Similarities are divided by 0.07: float32 rounding of them grows fifteenfold.
        np.testing.assert_allclose(terms[name], array(value), rtol=1e-4, err_msg=name)
    assert int(array(model.steps())) == 3


def matching(model, features, to_text, to_image, ids):
    """ITM with negatives drawn in plain loops."""

    def drawn(similarity):
        rows = []
        for row, chances in enumerate(softmax(similarity.astype("float64"))):
            chances = np.where(ids != ids[row], chances, 0)
            rows.append(int(np.argmax(np.cumsum(chances / chances.sum()) > UNIFORMS[row])))
        return rows

    own, caption, photo = list(range(len(ids))), drawn(to_text), drawn(to_image)
    rows = [*zip(own, own, strict=True), *zip(photo, own, strict=True), *zip(own, caption, strict=True)]
    images, texts = np.array(rows).T
    fused = model.fusion(
        features["text"]["tokens"][texts],
        features["image"]["tokens"][images],
        text_mask=features["text"]["mask"][texts],
        image_mask=features["image"]["mask"][images],
    )
    return image_text_matching(model.matching_head(fused[:, 0]), np.repeat([1, 0, 0], len(ids)))


def test_the_loss_is_the_weighted_sum_and_a_term_of_weight_0_is_left_out():
    data, model = tensors(word_data()), make_aai(itc_weight=0.5, ims_weight=2.0, lmim_weight=0, itm_weight=0)
    features = model(data)
    terms = model.objectives(features["image"], features["text"], data)
    assert set(terms) == {"itc", "ims", "tau"} and not model.second_stage and not hasattr(model, "fusion")
    expected = 0.5 * array(terms["itc"]) + 2.0 * array(terms["ims"])
    loss = model.compute_loss(x=data, y_pred=features, training=False)
    np.testing.assert_allclose(array(loss), expected, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="no second stage: itm_weight=0 leaves it out"):
        model.rerank(*sides(word_data()), [[0, 0]])


def test_the_ramp_ends_at_its_weight():
    data, model = word_data(), set_apart(make_aai(distillation_ramp_steps=4, itm_weight=0))
    found = []
    for steps in (0, 4, 40):
        model.steps.assign(steps)
        found.append(features_and_terms(model, data)[1]["itc"])
    model.distillation_ramp_steps = 0
    for weight in (0.0, 0.4):
        model.distillation_weight = weight
        found.append(features_and_terms(model, data)[1]["itc"])
    assert abs(found[1] - found[0]) > 1e-2
    np.testing.assert_allclose(found, [found[3], found[4], found[4], found[3], found[4]], rtol=1e-6)


def test_an_empty_queue_is_no_queue():
    data = word_data()
    with_queue, without = make_aai(), make_aai(queue_size=0)
    copy_weights(with_queue, without)
    assert not queues(without)
    for model in (with_queue, without):
        give_uniforms(model)
    _, found = features_and_terms(with_queue, data, training=True)
    _, expected = features_and_terms(without, data, training=True)
    for name, value in expected.items():
        # Empty slots add exact zeros; only the order of a sum may differ.
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    _, filled = features_and_terms(with_queue, data)
    assert filled["itc"] > expected["itc"] + 0.1


def test_no_gradient_passes_through_keys_twins_and_soft_targets():
    data = word_data()
    # Of momentum 0, an updated twin is the encoder: whatever passes through it would reach the encoder's weights.
    model = make_aai(queue_size=0, momentum=0.0, itm_weight=0)
    momentum, image_key, text_key = keys_of(model.backbone, data)
    ids, inputs = data["image_id"], tensors(data)
    tau = float(array(model.tau()))
    soft = softmax(image_key @ text_key.T / tau), softmax(text_key @ image_key.T / tau)

    def from_model():
        features = model(inputs)
        terms = model.objectives(features["image"], features["text"], inputs, training=True)
        return terms["itc"] + terms["ims"] + terms["lmim"]

    def from_constants():
        features, t = model(inputs), model.tau()
        v, w = features["image"]["embedding"], features["text"]["embedding"]
        halves = [
            local_mutual_information(x, normalised(momentum[f"{side}_tokens"])[:, at:], mask[:, at:], t, "infonce", ids)
            for x, side, mask, at in (
                (v, "image", momentum["image_mask"], 0),
                (w, "text", momentum["text_mask"], 1),
            )
        ]
        return (
            image_text_contrastive(v, w, image_key, text_key, t, ids, ids, *soft, 0.4)
            + intra_modal_separability(v, w, image_key, text_key, t, ids, ids)
            + sum(halves) / 2
        )

    variables = [weight for weight in model.trainable_variables if "pooling" not in weight.path]
    found, expected = gradients(from_model, (), variables), gradients(from_constants, (), variables)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for variable, value, reference in zip(variables, found[1], expected[1], strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(value, reference, rtol=1e-3, atol=1e-4 * scale + 1e-6, err_msg=variable.path)
    assert any(np.abs(reference).max() > 1e-2 for reference in expected[1])


# State.


def test_queues_hold_the_twins_second_views_in_order():
    data = two_views(16)
    model = set_apart(make_aai(momentum=1.0))
    for queue in queues(model):
        queue.reset()
    hold_statistics(model)
    first = keys_of(model.momentum_backbone, word_data(16))
    _, *second = keys_of(model.momentum_backbone, data)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    # Batches of 5, 5, 5 and 1: the third wraps around the end of twelve slots.
    model.fit(data, batch_size=5, shuffle=False, verbose=0)
    # Row 12 went to slot 0, and so on.
    rows = np.array([12, 13, 14, 15, *range(4, 12)])
    for queue, keys, other in zip(queues(model), second, first[1:], strict=True):
        np.testing.assert_allclose(array(queue.features()), keys[rows], atol=1e-5)
        assert np.abs(keys - other).max() > 0.1
        np.testing.assert_array_equal(array(queue.ids()), data["image_id"][rows])
        assert int(array(queue.pointer)) == 4


def test_an_absent_second_view_falls_back_to_the_first():
    model = set_apart(make_aai(momentum=1.0))
    data, views = word_data(), two_views()
    only_words = {**data, **{key: views[key] for key in ("token_ids_view2", "padding_mask_view2")}}
    found = {}
    for name, inputs in (("first", data), ("words", only_words), ("both", views)):
        for queue in queues(model):
            queue.reset()
        features, _ = features_and_terms(model, inputs, training=True)
        found[name] = [features["image"]["embedding"], features["text"]["embedding"]]
        found[name] += [array(queue.features())[:8] for queue in queues(model)]
    for name, (photos, words) in {"words": (True, False), "both": (False, False)}.items():
        # The online branch never sees a second view.
        for side in (0, 1):
            np.testing.assert_array_equal(found[name][side], found["first"][side])
        for side, same in ((2, photos), (3, words)):
            assert np.allclose(found[name][side], found["first"][side], atol=1e-6) == same


def test_a_step_moves_the_twin_before_it_makes_keys():
    data, model = word_data(), set_apart(make_aai(momentum=0.5), scale=0.5)
    hold_statistics(model)
    for queue in queues(model):
        queue.reset()
    _, *before = keys_of(model.momentum_backbone, data)
    (twin,) = twins(model)
    moved = [(array(own) + array(followed)) / 2 for own, followed in twin._pairs() if followed.trainable]
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit(data, batch_size=8, shuffle=False, verbose=0)
    found = [array(own) for own, followed in twin._pairs() if followed.trainable]
    for value, expected in zip(found, moved, strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)
    _, *after = keys_of(model.momentum_backbone, data)
    for queue, keys, old in zip(queues(model), after, before, strict=True):
        np.testing.assert_allclose(array(queue.features())[:8], keys, atol=1e-5)
        assert np.abs(keys - old).max() > 0.1


def test_the_optimizer_knows_nothing_of_twins_and_queues():
    model = make_aai()
    model.trainable = True
    model.compile(optimizer="adam")
    model.fit(word_data(), batch_size=8, verbose=0)
    training_only = {id(weight) for layer in model.training_only_layers() for weight in layer.weights}
    assert len(training_only) > 20
    assert not training_only & {id(weight) for weight in model.trainable_variables}
    # Step, rate and two moments of every trainable weight.
    assert len(model.optimizer.variables) == 2 + 2 * len(model.trainable_variables)


def test_evaluation_changes_no_state():
    model = set_apart(make_aai())
    model.compile(optimizer="sgd")
    before = arrays(model.weights)
    model.evaluate(word_data(), batch_size=8, verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_use_reads_neither_twins_nor_queues():
    photos, texts = sides(word_data())
    model, pairs = make_aai(), [[0, 1], [3, 2]]
    before = model.embed_images(photos), model.embed_texts(texts), model.rerank(photos, texts, pairs)
    for layer in model.training_only_layers():
        for weight in layer.weights:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(np.full(weight.shape, np.nan, "float32"))
    after = model.embed_images(photos), model.embed_texts(texts), model.rerank(photos, texts, pairs)
    for found, expected in zip(after, before, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(found, expected)


def test_a_preset_holds_neither_twins_nor_queues(tmp_path):
    import h5py

    model = set_apart(make_aai())
    model.steps.assign(7)
    model.save_to_preset(tmp_path)
    stored, names = [], []
    for file in ("model.weights.h5", "task.weights.h5"):
        with h5py.File(tmp_path / file) as opened:
            opened.visititems(lambda name, item: stored.append(item.shape) if hasattr(item, "shape") else None)
            opened.visit(names.append)
    assert [name for name in names if "fusion" in name]
    assert not [name for name in names if "momentum" in name or "queue" in name or "steps" in name]
    # Seeds are not weights, but stored: those of the sampler and of five dropouts at most.
    assert len(stored) - len(lasting(model)) <= 6
    loaded = from_preset(tmp_path)
    for found, expected in zip(lasting(loaded), lasting(model), strict=True):
        np.testing.assert_array_equal(array(found), array(expected))
    for own, followed in twins(loaded)[0]._pairs():
        np.testing.assert_array_equal(array(own), array(followed))
    for queue in queues(loaded):
        assert not array(queue.features()).any() and (array(queue.ids()) == -1).all() and not int(array(queue.pointer))
    assert int(array(loaded.steps())) == 0


# Edges.


def test_one_image_alone_and_captions_without_words_train():
    data = word_data()
    data["token_ids"][0, 1:], data["token_ids"][1, 1:] = [3, 0, 0, 0, 0, 0], [5, 3, 0, 0, 0, 0]
    data["token_ids"][2, 1:] = 0
    data["padding_mask"] = data["token_ids"] != 0
    for ids in (np.arange(8) // 2, np.zeros(8)):
        model = make_aai()
        give_uniforms(model)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        inputs = {**data, "image_id": ids.astype("int32")}
        found = model.fit(inputs, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        assert all(np.isfinite(values).all() for values in found.values())
        assert all(np.isfinite(array(weight)).all() for weight in model.weights)


def test_where_no_negative_exists_only_matched_pairs_count():
    data = {**word_data(), "image_id": np.zeros(8, "int32")}
    model = make_aai()
    features, terms = features_and_terms(model, data, training=True)
    logits = array(model._matching_logits(features["image"], features["text"])).astype("float64")
    np.testing.assert_allclose(terms["itm"], -np.log(softmax(logits)[:, 1]).mean(), rtol=1e-5)
    # Every key is a positive, and their targets equal.
    model.distillation_weight = 0.0
    for queue in queues(model):
        queue.reset()
    features, terms = features_and_terms(model, data)
    _, image_key, text_key = keys_of(model.momentum_backbone, data)
    halves = [
        -np.log(softmax(features[side]["embedding"] @ keys.T / 0.07)).mean()
        for side, keys in (("image", text_key), ("text", image_key))
    ]
    np.testing.assert_allclose(terms["itc"], np.mean(halves), rtol=1e-4)


def test_sentence_vectors_are_one_token_and_have_no_local_term():
    model, data = AAI(region_backbone(), queue_size=0, fusion_layers=1, fusion_heads=2), region_data(8)
    features, terms = features_and_terms(model, data)
    assert features["text"]["tokens"].shape == (8, 1, 8) and features["text"]["mask"].all()
    momentum = {key: array(value) for key, value in model.momentum_backbone(tensors(data)).items()}
    v, tokens = features["image"]["embedding"], normalised(momentum["image_tokens"])
    photos = local_mutual_information(v, tokens, None, terms["tau"], "infonce", data["image_id"])
    np.testing.assert_allclose(terms["lmim"], array(photos) / 2, rtol=1e-4)


def test_grid_cells_are_pooled_in_squares_and_regions_are_not():
    tower = ConvolutionalTower((16, 16), filters=(4, 8), embedding_dim=8, pooling="gpo")
    backbone = DualEncoderBackbone(tower, SentenceFeatureTower(10, 8))
    arguments = {"queue_size": 0, "itm_weight": 0, "itc_weight": 0, "ims_weight": 0}
    model = AAI(backbone, local_pool_size=2, **arguments)
    data = {"images": draw(4, 16, 16, 3), "text_features": draw(4, 10), "image_id": np.arange(4, dtype="int32")}
    features, terms = features_and_terms(model, data)
    cells = array(model.momentum_backbone(tensors(data))["image_tokens"]).reshape(4, 2, 2, 2, 2, 8)
    squares = normalised(cells.mean(axis=(2, 4)).reshape(4, 4, 8))
    v = features["image"]["embedding"]
    expected = array(local_mutual_information(v, squares, None, terms["tau"], "infonce", data["image_id"])) / 2
    np.testing.assert_allclose(terms["lmim"], expected, rtol=1e-4)
    model.local_pool_size = None
    assert abs(features_and_terms(model, data)[1]["lmim"] - expected) > 1e-3
    model.local_pool_size = 3
    with pytest.raises(ValueError, match=r"local_pool_size 3 needs a square grid whose side it divides.*16 local"):
        features_and_terms(model, data)
    pooled, plain = (AAI(region_backbone(), local_pool_size=size, **arguments) for size in (2, None))
    copy_weights(pooled, plain)
    assert features_and_terms(pooled, region_data(4))[1] == features_and_terms(plain, region_data(4))[1]


def test_errors():
    narrow = DualEncoderBackbone(RegionTower(12, 8), RecurrentTextTower(20, 6, word_dim=6))
    with pytest.raises(ValueError, match=r"embeddings of width 8 with local features, but those of the text tower.*6"):
        make_aai(narrow)
    # Only LMIM compares with local features.
    assert make_aai(narrow, lmim_weight=0).embed_texts(sides(word_data())[1]).shape == (8, 8)
    with pytest.raises(ValueError, match="rerank_mode must be 'itm' or 'sum', received 'mean'"):
        make_aai(rerank_mode="mean")
    for name, value, message in (
        ("lmim_estimator", "foo", "must be one of 'infonce', 'jsd', received 'foo'"),
        ("distillation_weight", 1.5, "must be from 0 to 1, a share, received 1.5"),
        ("rerank_top_k", -1, "must be 1 or more, received -1"),
    ):
        with pytest.raises(ValueError, match=f"{name} {message}"):
            make_aai(**{name: value})
    with pytest.raises(ValueError, match="weight other than 0"):
        make_aai(itc_weight=0, ims_weight=0, lmim_weight=0, itm_weight=0)
    data, model = tensors(word_data()), make_aai()
    del data["image_id"]
    features = model(data)
    with pytest.raises(ValueError, match="AAI needs 'image_id' in training, received 'regions'"):
        model.objectives(features["image"], features["text"], data, training=True)


# The second stage.


def test_rerank_scores_pairs_as_the_head_does_in_any_batches():
    photos, texts = sides(word_data())
    model = make_aai()
    pairs = np.array([[0, 0], [5, 1], [1, 5], [7, 7], [2, 3]])
    image = model.encode_images(tensors(photos))
    text = model.encode_texts(tensors(texts))
    image, text = ({key: array(value) for key, value in side.items()} for side in (image, text))
    rows = [{key: value[pairs[:, at]] for key, value in side.items()} for at, side in enumerate((image, text))]
    logits = array(model._matching_logits(*rows))
    odds = logits[:, 1] - logits[:, 0]
    assert np.ptp(odds) > 1e-3
    for batch_size in (2, 5, 256):
        found = model.rerank(photos, texts, pairs, batch_size=batch_size, verbose=False)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, odds, atol=1e-5)
    total = make_aai(rerank_mode="sum")
    copy_weights(model, total)
    products = (rows[0]["embedding"] * rows[1]["embedding"]).sum(axis=1)
    np.testing.assert_allclose(total.rerank(photos, texts, pairs), odds + products / 0.07, atol=1e-4)
    assert model.rerank(photos, texts, np.zeros((0, 2), int)).shape == (0,)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([[0, 1, 2]], r"int \(P, 2\).*\(1, 3\)"),
        ([0, 1], r"int \(P, 2\).*\(2,\)"),
        ([[0.0, 1.0]], "float64"),
        ([[0, 1], [-1, 0]], "rows of 8 images and 8 texts"),
        ([[8, 0]], r"received \[8, 0\]"),
    ],
)
def test_wrong_pairs_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        make_aai(fusion_layers=1).rerank(*sides(word_data()), pairs)


def test_evaluation_with_the_second_stage_is_that_by_hand():
    data, model = word_data(12, seed=2), make_aai(rerank_top_k=3)
    table = types.SimpleNamespace(
        image_columns={key: data[key][::2] for key in IMAGE_KEYS},
        caption_columns={key: data[key] for key in TEXT_KEYS},
        caption_to_image=data["image_id"],
        num_images=6,
        num_captions=12,
        relevance=None,
    )
    coarse = model.score(table.image_columns, table.caption_columns)
    everything = np.stack(np.indices((6, 12)), axis=-1).reshape(-1, 2)
    fine = model.rerank(table.image_columns, table.caption_columns, everything).reshape(6, 12)
    expected = two_stage_recall(coarse, fine, data["image_id"], 3, 3)
    found = evaluate(model, table, verbose=False, rerank=True)
    for name, value in expected.items():
        assert found[f"reranked_{name}"] == value, name
    # A shortlist of three out of twelve leaves some answers out, and the fine order is another.
    assert shortlist(coarse, 3).shape == (6, 3)
    assert found["reranked_t2i_shortlist"] < 100 and found["reranked_rsum"] != found["rsum"]
    assert not [name for name in evaluate(model, table, verbose=False) if name.startswith("reranked")]
