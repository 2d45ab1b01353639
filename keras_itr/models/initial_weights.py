"""A published CLIP into a backbone of CLIP towers, as the start of a training."""

import difflib
import os

from keras_itr.layers.clip_text_tower import CLIPTextTower
from keras_itr.layers.clip_vision_tower import CLIPVisionTower
from keras_itr.messages import one_line

_SHARED = ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")
_HUGGING_FACE = "hf://"
_LOCAL = "a directory that keras_hub.models.CLIPBackbone.save_to_preset wrote will do as well"


def load_initial_weights(backbone, preset):
    """Fill the two towers of a backbone with the weights of a `keras_hub.models.CLIPBackbone`.

    The embeddings then equal those of the preset. CLIP's logit scale is not
    used: each method has its own temperature.

    Args:
        backbone: a `DualEncoderBackbone` of a `CLIPVisionTower` and a
            `CLIPTextTower` in the sizes of the preset.
        preset: string or path: a name of keras-hub such as
            `"clip_vit_base_patch32"`, a handle (`"kaggle://..."`, `"hf://..."`),
            or a directory that `CLIPBackbone.save_to_preset` wrote.

    Raises:
        ValueError: if the towers are others, if a size differs (the message has
            the argument, what the preset has and what the tower has), for an
            unknown name, or if the weights cannot be fetched or read. Nothing
            has changed then.

    Example:

    ```python
    from keras_itr.layers import CLIPTextTower, CLIPVisionTower
    from keras_itr.models import DualEncoderBackbone, load_initial_weights

    backbone = DualEncoderBackbone(CLIPVisionTower(224), CLIPTextTower(49408))
    load_initial_weights(backbone, "clip_vit_base_patch32")
    ```

    Our choice; weights of Radford et al., ICML 2021, as converted by keras-hub.
    """
    preset = str(preset)
    for side, cls in (("image", CLIPVisionTower), ("text", CLIPTextTower)):
        tower = getattr(backbone, f"{side}_tower")
        if not isinstance(tower, cls):
            raise ValueError(
                f"initial weights {preset!r} need a {cls.__name__} as {side}_tower, received {type(tower).__name__}."
            )
    clip = _read(preset)
    sides = (
        (backbone.image_tower, clip.vision_encoder, clip.vision_projection),
        (backbone.text_tower, clip.text_encoder, clip.text_projection),
    )
    for tower, encoder, _ in sides:
        _check_sizes(tower, encoder, clip.projection_dim, preset)
    for tower, encoder, projection in sides:
        tower.encoder.set_weights(encoder.get_weights())
        tower.projection.set_weights(projection.get_weights())


def _check_sizes(tower, encoder, embedding_dim, preset):
    sizes = {name: getattr(encoder, name) for name in _SHARED}
    sizes |= {"embedding_dim": embedding_dim, "activation": encoder.intermediate_activation}
    if tower.side == "image":
        sizes |= {"image_size": tuple(encoder.image_shape[:2]), "patch_size": encoder.patch_size}
    else:
        sizes |= {"vocabulary_size": encoder.vocabulary_size, "sequence_length": encoder.max_sequence_length}
    different = [
        f"{name}: preset has {size!r}, tower has {getattr(tower, name)!r}"
        for name, size in sizes.items()
        if getattr(tower, name) != size
    ]
    if different:
        raise ValueError(
            f"initial weights {preset!r} do not fit {tower.side}_tower; {'; '.join(different)}. "
            "Build the tower in the sizes of the preset."
        )


def _read(preset):
    """The preset as a `keras_hub.models.CLIPBackbone`."""
    import keras_hub

    cls = keras_hub.models.CLIPBackbone
    if "://" not in preset and preset not in cls.presets and not os.path.isdir(preset):
        near = ", ".join(difflib.get_close_matches(preset, cls.presets, 3, cutoff=0.3) or cls.presets)
        raise ValueError(f"no CLIP of keras-hub is called {preset!r}; the nearest: {near}; {_LOCAL}.")
    try:
        if preset.startswith(_HUGGING_FACE):
            _require_network(preset.removeprefix(_HUGGING_FACE))
        clip = cls.from_preset(preset, dtype="float32")
    except Exception as error:
        # Each hub and each file format has exceptions of its own.
        done = "read" if os.path.isdir(preset) else "fetched"
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        message = f"initial weights {preset!r} could not be {done} ({reason}); {_LOCAL}."
        raise ValueError(message) from error
    return clip


def _require_network(repository):
    """One short request: keras-hub's own would be repeated for half a minute before it fails."""
    import huggingface_hub

    if not huggingface_hub.try_to_load_from_cache(repository, "config.json"):
        huggingface_hub.HfApi().model_info(repository, timeout=5)
