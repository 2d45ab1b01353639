import keras
import numpy as np
import pytest
from loss_support import assert_relative
from momentum_support import array, tensors, word_data
from support import draw, gradients, load_fixture, region_backbone

from keras_itr.layers import RecurrentTextTower, RegionTower, RegionTransformerTower, Tower
from keras_itr.models import TGDT, DualEncoderBackbone, SoftLabelAlignment
from keras_itr.models.tgdt import STAGES

SIZES = {"embedding_dim": 8, "local_layers": 1, "global_layers": 1, "num_heads": 2, "intermediate_dim": 16}


def make(backbone=None, **arguments):
    return TGDT(backbone or region_word_backbone(), **{**SIZES, **arguments})


def region_word_backbone():
    image = RegionTransformerTower(12, 10, num_layers=1, num_heads=2, intermediate_dim=16)
    return DualEncoderBackbone(image, RecurrentTextTower(20, 10, word_dim=6, pooling="mean"))


def boxed_data(count=8, seed=0):
    """`word_data` with boxes, two captions an image."""
    corners = np.sort(np.random.default_rng(seed).random((count // 2, 4, 2, 2)), axis=2)
    boxes = np.concatenate([corners[:, :, 0], corners[:, :, 1]], axis=-1).astype("float32")
    return {**word_data(count, seed), "region_boxes": np.repeat(boxes, 2, axis=0)}


def sides(data):
    image = {key: data[key] for key in ("regions", "region_mask", "region_boxes") if key in data}
    return image, {key: data[key] for key in ("token_ids", "padding_mask")}


class HiddenStates(Tower):
    """In place of a text backbone: its output as the input."""

    side, input_key, output_dim, token_dim = "text", "token_ids", 12, 12

    def call(self, inputs, training=False):
        tokens, mask = inputs["token_ids"], self.mask_of(inputs, "padding_mask", inputs["token_ids"])
        return {"pooled": tokens[:, 0], "tokens": tokens, "mask": mask}


def official_weights(case, model):
    """The fixture's weights, under the names of PyTorch, into the model."""

    def dense(layer, name):
        layer.kernel.assign(case[f"w/{name}.weight"].T)
        layer.bias.assign(case[f"w/{name}.bias"])

    def norm(layer, name):
        layer.gamma.assign(case[f"w/{name}.weight"])
        layer.beta.assign(case[f"w/{name}.bias"])

    def block(layer, name):
        attention = layer._self_attention_layer
        kernels = np.split(case[f"w/{name}.self_attn.in_proj_weight"], 3)
        biases = np.split(case[f"w/{name}.self_attn.in_proj_bias"], 3)
        parts = attention._query_dense, attention._key_dense, attention._value_dense
        for part, kernel, bias in zip(parts, kernels, biases, strict=True):
            part.kernel.assign(kernel.T.reshape(part.kernel.shape))
            part.bias.assign(bias.reshape(part.bias.shape))
        output = attention._output_dense
        output.kernel.assign(case[f"w/{name}.self_attn.out_proj.weight"].T.reshape(output.kernel.shape))
        output.bias.assign(case[f"w/{name}.self_attn.out_proj.bias"])
        dense(layer._feedforward_intermediate_dense, f"{name}.linear1")
        dense(layer._feedforward_output_dense, f"{name}.linear2")
        norm(layer._self_attention_layer_norm, f"{name}.norm1")
        norm(layer._feedforward_layer_norm, f"{name}.norm2")

    tower = model.backbone.image_tower
    dense(tower.box_hidden, "img_enc.pos_encoding_image.map.0")
    dense(tower.box_output, "img_enc.pos_encoding_image.map.2")
    block(tower.stack.blocks[0], "img_enc.transformer_encoder.layers.0")
    dense(model.image_projection, "img_proj")
    dense(model.text_projection, "cap_proj")
    block(model.image_local_encoder.blocks[0], "transformer_encoder_2.layers.0")
    block(model.text_local_encoder.blocks[0], "transformer_encoder_1.layers.0")
    block(model.image_global_head.blocks[0], "transformer_encoder_img.layers.0")
    block(model.text_global_head.blocks[0], "transformer_encoder_text.layers.0")


@pytest.mark.parametrize("use_padding_mask", (True, False))
def test_both_branches_equal_the_official_ones(use_padding_mask):
    case, _ = load_fixture("tgdt", "case17_arch_small")
    tower = RegionTransformerTower(16, None, num_layers=1, num_heads=4)
    model = TGDT(
        DualEncoderBackbone(tower, HiddenStates()),
        embedding_dim=8,
        local_layers=1,
        global_layers=1,
        use_padding_mask=use_padding_mask,
    )
    official_weights(case, model)
    image = model.encode_images(tensors({key: case[key] for key in ("regions", "region_boxes")}))
    mask = case["padding_mask"]
    text = model.encode_texts(tensors({"token_ids": case["text_hidden"], "padding_mask": mask}))
    assert_relative(array(image["embedding"]), case["image_global"], 1e-5)
    assert_relative(array(image["tokens"]), case["image_tokens"], 1e-5)
    expected = case["text_global" if use_padding_mask else "text_global_official"]
    assert_relative(array(text["embedding"]), expected, 1e-5)
    assert_relative(array(text["tokens"])[mask[:, 1:]], case["text_tokens"][mask[:, 1:]], 1e-5)
    # Neither the start token nor the end token is a word.
    np.testing.assert_array_equal(array(text["mask"]).sum(1), mask.sum(1) - 2)


def test_the_whole_loss_and_its_gradients():
    case, _ = load_fixture("tgdt", "case13_total_b5")
    model = make(masked_value=0.0, trim_last_word=True)
    names = "image_global", "text_global", "regions", "words"

    def total(image_global, text_global, regions, words):
        image = {"embedding": image_global, "tokens": regions, "mask": keras.ops.convert_to_tensor(case["region_mask"])}
        text = {"embedding": text_global, "tokens": words, "mask": keras.ops.convert_to_tensor(case["word_mask"])}
        terms = model.objectives(image, text, {})
        return terms["inter"] + terms["intra"] + terms["local"]

    loss, grads = gradients(total, [case[name] for name in names])
    assert_relative(loss, case["total"], 1e-5)
    for name, grad in zip(names, grads, strict=True):
        assert_relative(grad, case[f"grad_{name}"], 1e-4, name)


def test_score_is_what_its_modes_say_and_rerank_scores_pairs():
    model, (image, text) = make(global_weight=0.5, local_weight=2.0), sides(boxed_data())
    local, coarse = (model.score(image, text, mode=mode) for mode in ("local", "global"))
    mixed = model.score(image, text)
    np.testing.assert_allclose(mixed, 2 * local + 0.5 * coarse, atol=1e-5)
    np.testing.assert_allclose(coarse, model.embed_images(image) @ model.embed_texts(text).T, atol=1e-6)
    pairs = np.argwhere(np.ones((8, 8), bool))
    np.testing.assert_allclose(model.rerank(image, text, pairs, batch_size=5), mixed.reshape(-1), atol=1e-5)
    with pytest.raises(ValueError, match="'mixed', 'global', 'local', received 'fine'"):
        model.score(image, text, mode="fine")


@pytest.mark.parametrize("global_token", ("zeros", "mean", "learned"))
@pytest.mark.parametrize("tower", ("boxes", "rows"))
def test_padding_changes_neither_vectors_nor_tokens(global_token, tower):
    backbone = region_word_backbone()
    if tower == "rows":
        backbone = DualEncoderBackbone(RegionTower(12, 10, pooling="mean"), backbone.text_tower)
    model, (image, text) = make(backbone, global_token=global_token), sides(boxed_data())
    if global_token == "learned":
        model.learned_token.assign(draw(*model.learned_token.shape))
    dirty = {**image, "regions": image["regions"].copy()}
    dirty["regions"][~image["region_mask"]] = np.nan
    longer = {key: np.concatenate([column, np.zeros_like(column[:, :3])], 1) for key, column in text.items()}
    for clean, other, encode in ((image, dirty, model.encode_images), (text, longer, model.encode_texts)):
        expected, found = encode(tensors(clean)), encode(tensors(other))
        np.testing.assert_allclose(array(found["embedding"]), array(expected["embedding"]), atol=1e-5)
        mask = array(expected["mask"])
        count = mask.shape[1]
        assert not array(found["mask"])[:, count:].any()
        np.testing.assert_allclose(array(found["tokens"])[:, :count][mask], array(expected["tokens"])[mask], atol=1e-5)
    np.testing.assert_allclose(model.score(dirty, longer), model.score(image, text), atol=1e-4)


def test_global_tokens_differ():
    data, found = tensors(sides(boxed_data())[0]), {}
    for global_token in ("zeros", "mean", "learned"):
        keras.utils.set_random_seed(0)
        model = make(global_token=global_token)
        if global_token == "learned":
            model.learned_token.assign(draw(12))
        found[global_token] = array(model.encode_images(data)["embedding"])
    assert np.abs(found["zeros"] - found["mean"]).max() > 1e-3
    assert np.abs(found["zeros"] - found["learned"]).max() > 1e-3


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_what_it_says(stage):
    keras.utils.set_random_seed(0)
    model = make()
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.set_training_stage(stage)
    with pytest.raises(ValueError, match="compile"):
        model.fit(boxed_data(), batch_size=8, verbose=0)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [(weight, array(weight)) for weight in model.weights]
    history = model.fit(boxed_data(), batch_size=8, verbose=0).history
    changed = {id(weight) for weight, old in before if "seed" not in weight.path and (array(weight) != old).any()}
    assert set(history) == {"loss", *STAGES[stage]}
    heads = {id(weight) for head in (model.image_global_head, model.text_global_head) for weight in head.weights}
    # A key's bias adds the same to every logit of a softmax: rounding alone moves it.
    expected = {id(weight) for weight in model.trainable_weights if "key/bias" not in weight.path}
    assert expected <= changed <= {id(weight) for weight in model.trainable_weights}
    assert changed & heads == {"local": set(), "global": changed, "joint": changed & heads}[stage]
    assert model.get_config()["training_stage"] == stage
    with pytest.raises(ValueError, match="'local', 'global', 'joint', received 'both'"):
        model.set_training_stage("both")


@pytest.mark.parametrize("again", (False, True))
def test_what_was_frozen_stays_frozen(again):
    towers = region_word_backbone()
    towers.text_tower.trainable = False
    model = make(towers)
    if again:
        model = TGDT.from_config(model.get_config())
    for stage in STAGES:
        model.set_training_stage(stage)
        trained = {id(weight) for weight in model.trainable_variables}
        assert not trained & {id(weight) for weight in model.backbone.text_tower.variables}
        below = trained & {id(weight) for weight in model.backbone.image_tower.variables}
        assert bool(below) == (stage != "global")


@pytest.mark.parametrize("global_token", ("zeros", "learned"))
def test_an_image_without_regions_has_a_modest_gradient(global_token):
    model, data = make(global_token=global_token), boxed_data()
    data["region_mask"] = np.ones(data["regions"].shape[:2], bool)
    data["region_mask"][:2] = False

    def loss():
        inputs = tensors(data)
        features = model(inputs)
        terms = model.objectives(features["image"], features["text"], inputs, training=True)
        return terms["inter"] + terms["intra"] + terms["local"]

    _, grads = gradients(loss, [], model.trainable_variables)
    assert 1e-3 < max(np.abs(gradient).max() for gradient in grads) < 1e4


def test_a_frozen_part_runs_without_dropout():
    model, data = make(dropout=0.5), tensors(boxed_data())
    model.set_training_stage("global")
    quiet, loud = model.encode_texts(data), model.encode_texts(data, training=True)
    np.testing.assert_allclose(array(quiet["tokens"]), array(loud["tokens"]), atol=1e-6)
    assert np.abs(array(quiet["embedding"]) - array(loud["embedding"])).max() > 1e-3
    model.set_training_stage("joint")
    assert np.abs(array(model.encode_texts(data, training=True)["tokens"]) - array(quiet["tokens"])).max() > 1e-3


def test_one_pair_and_one_image_cost_nothing():
    model, data = make(), boxed_data()
    for rows in ({key: column[:1] for key, column in data.items()}, {**data, "image_id": np.zeros(8, "int32")}):
        rows = tensors(rows)
        features = model(rows)
        terms = model.objectives(features["image"], features["text"], rows)
        assert float(array(terms["inter"])) == float(array(terms["local"])) == 0


def test_warmup_takes_all_negatives():
    model, data = make(), tensors(boxed_data())
    features = model(data)
    hardest = model.objectives(features["image"], features["text"], data)
    model.warmup.assign(1.0)
    every = model.objectives(features["image"], features["text"], data)
    assert float(array(every["inter"])) > float(array(hardest["inter"]))
    assert float(array(every["local"])) > float(array(hardest["local"]))


def test_a_plugin_sees_the_mixed_score():
    model = make(plugins=(SoftLabelAlignment(),))
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    data = {**boxed_data(), "teacher_image": draw(8, 5), "teacher_text": draw(8, 7, seed=1)}
    history = model.fit(data, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"][0]) and {"csa", "usa"} <= set(history)


@pytest.mark.parametrize("share_local_encoder", (False, True))
def test_presets_keep_the_model(tmp_path, share_local_encoder):
    model = make(share_local_encoder=share_local_encoder, global_token="learned", training_stage="global")
    image, text = sides(boxed_data())
    model.save_to_preset(tmp_path / "preset")
    again = TGDT.from_preset(str(tmp_path / "preset"))
    assert again.get_config() == model.get_config()
    np.testing.assert_allclose(again.score(image, text), model.score(image, text), atol=1e-6)
    assert (again.image_local_encoder is again.text_local_encoder) == share_local_encoder


def test_what_it_needs():
    with pytest.raises(ValueError, match="SentenceFeatureTower has none"):
        make(region_backbone())
    with pytest.raises(ValueError, match="'zeros', 'mean' or 'learned', received 'cls'"):
        make(global_token="cls")
    data = boxed_data()
    with pytest.raises(ValueError, match="'region_boxes' is missing"):
        make().embed_images({"regions": data["regions"]})


def test_half_precision():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = make(dropout=0.0)
    finally:
        keras.config.set_dtype_policy(policy)
    image, text = sides(boxed_data())
    assert np.isfinite(model.score(image, text)).all()
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    assert np.isfinite(model.fit(boxed_data(), batch_size=8, verbose=0).history["loss"][0])
    np.testing.assert_allclose(np.linalg.norm(model.embed_images(image), axis=1), 1, atol=1e-5)
