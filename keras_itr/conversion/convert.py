import contextlib
import dataclasses
import difflib
import importlib.metadata
import json

from keras_itr.conversion.bert import is_bert, plan_bert
from keras_itr.conversion.checkpoint import Checkpoint
from keras_itr.conversion.clip import is_hugging_face_clip, is_openai_clip, plan_hugging_face_clip, plan_openai_clip
from keras_itr.conversion.cusa import is_cusa, plan_cusa
from keras_itr.conversion.image_networks import is_dinov2, is_vit, plan_dinov2, plan_vit
from keras_itr.conversion.mpnet import is_mpnet, plan_mpnet
from keras_itr.conversion.siglip import is_siglip, plan_siglip
from keras_itr.conversion.target import REPORT, check_target
from keras_itr.conversion.vse_infinity import is_vse_infinity, plan_vse_infinity
from keras_itr.files import folder_written_whole


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may decide of a conversion; None leaves it to the checkpoint."""

    vocabulary: str | None = None
    sequence_length: int | None = None
    cleaning: str | None = None
    activation: str | None = None
    num_heads: int | None = None


_BERT = ("vocabulary", "sequence_length")
_CLIP = (*_BERT, "cleaning")
# Kind: whether a checkpoint is one, its plan, and the options it takes. The first that fits is taken: those that hold
# others come first.
KINDS = {
    "cusa": (is_cusa, plan_cusa, _CLIP),
    "vse_infinity": (is_vse_infinity, plan_vse_infinity, (*_BERT, "num_heads")),
    "siglip": (is_siglip, plan_siglip, ("num_heads",)),
    "vit": (is_vit, plan_vit, ()),
    "dinov2": (is_dinov2, plan_dinov2, ()),
    "clip": (is_hugging_face_clip, plan_hugging_face_clip, (*_CLIP, "activation")),
    "openai_clip": (is_openai_clip, plan_openai_clip, (*_CLIP, "activation")),
    "mpnet": (is_mpnet, plan_mpnet, _BERT),
    "bert": (is_bert, plan_bert, (*_BERT, "num_heads")),
}


def convert(
    source,
    preset_directory,
    kind=None,
    vocabulary=None,
    sequence_length=None,
    cleaning=None,
    activation=None,
    allow_pickle=False,
    overwrite=False,
    verbose=True,
    num_heads=None,
):
    """Published weights to a preset: every tensor is used, or named as left out with the reason.

    | kind | source | preset |
    |---|---|---|
    | `"clip"` | CLIP of Hugging Face | `CLIP`, its temperature from the logit scale |
    | `"openai_clip"` | a state dict with OpenAI's names | the same |
    | `"siglip"` | SigLIP of Hugging Face | `CLIP` of SigLIP towers, without a tokenizer |
    | `"bert"`, `"mpnet"` | of Hugging Face, sentence encoders | `CLIP` whose texts are sentence vectors, see below |
    | `"vit"`, `"dinov2"` | ViT and DINOv2 of Hugging Face | of keras-hub, `weights` of a `grid` tower |
    | `"cusa"` | official checkpoint of CUSA | `CUSA` |
    | `"vse_infinity"` | official checkpoint of VSE-infinity, regions and BERT | `VSEInfinity` |

    The image side of a sentence encoder has no weights: it pools ready vectors (`"regions"`) of the same width.

    The preset holds the tokenizer and the image converter too. It appears in one step when it is whole, with
    `conversion.json`: source, kind, versions, what was left out, and notes.

    Args:
        source: what a `Checkpoint` reads: folder, file or `"hf://user/model"`.
        preset_directory: folder to write, which must not be there and neither holds what is read nor lies in it.
        kind: of the table; None (default) tells it by the names of the tensors.
        vocabulary: path of the tokenizer's file, `vocab.txt` of BERT or `merges.txt` of CLIP; None (default) is the
            one beside the weights or, for CLIP, OpenAI's.
        sequence_length: int, tokens read of a caption; None (default) is what the source has, 64 for VSE-infinity.
        cleaning: style of `clean_caption` for CLIP's tokenizer; None (default) is `"none"`, for CUSA `"cusa"`.
        activation: `"quick_gelu"` or `"gelu"`, for a CLIP without `config.json`, whose tensors do not tell; None
            (default) is the first, as in OpenAI's own weights.
        allow_pickle: bool, default False: whether a PyTorch file may be read.
        overwrite: bool, default False: replace a preset that is there. A folder of anything else is never replaced.
        verbose: bool, print what was done.
        num_heads: int, attention heads of a BERT or a SigLIP without `config.json`, whose tensors do not tell; None
            (default) is what the configuration says.

    Returns:
        The model: an `ImageTextRetriever`, or a backbone of keras-hub.

    Raises:
        ValueError: for a source of no known kind, an option that the kind has no use for, or with all tensors that are
            missing, not used or of another shape, before anything is written.
        FileNotFoundError: if a file is not there.

    Example:

    ```python
    from keras_itr.conversion import convert
    from keras_itr.models import from_preset

    convert("clip-vit-base-patch32", "presets/clip_b32")
    from_preset("presets/clip_b32").embed_texts(["two dogs"]).shape  # (1, 512)
    ```

    Our choice; the architectures are those of Radford et al., CLIP, ICML 2021; Zhai et al., SigLIP, ICCV 2023; Devlin
    et al., BERT, NAACL 2019; Song et al., MPNet, NeurIPS 2020; Dosovitskiy et al., ViT, ICLR 2021; Oquab et al.,
    DINOv2, 2023; Huang et al., CUSA, AAAI 2024; Chen et al., VSE-infinity, CVPR 2021.
    """
    check_target(preset_directory, (source, vocabulary), overwrite)
    checkpoint = Checkpoint(source, allow_pickle)
    kind = _kind(checkpoint, kind)
    options = Options(vocabulary, sequence_length, cleaning, activation, num_heads)
    _check_options(kind, options)
    with folder_written_whole(preset_directory, overwrite) as aside:
        parts, plan, notes = KINDS[kind][1](checkpoint, options)
        plan.run()
        parts = parts if isinstance(parts, tuple) else (parts,)
        for part in parts:
            part.save_to_preset(str(aside))
        model = parts[0]
        (aside / REPORT).write_text(json.dumps(_report(checkpoint, kind, plan, notes), indent=2) + "\n")
    if verbose:
        print(f"{preset_directory}: {type(model).__name__} from {kind} {source}, {model.count_params():,} parameters")
        for name, reason in sorted(plan.left_out.items()):
            print(f"  left out {name}: {reason}")
        for note in notes:
            print(f"  note: {note}")
    return model


def _check_options(kind, options):
    taken = KINDS[kind][2]
    for name, value in dataclasses.asdict(options).items():
        if value is not None and name not in taken:
            raise ValueError(f"{kind} has no use for {name}; its options are {', '.join(taken) or 'none'}.")


def _kind(checkpoint, kind):
    if kind is not None and kind not in KINDS:
        near = (difflib.get_close_matches(str(kind), KINDS, 1) or ["clip"])[0]
        raise ValueError(
            f"no kind of checkpoint is called {kind!r}; did you mean {near!r}? Known are {', '.join(KINDS)}."
        )
    found = next((name for name, (fits, *_) in KINDS.items() if fits(checkpoint)), None)
    if kind is not None and KINDS[kind][0](checkpoint):
        return kind
    if kind is None and found is not None:
        return found
    wanted = f"one of {', '.join(KINDS)}" if kind is None else kind
    remedy = "" if found is None else f" It is {found}: leave kind out."
    some = ", ".join(list(checkpoint.shapes)[:4]) or "none at all"
    of_type = f"model_type {checkpoint.config['model_type']!r}" if checkpoint.config.get("model_type") else ""
    # Some kinds have no names of their own.
    called = f"{of_type or 'no model_type of a config.json'} and " if of_type or kind is not None else ""
    raise ValueError(f"{checkpoint.source}: not {wanted} by {called}its tensors ({some}, ...).{remedy}")


def _report(checkpoint, kind, plan, notes):
    versions = {}
    for package in ("keras-itr", "keras", "keras-hub"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "source": checkpoint.source,
        "kind": kind,
        "tensors": len(plan.used),
        "left_out": dict(sorted(plan.left_out.items())),
        "notes": notes,
        "versions": versions,
    }
