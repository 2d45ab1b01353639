"""The official checkpoints of VSE-infinity over regions with BERT, to the VSEInfinity retriever."""

import re

from keras_itr.conversion.bert import bert_tower, count_positions
from keras_itr.conversion.plan import Plan
from keras_itr.conversion.preprocessors import wordpiece_tokenizer
from keras_itr.conversion.vocabularies import caption_length
from keras_itr.layers import RegionTower
from keras_itr.models import DualEncoderBackbone, VSEInfinity
from keras_itr.preprocessing import RetrievalPreprocessor

# `model` is a list of the image encoder and of the text encoder:
#   0: fc, mlp.layers.{0,1}, mlp.bns.0 (mlp.bns.1 is never used), gpool.gru, gpool.linear
#   1: bert (as Hugging Face names it), linear, gpool.gru, gpool.linear
_IMAGE, _TEXT = "model.0.", "model.1."
_LENGTH = 64


def is_vse_infinity(checkpoint):
    # Over grids too, where the image side has other names: the plan says what is not converted.
    return f"{_TEXT}gpool.linear.weight" in checkpoint.shapes and any(n.startswith(_IMAGE) for n in checkpoint.shapes)


def plan_vse_infinity(checkpoint, options):
    """`(model, plan, notes)`; grid features, a backbone network or a recurrent text encoder are refused by name."""
    plan = Plan(checkpoint)
    for name, what in (("backbone", "a network on pixels"), ("image_encoder", "a network on pixels")):
        if any(key.startswith(f"{_IMAGE}{name}.") for key in checkpoint.shapes):
            raise ValueError(f"{checkpoint.source}: its image encoder is {what}; only region features are converted.")
    plan.require([f"{_IMAGE}fc.weight", f"{_IMAGE}mlp.layers.0.weight", f"{_TEXT}linear.weight"])
    width, feature_dim = plan.shape(f"{_IMAGE}fc.weight")
    image_tower = RegionTower(feature_dim, width, plan.shape(f"{_IMAGE}mlp.layers.0.weight")[0])
    _plan_regions(plan, image_tower)
    positions = count_positions(plan, f"{_TEXT}bert.")
    length = caption_length(checkpoint, options.sequence_length, positions, _LENGTH)
    # The official code has BERT base: 64 of the width a head.
    heads = options.num_heads or plan.shape(f"{_TEXT}bert.embeddings.word_embeddings.weight")[1] // 64
    text_tower = bert_tower(plan, f"{_TEXT}bert.", length, heads, embedding_dim=width)
    plan.dense(text_tower.projection, f"{_TEXT}linear")
    _plan_pooling(plan, text_tower.pooling_layer, f"{_TEXT}gpool")
    tokenizer = wordpiece_tokenizer(
        checkpoint, text_tower.vocabulary_size, text_tower.sequence_length, options.vocabulary
    )
    backbone = DualEncoderBackbone(image_tower, text_tower)
    plan.leave_out(re.escape(f"{_IMAGE}mlp.bns.1.") + ".*", "never used by the official code")
    plan.leave_out(".*num_batches_tracked", "a counter of training")
    plan.check(backbone.variables)
    return VSEInfinity(backbone, preprocessor=RetrievalPreprocessor(tokenizer)), plan, []


def _plan_regions(plan, tower):
    plan.dense(tower.shortcut, f"{_IMAGE}fc")
    plan.dense(tower.hidden, f"{_IMAGE}mlp.layers.0")
    plan.normalization(tower.normalization, f"{_IMAGE}mlp.bns.0")
    plan.take(tower.normalization.moving_mean, f"{_IMAGE}mlp.bns.0.running_mean")
    plan.take(tower.normalization.moving_variance, f"{_IMAGE}mlp.bns.0.running_var")
    plan.dense(tower.output_layer, f"{_IMAGE}mlp.layers.1")
    _plan_pooling(plan, tower.pooling_layer, f"{_IMAGE}gpool")


def _plan_pooling(plan, pooling, name):
    plan.recurrence(pooling.recurrence, f"{name}.gru")
    plan.dense(pooling.score, f"{name}.linear")
