"""MPNet as Hugging Face names its tensors, to a sentence encoder as a retriever."""

from keras_itr.conversion.bert import sentence_pooling, sentence_retriever
from keras_itr.conversion.layouts import rows_at, rows_from
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.vocabularies import caption_length, lowercase, word_pieces
from keras_itr.layers import MPNetTextTower
from keras_itr.preprocessing import WordPieceTokenizer

# MPNet's special tokens as the WordPiece tokenizer calls them; the pieces are BERT's.
_SPECIAL = {"<pad>": "[PAD]", "[UNK]": "[UNK]", "<s>": "[CLS]", "</s>": "[SEP]"}
_BLOCK = "encoder.layer.{}."
# Positions count from the id of the padding on, which has one itself.
_FIRST_POSITION = 2


def is_mpnet(checkpoint):
    return checkpoint.config.get("model_type") == "mpnet"


def plan_mpnet(checkpoint, options):
    """`(model, plan, notes)`."""
    plan = Plan(checkpoint)
    prefix = "mpnet." if any(name.startswith("mpnet.") for name in checkpoint.shapes) else ""
    pieces = _pieces(checkpoint, plan.shape(f"{prefix}embeddings.word_embeddings.weight")[0], options.vocabulary)
    rows = [pieces.index(name) for name in _SPECIAL]
    rows += [row for row, piece in enumerate(pieces) if piece not in _SPECIAL and piece not in _SPECIAL.values()]
    vocabulary = [*_SPECIAL.values(), *(pieces[row] for row in rows[len(_SPECIAL) :])]
    tower = _tower(plan, prefix, len(rows), options, sentence_pooling(checkpoint))
    plan.take(tower.words.embeddings, f"{prefix}embeddings.word_embeddings.weight", rows_at(rows))
    model = sentence_retriever(tower, WordPieceTokenizer(vocabulary, tower.sequence_length, lowercase(checkpoint)))
    plan.leave_out(rf"{prefix}pooler\..*", "the layer behind the first token, which nothing here reads")
    plan.leave_out(rf"{prefix}embeddings\.position_ids", "counts from 0 on")
    plan.leave_out(r"lm_head\..*", "a head of another task")
    plan.check(model.backbone.variables)
    unused = f"{len(pieces) - len(rows)} that no caption makes are left out"
    notes = [f"token ids are in another order than the source's, {unused}"]
    return model, plan, [f"pooling is {tower.pooling!r}, vectors have unit length", *notes]


def _tower(plan, prefix, vocabulary_size, options, pooling):
    checkpoint = plan.checkpoint
    positions, width = plan.shape(f"{prefix}embeddings.position_embeddings.weight")
    positions -= _FIRST_POSITION
    # Configurations count the positions of the padding too.
    length = caption_length(checkpoint, options.sequence_length, positions, spare=_FIRST_POSITION)
    checkpoint.setting("hidden_act", "gelu", ["gelu"])
    buckets, heads = plan.shape(f"{prefix}encoder.relative_attention_bias.weight")
    tower = MPNetTextTower(
        vocabulary_size,
        length,
        width,
        plan.count(prefix + _BLOCK),
        heads,
        plan.shape(f"{prefix}{_BLOCK.format(0)}intermediate.dense.weight")[0],
        buckets,
        checkpoint.setting("layer_norm_eps", 1e-12),
        pooling,
    )
    plan.take(tower.positions.embeddings, f"{prefix}embeddings.position_embeddings.weight", rows_from(_FIRST_POSITION))
    plan.take(tower.distances.embeddings, f"{prefix}encoder.relative_attention_bias.weight")
    plan.normalization(tower.normalization, f"{prefix}embeddings.LayerNorm")
    for index, block in enumerate(tower.blocks):
        _plan_block(plan, block, prefix + _BLOCK.format(index))
    return tower


def _plan_block(plan, block, prefix):
    for layer, name in ((block.query, "q"), (block.key, "k"), (block.value, "v"), (block.attention_output, "o")):
        plan.dense(layer, f"{prefix}attention.attn.{name}")
    plan.normalization(block.attention_normalization, f"{prefix}attention.LayerNorm")
    plan.dense(block.intermediate, f"{prefix}intermediate.dense")
    plan.dense(block.output_layer, f"{prefix}output.dense")
    plan.normalization(block.output_normalization, f"{prefix}output.LayerNorm")


def _pieces(checkpoint, count, vocabulary):
    """The pieces of the vocabulary in the order of the source's ids."""
    pieces, path = word_pieces(checkpoint, count, vocabulary)
    missing = [name for name in _SPECIAL if name not in pieces]
    if len(pieces) != count or missing:
        without = f", without {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"{path}: must have the {count} pieces of {checkpoint.source}, {', '.join(_SPECIAL)} among them; "
            f"it has {len(pieces)}{without}."
        )
    return pieces
