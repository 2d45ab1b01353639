"""CLIP as Hugging Face and as OpenAI name its tensors, to the CLIP retriever."""

import math

from keras_itr.conversion.layouts import AS_IS, CONVOLUTION, LINEAR
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.preprocessors import CLIP_PIXELS, clip_tokenizer, image_converter
from keras_itr.conversion.vocabularies import caption_length
from keras_itr.layers import CLIPTextTower, CLIPVisionTower
from keras_itr.models import CLIP, DualEncoderBackbone
from keras_itr.preprocessing import RetrievalPreprocessor

HUGGING_FACE = {
    "image": {
        "class": "vision_model.embeddings.class_embedding",
        "patches": "vision_model.embeddings.patch_embedding.weight",
        "positions": "vision_model.embeddings.position_embedding.weight",
        "first_norm": "vision_model.pre_layrnorm",
        "block": "vision_model.encoder.layers.{}.",
        "last_norm": "vision_model.post_layernorm",
        "projection": "visual_projection.weight",
    },
    "text": {
        "tokens": "text_model.embeddings.token_embedding.weight",
        "positions": "text_model.embeddings.position_embedding.weight",
        "block": "text_model.encoder.layers.{}.",
        "last_norm": "text_model.final_layer_norm",
        "projection": "text_projection.weight",
    },
    "block": {"norms": ("layer_norm1", "layer_norm2"), "denses": ("mlp.fc1", "mlp.fc2"), "attention": "self_attn"},
    "scale": "logit_scale",
    "fused": False,
}
OPENAI = {
    "image": {
        "class": "visual.class_embedding",
        "patches": "visual.conv1.weight",
        "positions": "visual.positional_embedding",
        "first_norm": "visual.ln_pre",
        "block": "visual.transformer.resblocks.{}.",
        "last_norm": "visual.ln_post",
        "projection": "visual.proj",
    },
    "text": {
        "tokens": "token_embedding.weight",
        "positions": "positional_embedding",
        "block": "transformer.resblocks.{}.",
        "last_norm": "ln_final",
        "projection": "text_projection",
    },
    "block": {"norms": ("ln_1", "ln_2"), "denses": ("mlp.c_fc", "mlp.c_proj"), "attention": "attn"},
    "scale": "logit_scale",
    "fused": True,
}
SECTIONS = {"image": "vision_config", "text": "text_config"}
ACTIVATIONS = ("quick_gelu", "gelu")


def with_prefix(names, prefix):
    """The names of one of the tables above, each behind `prefix`."""
    sides = {side: {key: prefix + name for key, name in names[side].items()} for side in ("image", "text")}
    return {**names, **sides, "scale": prefix + names["scale"]}


def is_hugging_face_clip(checkpoint):
    is_called_so = checkpoint.config.get("model_type", "clip") == "clip"
    return is_called_so and HUGGING_FACE["image"]["first_norm"] + ".weight" in checkpoint.shapes


def is_openai_clip(checkpoint):
    return OPENAI["image"]["patches"] in checkpoint.shapes


def plan_hugging_face_clip(checkpoint, options):
    return _plan(checkpoint, options, HUGGING_FACE)


def plan_openai_clip(checkpoint, options):
    return _plan(checkpoint, options, OPENAI)


def _plan(checkpoint, options, names):
    """`(model, plan, notes)` of a CLIP retriever."""
    plan = Plan(checkpoint)
    backbone = clip_backbone(plan, names, options.activation)
    # A scale of logits is the inverse of a temperature.
    temperature = math.exp(-plan.number(names["scale"]))
    preprocessor, notes = clip_preprocessor(checkpoint, backbone, options)
    model = CLIP(backbone, temperature=(temperature, min(0.01, temperature), 1.0), preprocessor=preprocessor)
    plan.leave_out(r".*\.position_ids", "counts from 0 on")
    plan.leave_out("input_resolution|context_length|vocab_size", "a size")
    plan.leave_out("attn_mask", "the causal mask")
    plan.check(backbone.variables)
    return model, plan, [*notes, *_guesses(checkpoint, backbone, options.activation)]


def _guesses(checkpoint, backbone, activation):
    """Notes on what the tensors do not tell, where there is no configuration that does."""
    if checkpoint.config:
        return []
    image, text = backbone.image_tower.num_heads, backbone.text_tower.num_heads
    notes = [f"{image} heads for images and {text} for texts, one for each 64 of the width as OpenAI has them"]
    if activation is None:
        notes.append("activation quick_gelu, as OpenAI's weights have it: the file does not say, gelu is the other")
    return notes


