import json

import keras
import numpy as np
import pytest
from loss_support import unit
from momentum_support import (
    QUEUE_IDS,
    array,
    features_and_terms,
    hold_statistics,
    lasting,
    make_coder,
    normalised,
    queues,
    set_apart,
    tensors,
    twins,
    word_data,
)
from support import draw, gradients, load_fixture, region_backbone, region_data

from keras_itr.data import ConceptGraph
from keras_itr.losses import (
    batch_diversity_contrastive,
    diversity_sensitive_contrastive,
    pseudo_label_prediction,
    same_image_pairs,
)
from keras_itr.models import from_preset
from keras_itr.training import ObjectiveWarmup

IDS = np.concatenate([QUEUE_IDS, [-1] * 3])


def keys_of(model, data):
    """The momentum features of both branches by the name of their dictionary."""
    momentum = model.momentum_backbone(tensors(data))
    keys = {f"{side}_instance": normalised(array(momentum[f"{side}_global"])) for side in ("image", "text")}
    for side, query in (("image", model.momentum_image_query), ("text", model.momentum_text_query)):
        keys[f"{side}_concept"] = array(query(keys[f"{side}_instance"], array(model.concepts()))[0])
    return keys


def dictionaries(model):
    return {
        "image_instance": model.image_queue,
        "text_instance": model.text_queue,
        "image_concept": model.image_concept_queue,
        "text_concept": model.text_concept_queue,
    }


# Two branches, one vector.


def test_the_exported_vector_mixes_both_branches():
    arrays, description = load_fixture("coder", "mix_00")
    model = make_coder(region_backbone(), instance_weight=description["settings"]["instance_weight"])
    vectors = {}
    for side, letter, query in (("image", "v", model.image_query), ("text", "t", model.text_query)):
        concept = keras.ops.convert_to_tensor(arrays[f"{letter}_concept"])
        query.call = lambda x, concepts, concept=concept: (concept, concept)
        # Of any length: the branch puts it on the unit sphere.
        features = {"global": keras.ops.convert_to_tensor(3 * arrays[f"{letter}_instance"])}
        vectors[side] = model._both_branches(features, side)
    found = array(model.similarity(vectors["image"], vectors["text"]))
    np.testing.assert_allclose(found, arrays["similarity"], rtol=1e-4, atol=1e-6)


def test_every_side_asks_the_concepts_by_its_own_query():
    model, data = make_coder(instance_weight=0.75), word_data()
    photos, texts = {"regions": data["regions"]}, {"token_ids": data["token_ids"]}
    for x, embed, query in (
        (photos, model.embed_images, model.image_query),
        (texts, model.embed_texts, model.text_query),
    ):
        found = embed(x)
        instance = found[:, :8] / np.sqrt(0.75)
        np.testing.assert_allclose(np.linalg.norm(instance, axis=1), 1, atol=1e-6)
        concept = array(query(instance, array(model.concepts()))[0])
        np.testing.assert_allclose(found[:, 8:], np.sqrt(0.25) * concept, atol=1e-6)


def test_without_concepts_the_vector_is_the_instance_embedding():
    model, data = make_coder(region_backbone(), concept_weight=0, label_weight=0), region_data(4)
    expected = normalised(array(model.backbone(tensors(data))["image_global"]))
    np.testing.assert_allclose(model.embed_images(data), expected, atol=1e-6)
    assert not hasattr(model, "concepts") and model.codes is None and len(queues(model)) == 2 and len(twins(model)) == 1
    assert list(model.term_weights) == ["dcl_instance", "batch_dcl"]


# Terms.


