"""ViT and DINOv2 as Hugging Face names their tensors, to presets of keras-hub: networks of a `grid` tower."""

import re

import keras_hub

from keras_itr.conversion.layouts import CONVOLUTION, WITH_BATCH_AXIS
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.preprocessors import HALF, IMAGENET, image_converter, processor_side
from keras_itr.messages import one_line

_NOTE = (
    "a network: start a tower from it by image_tower: {{type: grid, network: {}, weights: <this folder>}}; "
    "its pixels are scaled as image_converter.json says"
)
_HEADS = r"classifier\..*|(vit\.)?pooler\..*"
# What keras-hub's own converter reads, one number in place of all.
_DINOV2 = re.compile(
    r"(dinov2\.)?(embeddings\.(cls_token|mask_token|register_tokens|position_embeddings|patch_embeddings\.projection\.\w+)"
    r"|encoder\.layer\.\d+\.(norm[12]\.\w+|attention\.(attention\.(query|key|value)|output\.dense)\.\w+"
    r"|layer_scale[12]\.lambda1|mlp\.(fc[12]|weights_in|weights_out)\.\w+)|layernorm\.\w+)"
)


def is_vit(checkpoint):
    return checkpoint.config.get("model_type") == "vit"


def plan_vit(checkpoint, options):
    """`(parts, plan, notes)`: a `ViTBackbone` and its image converter.

    keras-hub has a converter too, for checkpoints with a classifier and with its own epsilon only.
    """
    setting = checkpoint.setting
    setting("hidden_act", "gelu", ["gelu"])
    plan = Plan(checkpoint)
    prefix = "vit." if "vit.embeddings.cls_token" in checkpoint.shapes else ""
    image_size = setting("image_size", 224)
    network = keras_hub.models.ViTBackbone(
        image_shape=(image_size, image_size, 3),
        patch_size=(setting("patch_size", 16),) * 2,
        num_layers=setting("num_hidden_layers", 12),
        num_heads=setting("num_attention_heads", 12),
        hidden_dim=setting("hidden_size", 768),
        mlp_dim=setting("intermediate_size", 3072),
        layer_norm_epsilon=setting("layer_norm_eps", 1e-12),
        use_mha_bias=setting("qkv_bias", True),
    )
    embedding, encoder = network.get_layer("vit_patching_and_embedding"), network.get_layer("vit_encoder")
    plan.take(embedding.class_token, f"{prefix}embeddings.cls_token")
    plan.take(embedding.position_embedding.embeddings, f"{prefix}embeddings.position_embeddings", WITH_BATCH_AXIS)
    plan.dense(embedding.patch_embedding, f"{prefix}embeddings.patch_embeddings.projection", CONVOLUTION)
    for index, block in enumerate(encoder.encoder_layers):
        name = f"{prefix}encoder.layer.{index}."
        plan.normalization(block.layer_norm_1, f"{name}layernorm_before")
        plan.normalization(block.layer_norm_2, f"{name}layernorm_after")
        parts = [f"{name}attention.attention.{part}" for part in ("query", "key", "value")]
        plan.attention(block.mha, *parts, f"{name}attention.output.dense")
        plan.dense(block.mlp.dense_1, f"{name}intermediate.dense")
        plan.dense(block.mlp.dense_2, f"{name}output.dense")
    plan.normalization(encoder.layer_norm, f"{prefix}layernorm")
    plan.leave_out(_HEADS, "a head of another task")
    plan.check(network.variables)
    converter, notes = image_converter(checkpoint, image_size, HALF, "bilinear", crop=False)
    return (network, converter), plan, [*notes, _NOTE.format("ViTBackbone")]


def is_dinov2(checkpoint):
    return checkpoint.config.get("model_type") in ("dinov2", "dinov2_with_registers")


def plan_dinov2(checkpoint, options):
    """`(parts, plan, notes)`: a `DINOV2Backbone`, read by keras-hub, and its image converter."""
    checkpoint.setting("hidden_act", "gelu", ["gelu"])
    plan = Plan(checkpoint)
    plan.used = {name for name in checkpoint.shapes if _DINOV2.fullmatch(name)}
    plan.leave_out(_HEADS, "a head of another task")
    plan.check([])
    image_size, notes = _dinov2_size(checkpoint)
    try:
        network = keras_hub.models.DINOV2Backbone.from_preset(
            str(checkpoint.directory), dtype="float32", image_shape=(image_size, image_size, 3)
        )
    except Exception as error:  # of several libraries
        raise ValueError(f"{checkpoint.source}: keras-hub cannot read this DINOv2 ({one_line(error, 160)}).") from error
    converter, differences = image_converter(checkpoint, image_size, IMAGENET)
    return (network, converter), plan, [*notes, *differences, _NOTE.format("DINOV2Backbone")]


def _dinov2_size(checkpoint):
    """`(side, notes)`: what the source's processor makes, to which the network interpolates its positions."""
    trained, patch_size = checkpoint.setting("image_size", 224), checkpoint.setting("patch_size", 16)
    side = processor_side(checkpoint) or trained
    if side == trained or side % patch_size:
        return trained, []
    note = f"positions of {trained} x {trained} pixels are interpolated to the processor's {side} x {side}"
    # Without a filter, PyTorch's bicubic kernel is another than that of TensorFlow and JAX.
    kernel = ", by the framework's bicubic kernel" if checkpoint.config["model_type"] == "dinov2" else ""
    return side, [note + kernel]
