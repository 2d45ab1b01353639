"""BERT as Hugging Face names its tensors: a sentence encoder as a retriever, and the part other converters share."""

from keras_itr.conversion.layouts import FIRST_ROWS
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.preprocessors import wordpiece_tokenizer
from keras_itr.conversion.vocabularies import caption_length
from keras_itr.layers import BertTextTower, RegionFeatureTower
from keras_itr.models import CLIP, DualEncoderBackbone
from keras_itr.preprocessing import RetrievalPreprocessor
from keras_itr.sentence_pooling import asked_pooling

_WORDS = "embeddings.word_embeddings.weight"
_BLOCK = "encoder.layer.{}."
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_approximate", "gelu_pytorch_tanh": "gelu_approximate"}


def is_bert(checkpoint):
    query = f"{_BLOCK.format(0)}attention.self.query.weight"
    # Others have the same names and count positions in another way.
    is_called_so = checkpoint.config.get("model_type", "bert") == "bert"
    return is_called_so and _prefix(checkpoint) is not None and _prefix(checkpoint) + query in checkpoint.shapes


def plan_bert(checkpoint, options):
    """`(model, plan, notes)`: a CLIP retriever whose texts are sentence vectors and whose images are ready vectors."""
    plan = Plan(checkpoint)
    prefix = _prefix(checkpoint)
    pooling = sentence_pooling(checkpoint)
    length = caption_length(checkpoint, options.sequence_length, count_positions(plan, prefix))
    text_tower = bert_tower(plan, prefix, length, options.num_heads, embedding_dim=None, pooling=pooling)
    tokenizer = wordpiece_tokenizer(
        checkpoint, text_tower.vocabulary_size, text_tower.sequence_length, options.vocabulary
    )
    model = sentence_retriever(text_tower, tokenizer)
    plan.leave_out(r"cls\..*|classifier\..*|.*lm_head.*", "a head of another task")
    plan.check(model.backbone.variables)
    notes = [
        f"pooling is {pooling!r}, vectors have unit length",
        "the image side has no weights: it pools ready vectors",
    ]
    return model, plan, notes


def sentence_retriever(text_tower, tokenizer):
    """A text tower and its tokenizer as a retriever; the image side pools ready vectors of the same width."""
    backbone = DualEncoderBackbone(RegionFeatureTower(text_tower.hidden_dim), text_tower)
    return CLIP(backbone, preprocessor=RetrievalPreprocessor(tokenizer))


def count_positions(plan, prefix):
    """The positions that the BERT behind `prefix` has, and so the longest caption."""
    return plan.shape(f"{prefix}embeddings.position_embeddings.weight")[0]


def bert_tower(plan, prefix, sequence_length, num_heads=None, **arguments):
    """A `BertTextTower` in the sizes of a checkpoint; what goes into its encoder is added to the plan.

    Args:
        plan: a `Plan`.
        prefix: string before `embeddings.word_embeddings.weight`.
        sequence_length: int, at most the positions.
        num_heads: int; None for what the configuration says.
        **arguments: further arguments of the tower.
    """
    checkpoint = plan.checkpoint
    checkpoint.setting("position_embedding_type", "absolute", ["absolute"])
    checkpoint.setting("layer_norm_eps", 1e-12, [1e-12])
    activation = _ACTIVATIONS[checkpoint.setting("hidden_act", "gelu", list(_ACTIVATIONS))]
    vocabulary_size, width = plan.shape(prefix + _WORDS)
    tower = BertTextTower(
        vocabulary_size,
        sequence_length,
        hidden_dim=width,
        num_layers=plan.count(prefix + _BLOCK),
        # 12 is what the library takes where its configuration is silent.
        num_heads=checkpoint.num_heads(width, num_heads, 12 if checkpoint.config else None),
        intermediate_dim=plan.shape(f"{prefix}{_BLOCK.format(0)}intermediate.dense.weight")[0],
        activation=activation,
        **arguments,
    )
    _plan_encoder(plan, tower, prefix)
    return tower


def _plan_encoder(plan, tower, prefix):
    layers = {layer.name: layer for layer in tower.encoder.layers}
    embeddings = f"{prefix}embeddings."
    # Checkpoints that came from TensorFlow say gamma and beta.
    old = f"{embeddings}LayerNorm.gamma" in plan.checkpoint.shapes
    affine = ("gamma", "beta") if old else ("weight", "bias")
    plan.take(layers["token_embedding"].embeddings, prefix + _WORDS)
    # Of the positions as many as there are here, and the first segment.
    for name, source in (("position_embedding", "position"), ("segment_embedding", "token_type")):
        plan.take(layers[name].weights[0], f"{embeddings}{source}_embeddings.weight", FIRST_ROWS)
    plan.normalization(layers["embeddings_layer_norm"], f"{embeddings}LayerNorm", *affine)
    for index in range(tower.num_layers):
        within = {layer.name: layer for layer in layers[f"transformer_layer_{index}"]._flatten_layers()}
        block = prefix + _BLOCK.format(index)
        parts = [f"{block}attention.self.{part}" for part in ("query", "key", "value")]
        plan.attention(within["self_attention_layer"], *parts, f"{block}attention.output.dense")
        plan.normalization(within["self_attention_layer_norm"], f"{block}attention.output.LayerNorm", *affine)
        plan.dense(within["feedforward_intermediate_dense"], f"{block}intermediate.dense")
        plan.dense(within["feedforward_output_dense"], f"{block}output.dense")
        plan.normalization(within["feedforward_layer_norm"], f"{block}output.LayerNorm", *affine)
    escaped = prefix.replace(".", r"\.")
    plan.leave_out(rf"{escaped}pooler\..*", "the layer behind [CLS], which nothing here reads")
    plan.leave_out(rf"{escaped}embeddings\.position_ids", "counts from 0 on")


def _prefix(checkpoint):
    found = [name.removesuffix(_WORDS) for name in checkpoint.shapes if name.endswith(_WORDS)]
    return found[0] if found in ([""], ["bert."], ["model."], ["0.auto_model."]) else None


def sentence_pooling(checkpoint):
    """The pooling that the files of a sentence encoder name, the mean if there is none that could."""
    folder = "1_Pooling"
    for module in checkpoint.json("modules.json", list) or []:
        kind = str(module.get("type") if isinstance(module, dict) else module).split(".")[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"{checkpoint.source}: modules.json has a {kind} layer, which is not converted.")
        folder = module.get("path", folder) if kind == "Pooling" else folder
    config = checkpoint.json(f"{folder}/config.json")
    return "mean" if config is None else asked_pooling(config, checkpoint.directory / folder / "config.json")