def clip_preprocessor(checkpoint, backbone, options):
    """The preprocessor of a backbone of CLIP towers, and notes on it."""
    converter, notes = image_converter(checkpoint, backbone.image_tower.image_size[0], CLIP_PIXELS)
    text = backbone.text_tower
    length = caption_length(checkpoint, options.sequence_length, text.sequence_length, text.sequence_length)
    tokenizer = clip_tokenizer(checkpoint, text.vocabulary_size, length, options.vocabulary, options.cleaning or "none")
    return RetrievalPreprocessor(tokenizer, converter), notes


def clip_backbone(plan, names, activation=None):
    """A backbone in the sizes of a checkpoint; what goes into it is added to the plan."""
    image_tower, text_tower = _image_tower(plan, names, activation), _text_tower(plan, names, activation)
    backbone = DualEncoderBackbone(image_tower, text_tower)
    projection = AS_IS if names["fused"] else LINEAR
    for tower, embedding in ((image_tower, _plan_pixels), (text_tower, _plan_tokens)):
        side = names[tower.side]
        embedding(plan, tower.encoder, side)
        for index, block in enumerate(tower.encoder.encoder_layers):
            _plan_block(plan, block, side["block"].format(index), names)
        plan.normalization(tower.encoder.layer_norm, side["last_norm"])
        plan.take(tower.projection.kernel, side["projection"], projection)
    return backbone


def _plan_pixels(plan, encoder, names):
    plan.take(encoder.embedding.class_embedding, names["class"])
    plan.take(encoder.embedding.patch_embedding.kernel, names["patches"], CONVOLUTION)
    plan.take(encoder.embedding.position_embedding.embeddings, names["positions"])
    plan.normalization(encoder.pre_layer_norm, names["first_norm"])


def _plan_tokens(plan, encoder, names):
    plan.take(encoder.embedding.token_embedding.embeddings, names["tokens"])
    plan.take(encoder.embedding.position_embedding.position_embeddings, names["positions"])


def _plan_block(plan, block, prefix, names):
    within = names["block"]
    for layer, name in zip((block.layer_norm_1, block.layer_norm_2), within["norms"], strict=True):
        plan.normalization(layer, prefix + name)
    for layer, name in zip((block.dense_1, block.dense_2), within["denses"], strict=True):
        plan.dense(layer, prefix + name)
    attention = prefix + within["attention"]
    if names["fused"]:
        plan.fused_attention(block.attention, attention)
    else:
        plan.attention(block.attention, *(f"{attention}.{part}_proj" for part in ("q", "k", "v", "out")))


def _image_tower(plan, names, activation):
    side = names["image"]
    patch_size = plan.shape(side["patches"])[-1]
    cells = math.isqrt(plan.shape(side["positions"])[0] - 1)
    return CLIPVisionTower(cells * patch_size, patch_size, **_sizes(plan, names, "image", activation))


def _text_tower(plan, names, activation):
    vocabulary_size = plan.shape(names["text"]["tokens"])[0]
    length = plan.shape(names["text"]["positions"])[0]
    return CLIPTextTower(vocabulary_size, length, **_sizes(plan, names, "text", activation))


def _sizes(plan, names, side, activation):
    """The arguments that both towers have: from the shapes, and from the configuration or as OpenAI has them."""
    checkpoint, section = plan.checkpoint, SECTIONS[side]
    width = plan.shape(names[side]["positions"])[1]
    if not checkpoint.config and width % 64:
        raise ValueError(
            f"{checkpoint.source}: its {side} tower is {width} wide, no multiple of 64, and without config.json "
            "OpenAI's rule of one attention head for each 64 is all there is; put the config.json beside it."
        )
    heads = {"image": 12, "text": 8}[side] if checkpoint.config else width // 64
    checkpoint.setting("layer_norm_eps", 1e-5, [1e-5], section)
    block = names[side]["block"]
    return {
        "hidden_dim": width,
        "num_layers": plan.count(block),
        "num_heads": checkpoint.num_heads(width, default=heads, section=section),
        "intermediate_dim": plan.shape(f"{block.format(0)}{names['block']['denses'][0]}.weight")[0],
        "embedding_dim": plan.shape(names[side]["projection"])[1 if names["fused"] else 0],
        "activation": _activation(checkpoint, activation, section),
    }


def _activation(checkpoint, given, section):
    """The activation of the configuration, else the one given, else OpenAI's."""
    if given not in (None, *ACTIVATIONS):
        raise ValueError(f"activation must be {' or '.join(map(repr, ACTIVATIONS))}, received {given!r}.")
    stated = checkpoint.setting("hidden_act", given or ACTIVATIONS[0], ACTIVATIONS, section)
    if given not in (None, stated):
        raise ValueError(
            f"{checkpoint.source}: its config.json says hidden_act {stated!r}, activation {given!r}; leave "
            "activation out."
        )
    return stated
