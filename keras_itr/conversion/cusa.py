"""The official checkpoints of CUSA, to the CUSA retriever."""

import dataclasses
import re

from keras_itr.conversion.clip import OPENAI, clip_backbone, clip_preprocessor, with_prefix
from keras_itr.conversion.plan import Plan
from keras_itr.models import CUSA

# Names of the official class beside those of CLIP, which stand behind `clip_model.`:
#   ln_{cross,uni}_{image,text}_projection, {cross,uni}_{image,text}_projection: the heads
#   tau, cross_tau, uni_tau_image, uni_tau_text: learned temperatures of ITC, CSA and USA
#   cross_the_softlabel_tau, uni_the_softlabel_tau: the fixed temperature of the teachers
_CLIP = "clip_model."
# The name that tells whether a file has a term, by the argument of the term's weight.
_TERMS = {"contrastive_weight": "tau", "csa_weight": "cross_tau", "usa_weight": "uni_image_projection.weight"}


def is_cusa(checkpoint):
    return any(name.removeprefix("model.").startswith(_CLIP) for name in checkpoint.shapes)


def plan_cusa(checkpoint, options):
    """`(model, plan, notes)`; terms that the file has no weights of get the weight 0."""
    plan = Plan(checkpoint)
    outer = "model." if any(name.startswith(f"model.{_CLIP}") for name in checkpoint.shapes) else ""
    backbone = clip_backbone(plan, with_prefix(OPENAI, outer + _CLIP))
    # The cleaning of captions that the official code trains with.
    options = dataclasses.replace(options, cleaning=options.cleaning or "cusa")
    preprocessor, notes = clip_preprocessor(checkpoint, backbone, options)
    idle = {key: 0.0 for key, name in _TERMS.items() if not any(n.startswith(outer + name) for n in checkpoint.shapes)}
    teacher_temperature = _teacher_temperature(plan, outer)
    model = CUSA(backbone, preprocessor=preprocessor, teacher_temperature=teacher_temperature, **idle)
    variables = _plan_heads(plan, outer, model) + _plan_temperatures(plan, outer, model)
    plan.leave_out(re.escape(f"{outer}{_CLIP}logit_scale"), "CUSA has temperatures of its own")
    plan.check([*backbone.variables, *variables])
    notes += [f"{key} is 0: the file has no {_TERMS[key]}" for key in idle]
    return model, plan, [*notes, "the other weights of terms are the paper's for CLIP: the file has none that is read"]


def _plan_heads(plan, outer, model):
    """Plan the heads that the model has; returns their variables."""
    alignment, variables = model.alignment, []
    for branch, images, texts in (
        ("cross", model.image_head, model.text_head),
        ("uni", alignment.image_head, alignment.text_head),
    ):
        for side, head in (("image", images), ("text", texts)):
            if head is not None:
                plan.normalization(head.normalization, f"{outer}ln_{branch}_{side}_projection")
                plan.dense(head.dense, f"{outer}{branch}_{side}_projection")
                variables += head.variables
    return variables


def _plan_temperatures(plan, outer, model):
    """Plan the learned temperatures; a file of shared ones has the later names of a row. Returns their variables."""
    alignment, variables = model.alignment, []
    for temperature, names in (
        (model.tau_itc, ("tau",)),
        (alignment.tau_csa, ("cross_tau",)),
        (alignment.tau_usa_image, ("uni_tau_image", "uni_tau", "cross_tau")),
        (alignment.tau_usa_text, ("uni_tau_text", "uni_tau", "cross_tau")),
    ):
        if temperature is not None:
            found = [outer + name for name in names if outer + name in plan.checkpoint.shapes]
            plan.take(temperature.value, (found or [outer + names[0]])[0])
            variables += temperature.variables
    return variables


def _teacher_temperature(plan, outer):
    names = [outer + name for name in ("cross_the_softlabel_tau", "uni_the_softlabel_tau")]
    values = {plan.number(name) for name in names if name in plan.checkpoint.shapes} or {1.0}
    if len(values) > 1:
        raise ValueError(
            f"{plan.checkpoint.source}: {' and '.join(names)} differ, {values}; CUSA here has one for both."
        )
    return values.pop()
