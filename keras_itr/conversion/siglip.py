"""SigLIP as Hugging Face names its tensors, to a CLIP retriever of SigLIP towers."""

import math

from keras_itr.conversion.layouts import CONVOLUTION
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.preprocessors import HALF, image_converter
from keras_itr.layers import SigLIPTextTower, SigLIPVisionTower
from keras_itr.models import CLIP, DualEncoderBackbone
from keras_itr.preprocessing import RetrievalPreprocessor

_IMAGE, _TEXT = "vision_model.", "text_model."
_BLOCK = "encoder.layers.{}."
_ACTIVATION = "gelu_pytorch_tanh"
# Heads by width of the published ones: base, large and the shape-optimized one.
_HEADS = {768: 12, 1024: 16, 1152: 16}
_NOTES = (
    "SigLIP's tokenizer is not part of it: captions are given as token_ids (and padding_mask), padded with the id 1",
    "the model trains with CLIP's loss; the bias of SigLIP's own does not change a ranking",
)


def is_siglip(checkpoint):
    # Its successor for all aspect ratios has the same names, and patches that are rows of numbers.
    is_called_so = checkpoint.config.get("model_type", "siglip") == "siglip"
    return is_called_so and f"{_IMAGE}head.probe" in checkpoint.shapes and f"{_TEXT}head.weight" in checkpoint.shapes


def plan_siglip(checkpoint, options):
    """`(model, plan, notes)`."""
    plan = Plan(checkpoint)
    image_tower, text_tower = _image_tower(plan, options.num_heads), _text_tower(plan, options.num_heads)
    backbone = DualEncoderBackbone(image_tower, text_tower)
    for tower, prefix in ((image_tower, _IMAGE), (text_tower, _TEXT)):
        for index, block in enumerate(tower.siglip.encoder_layers):
            _plan_block(plan, block, prefix + _BLOCK.format(index))
    converter, notes = image_converter(checkpoint, image_tower.image_size[0], HALF, crop=False)
    temperature = math.exp(-plan.number("logit_scale"))
    model = CLIP(
        backbone,
        temperature=(temperature, min(0.005, temperature), max(1.0, temperature)),
        preprocessor=RetrievalPreprocessor(image_converter=converter),
    )
    plan.leave_out("logit_bias", "of the sigmoid loss alone")
    plan.leave_out(r".*\.position_ids", "counts from 0 on")
    plan.check(backbone.variables)
    return model, plan, [*notes, *_NOTES]


def _image_tower(plan, num_heads):
    name = f"{_IMAGE}embeddings.patch_embedding"
    width, _, patch_size, _ = plan.shape(f"{name}.weight")
    cells = math.isqrt(plan.shape(f"{_IMAGE}embeddings.position_embedding.weight")[0])
    tower = SigLIPVisionTower(cells * patch_size, patch_size, **_sizes(plan, _IMAGE, "vision_config", width, num_heads))
    siglip = tower.siglip
    plan.dense(siglip.embedding.patch_embedding, name, CONVOLUTION)
    plan.take(siglip.embedding.position_embedding.embeddings, f"{_IMAGE}embeddings.position_embedding.weight")
    plan.normalization(siglip.post_layer_norm, f"{_IMAGE}post_layernorm")
    plan.take(siglip.head.probe, f"{_IMAGE}head.probe")
    plan.fused_attention(siglip.head.attention, f"{_IMAGE}head.attention")
    plan.normalization(siglip.head.layer_norm, f"{_IMAGE}head.layernorm")
    plan.dense(siglip.head.mlp.fc1, f"{_IMAGE}head.mlp.fc1")
    plan.dense(siglip.head.mlp.fc2, f"{_IMAGE}head.mlp.fc2")
    return tower


def _text_tower(plan, num_heads):
    vocabulary_size, width = plan.shape(f"{_TEXT}embeddings.token_embedding.weight")
    length = plan.shape(f"{_TEXT}embeddings.position_embedding.weight")[0]
    sizes = _sizes(plan, _TEXT, "text_config", width, num_heads)
    tower = SigLIPTextTower(vocabulary_size, length, embedding_dim=plan.shape(f"{_TEXT}head.weight")[0], **sizes)
    siglip = tower.siglip
    for part in ("token", "position"):
        embedding = getattr(siglip.embedding, f"{part}_embedding")
        plan.take(embedding.embeddings, f"{_TEXT}embeddings.{part}_embedding.weight")
    plan.normalization(siglip.post_layer_norm, f"{_TEXT}final_layer_norm")
    plan.dense(siglip.head, f"{_TEXT}head")
    return tower


def _sizes(plan, prefix, section, width, num_heads):
    setting = plan.checkpoint.setting
    default = 12 if plan.checkpoint.config else _HEADS.get(width)
    setting("hidden_act", _ACTIVATION, [_ACTIVATION], section)
    setting("layer_norm_eps", 1e-6, [1e-6], section)
    return {
        "hidden_dim": width,
        "num_layers": plan.count(prefix + _BLOCK),
        "num_heads": plan.checkpoint.num_heads(width, num_heads, default, section),
        "intermediate_dim": plan.shape(f"{prefix}{_BLOCK.format(0)}mlp.fc1.weight")[0],
    }


def _plan_block(plan, block, prefix):
    plan.normalization(block.layer_norm1, f"{prefix}layer_norm1")
    plan.normalization(block.layer_norm2, f"{prefix}layer_norm2")
    plan.attention(block.self_attn, *(f"{prefix}self_attn.{part}_proj" for part in ("q", "k", "v", "out")))
    plan.dense(block.mlp.fc1, f"{prefix}mlp.fc1")
    plan.dense(block.mlp.fc2, f"{prefix}mlp.fc2")