@pytest.mark.parametrize(
    "arguments",
    [
        {"mu": 8.0, "gamma": 0.1},
        {"mu": 8.0, "gamma": 0.1, "mask_same_image": False, "swap": True, "weighting": "softmax"},
    ],
    ids=["default", "other"],
)
def test_terms_are_the_losses_of_the_model_s_own_parts(arguments):
    data, model = word_data(), set_apart(make_coder(momentum=0.9, **arguments))
    old = {name: array(queue.features()) for name, queue in dictionaries(model).items()}
    features, terms = features_and_terms(model, data, training=True)
    # The twins moved before they were asked, and have not moved since.
    keys, ids, masks = keys_of(model, data), data["image_id"], model.mask_same_image
    valid = (IDS != -1) & ((ids[:, None] != IDS) | (not masks))
    assert valid.sum(axis=1).tolist() == ([8, 8, 8, 8, 9, 9, 9, 9] if masks else [9] * 8)

    def coupled(branch):
        return sum(
            array(
                diversity_sensitive_contrastive(
                    features[side][branch],
                    keys[f"{other}_{branch}"],
                    old[f"{other}_{branch}"],
                    valid,
                    8.0,
                    0.1,
                    weighting=model.weighting,
                )
            )
            for side, other in (("image", "text"), ("text", "image"))
        )

    written = IDS != -1
    codes = {
        side: model.codes.assign(features[side]["instance"], old[f"{side}_instance"][written])
        for side in ("image", "text")
    }
    teacher = {"image": "text", "text": "image"} if model.swap else {"image": "image", "text": "text"}
    prototypes = array(model.codes.prototypes)
    similarity = features["image"]["instance"] @ features["text"]["instance"].T
    pushes = []
    for side, other in (("image", "text"), ("text", "image")):
        exponents = np.where(valid, np.exp(8.0 * (features[side]["instance"] @ old[f"{other}_instance"].T - 0.1)), 0)
        pushes.append(exponents / (1 + exponents.sum(axis=1, keepdims=True)))
    expected = {
        "dcl_instance": coupled("instance"),
        "dcl_concept": coupled("concept"),
        "pseudo_label": sum(
            array(pseudo_label_prediction(features[side]["concept"], codes[teacher[side]], prototypes, 0.1))
            for side in ("image", "text")
        ),
        "batch_dcl": batch_diversity_contrastive(similarity, 8.0, 0.1, same_image_pairs(ids) if masks else None),
        "queue_fill": 9 / 12,
        "effective_negatives": np.mean([p.sum(axis=1) ** 2 / (p**2).sum(axis=1) for p in pushes]),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        # DCL is a difference of terms near 1.
        np.testing.assert_allclose(terms[name], array(value), rtol=1e-4, atol=1e-5, err_msg=name)


def test_negative_weights_are_what_the_loss_pushes_by():
    model = set_apart(make_coder(region_backbone(), mu=8.0, gamma=0.1))
    data = tensors(region_data(8))
    ids = array(data["image_id"])
    images, texts = unit(8, 8, seed=20), unit(8, 8, seed=21)
    keys = {"text_instance": unit(8, 8, seed=22), "image_instance": unit(8, 8, seed=23)}

    def loss(v, t):
        return model._coupled("instance", {"instance": v}, {"instance": t}, keys, data["image_id"])

    _, grads = gradients(loss, [images, texts])
    weights = model.negative_weights({"instance": images}, {"instance": texts}, data["image_id"])
    same = (IDS == -1) | (ids[:, None] == IDS)
    for query, key, name, grad, queue in (
        (images, keys["text_instance"], "image_to_text", grads[0], model.text_queue),
        (texts, keys["image_instance"], "text_to_image", grads[1], model.image_queue),
    ):
        found = array(weights[name])
        assert found.shape == (8, 12) and (found[same] == 0).all() and (found[~same] > 0).all()
        assert (found.sum(axis=1) < 1).all()
        own = (query * key).sum(axis=1, keepdims=True)
        expected = found @ array(queue.features()) - np.where(own > 0, key / (1 + own), 0)
        np.testing.assert_allclose(8 * grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", [0.6, 0.05, -0.6])
def test_effective_negatives_count_entries_at_any_similarity(similarity):
    # Three of six slots push alike; of mu 90, their weights are near 1/3, 1e-18, and below float32.
    model = make_coder(region_backbone(), queue_size=6)
    query = np.tile(np.eye(1, 8, dtype="float32"), (2, 1))
    near = np.zeros((3, 8), "float32")
    near[:, 0], near[:, 1] = similarity, np.sqrt(1 - similarity**2)
    for queue in (model.image_queue, model.text_queue):
        queue.enqueue(near, np.array([5, 6, 7]))
    found = array(model._effective_negatives({"instance": query}, {"instance": query}, np.array([0, 1])))
    np.testing.assert_allclose(found, 3, rtol=1e-4)
    # Empty dictionaries push nothing.
    model.image_queue.reset()
    model.text_queue.reset()
    assert array(model._effective_negatives({"instance": query}, {"instance": query}, np.array([0, 1]))) == 0


def test_codes_pass_no_gradient_to_the_instance_branch():
    model = set_apart(make_coder())
    concepts = [unit(8, 8, seed=30), unit(8, 8, seed=31)]
    instances = [unit(8, 8, seed=32), unit(8, 8, seed=33)]

    def loss(v, t, u_v, u_t):
        return model._pseudo_labels({"instance": v, "concept": u_v}, {"instance": t, "concept": u_t})

    for swap in (False, True):
        model.swap = swap
        value, grads = gradients(loss, [*instances, *concepts], [model.codes.prototypes])
        assert not grads[0].any() and not grads[1].any()
        assert all(np.abs(grad).max() > 1e-3 for grad in grads[2:])
        # The codes do depend on it.
        other = gradients(loss, [-instances[0], *instances[1:], *concepts])[0]
        assert abs(other - value) > 1e-3


def test_in_the_warm_up_the_batch_trains_alone():
    model = make_coder(batch_weight=20.0)
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    found = model.fit(word_data(16), batch_size=4, epochs=2, callbacks=[ObjectiveWarmup(1)], verbose=0).history
    for name in ("dcl_instance", "dcl_concept", "pseudo_label"):
        assert found[name][0] == 0 and abs(found[name][1]) > 1e-3
    np.testing.assert_allclose(found["loss"][0], 20 * found["batch_dcl"][0], rtol=1e-5)
    # After 0, 1, 2 and 3 batches of 4 rows in 12 slots, and full ever after.
    np.testing.assert_allclose(found["queue_fill"], [(0 + 1 + 2 + 3) / 3 / 4, 1.0], rtol=1e-6)


# State.


def test_four_dictionaries_hold_the_twins_features_in_order():
    data, model = word_data(16), set_apart(make_coder(momentum=1.0))
    for queue in queues(model):
        queue.reset()
    hold_statistics(model)
    keys = keys_of(model, data)
    # Concept keys ask the online concepts, which must not move here.
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    model.fit(data, batch_size=5, shuffle=False, verbose=0)
    rows = np.array([12, 13, 14, 15, *range(4, 12)])
    for name, queue in dictionaries(model).items():
        np.testing.assert_allclose(array(queue.features()), keys[name][rows], atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(array(queue.ids()), data["image_id"][rows])
        assert int(array(queue.pointer)) == 4
    online = model(tensors(data))
    for name in keys:
        side, branch = name.split("_")
        assert np.abs(array(online[side][branch]) - keys[name]).max() > 1e-2, name


def test_the_optimizer_knows_nothing_of_twins_and_dictionaries():
    model = make_coder()
    model.trainable = True
    model.compile(optimizer="adam")
    model.fit(word_data(), batch_size=8, verbose=0)
    training_only = {id(weight) for layer in model.training_only_layers() for weight in layer.weights}
    assert not training_only & {id(weight) for weight in model.trainable_variables}
    assert len(model.optimizer.variables) == 2 + 2 * len(model.trainable_variables)
    np.testing.assert_allclose(np.linalg.norm(array(model.codes.prototypes), axis=1), 1, atol=1e-6)


def test_use_reads_neither_twins_nor_dictionaries():
    data, model = word_data(), make_coder()
    photos, texts = {"regions": data["regions"]}, {"token_ids": data["token_ids"]}
    before = model.embed_images(photos), model.embed_texts(texts)
    for layer in model.training_only_layers():
        for weight in layer.weights:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(np.full(weight.shape, np.nan, "float32"))
    for found, expected in zip((model.embed_images(photos), model.embed_texts(texts)), before, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(found, expected)


# The graph.


def test_a_graph_a_path_and_its_arrays_are_the_same_model(tmp_path):
    captions = ["a man riding a horse", "a brown horse", "a man and a dog", "a dog on a horse"]
    graph = ConceptGraph.from_captions(captions, num_concepts=4, embedding_dim=3)
    path = tmp_path / "graph.npz"
    graph.save(path)
    arrays = {"embeddings": graph.embeddings, "propagation": graph.propagation()}
    data, models = region_data(4), [make_coder(region_backbone(), graph=given) for given in (graph, path, arrays)]
    for model in models[1:]:
        for old, new in zip(models[0].trainable_variables, model.trainable_variables, strict=True):
            new.assign(array(old))
    expected = models[0].embed_images(data)
    for model in models[1:]:
        np.testing.assert_allclose(model.embed_images(data), expected, atol=1e-6)
        assert model.get_config()["graph"] == tuple(graph.embeddings.shape)
    # Another graph, another descriptor.
    models[2].concepts.propagation.assign(np.eye(len(graph.embeddings)))
    assert np.abs(models[2].embed_images(data) - expected).max() > 1e-3

    models[1].save_to_preset(tmp_path / "preset")
    path.unlink()
    np.testing.assert_allclose(from_preset(tmp_path / "preset").embed_images(data), expected, atol=1e-6)
    assert str(path) not in json.dumps(json.loads((tmp_path / "preset" / "task.json").read_text()))


def test_a_preset_holds_the_concepts_but_neither_twins_nor_dictionaries(tmp_path):
    import h5py

    model = set_apart(make_coder(region_backbone()))
    model.warmup.assign(1.0)
    model.save_to_preset(tmp_path)
    names = []
    for file in ("model.weights.h5", "task.weights.h5"):
        with h5py.File(tmp_path / file) as opened:
            opened.visit(names.append)
    for part in ("concepts", "image_query", "codes"):
        assert [name for name in names if part in name]
    assert not [name for name in names if "momentum" in name or "queue" in name or "warmup" in name]
    loaded = from_preset(tmp_path)
    for found, expected in zip(lasting(loaded), lasting(model), strict=True):
        np.testing.assert_array_equal(array(found), array(expected))
    for twin in twins(loaded):
        for own, followed in twin._pairs():
            np.testing.assert_array_equal(array(own), array(followed))
    assert len(twins(loaded)) == 3 and len(queues(loaded)) == 4
    for queue in queues(loaded):
        assert not array(queue.features()).any() and (array(queue.ids()) == -1).all()
    assert float(array(loaded.warmup())) == 0


# Edges.


def test_one_pair_one_image_and_empty_dictionaries():
    data = word_data()
    for rows, ids in ((1, [3]), (8, [0] * 8)):
        part = {key: value[:rows] for key, value in data.items()} | {"image_id": np.array(ids, "int32")}
        model = make_coder()
        features, terms = features_and_terms(model, part)
        keys = keys_of(model, part)
        # Only the positives remain.
        expected = -sum(
            np.mean(np.log1p(np.maximum((features[side]["instance"] * keys[f"{other}_instance"]).sum(axis=1), 0)))
            for side, other in (("image", "text"), ("text", "image"))
        )
        np.testing.assert_allclose(terms["dcl_instance"], expected, rtol=1e-4, atol=1e-6)
        own = (features["image"]["instance"] * features["text"]["instance"]).sum(axis=1)
        np.testing.assert_allclose(terms["batch_dcl"], -np.mean(np.log1p(np.maximum(own, 0))), rtol=1e-4, atol=1e-6)
        assert terms["effective_negatives"] == terms["queue_fill"] == 0
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        history = model.fit(part, batch_size=8, epochs=2, verbose=0).history
        assert all(np.isfinite(values).all() for values in history.values())
        assert all(np.isfinite(array(weight)).all() for weight in model.weights)


def test_errors():
    for weight in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"instance_weight must be from 0 to 1, received {weight}"):
            make_coder(region_backbone(), instance_weight=weight)
    for name, value, message in (
        ("queue_size", 0, "must be 1 or more, CODER needs its dictionaries, received 0"),
        ("num_prototypes", 0, "must be 1 or more, received 0; or set label_weight to 0"),
        ("mu", 0, "must be above 0.*received 0"),
        ("positive", "foo", "must be 'log1p' or 'softplus', received 'foo'"),
        ("weighting", "foo", "must be 'self' or 'softmax', received 'foo'"),
    ):
        with pytest.raises(ValueError, match=f"{name} {message}"):
            make_coder(region_backbone(), **{name: value})
    data, model = tensors(region_data(4)), make_coder(region_backbone())
    del data["image_id"]
    features = model(data)
    with pytest.raises(ValueError, match="CODER needs 'image_id' in training, received 'regions'"):
        model.objectives(features["image"], features["text"], data, training=True)
    with pytest.raises(ValueError, match="propagation"):
        make_coder(region_backbone(), graph={"embeddings": draw(5, 3)})
