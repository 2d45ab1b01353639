"""A published CLIP into a backbone of CLIP towers, as the start of a training."""

from pathlib import Path

from keras_itr.layers.clip_text_tower import CLIPTextTower
from keras_itr.layers.clip_vision_tower import CLIPVisionTower
from keras_itr.layers.hub_presets import check_sizes, read_hub_backbone
from keras_itr.models.from_preset import from_preset
from keras_itr.models.preset_index import is_retriever, read_index

_SHARED = ("hidden_dim", "num_layers", "num_heads", "intermediate_dim")
# Of a tower's configuration what may differ where weights are equal.
_NO_SIZES = ("name", "trainable", "dtype", "dropout", "weights")


SIDES = ("image", "text")


def load_initial_weights(backbone, preset, sides=SIDES):
    """Fill the towers of a backbone with those of a preset of ours or of a `keras_hub.models.CLIPBackbone`.

    With both sides the embeddings then equal those of the preset. CLIP's logit
    scale, or the temperature of a preset, is not used: each method has its own.
    Of a sentence encoder, such as `tools/convert.py` makes, a `BertTextTower`
    takes the Transformer alone, for inputs that may be shorter.

    Args:
        backbone: a `DualEncoderBackbone` in the sizes of the preset: with the
            same towers, or of a `CLIPVisionTower` and a `CLIPTextTower` for
            weights of keras-hub.
        preset: string or path: a directory that `save_to_preset` or
            `keras_itr.conversion.convert` wrote; a name of keras-hub such as
            `"clip_vit_base_patch32"`, a handle (`"kaggle://..."`, `"hf://..."`),
            or a directory that `CLIPBackbone.save_to_preset` wrote.
        sides: the sides that are filled, default `("image", "text")`; one alone
            needs a preset of ours.

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

    A sentence encoder as the text tower of any method:
    `load_initial_weights(backbone, "presets/minilm", sides=("text",))`.

    Our choice; weights of Radford et al., ICML 2021, as converted by keras-hub.
    """
    import keras_hub

    preset = str(preset)
    if isinstance(sides, str) or not sides or not set(sides) <= set(SIDES):
        raise ValueError(f'sides must be some of {SIDES}, such as ("text",), received {sides!r}.')
    if is_retriever(preset) or preset in read_index():
        return _load_ours(backbone, preset, sides)
    if tuple(sides) != SIDES:
        there = "is no preset of this package" if Path(preset).is_dir() else "is not there"
        raise ValueError(
            f"initial weights {preset!r} of the {sides[0]} tower: {there}; convert the encoder first: "
            f"python tools/convert.py FOLDER {preset}."
        )
    _check_classes(backbone, preset, {"image": CLIPVisionTower, "text": CLIPTextTower})
    clip = read_hub_backbone(keras_hub.models.CLIPBackbone, preset)
    sides = (
        (backbone.image_tower, clip.vision_encoder, clip.vision_projection),
        (backbone.text_tower, clip.text_encoder, clip.text_projection),
    )
    for tower, encoder, _ in sides:
        check_sizes(preset, tower, _sizes(tower, encoder, clip.projection_dim))
    for tower, encoder, projection in sides:
        tower.encoder.set_weights(encoder.get_weights())
        tower.projection.set_weights(projection.get_weights())


def _load_ours(backbone, preset, sides):
    source = from_preset(preset, load_weights=True, dtype="float32").backbone
    towers = {side: (getattr(backbone, f"{side}_tower"), getattr(source, f"{side}_tower")) for side in sides}
    _check_classes(backbone, preset, {side: type(other) for side, (_, other) in towers.items()})
    whole = [pair for pair in towers.values() if not hasattr(pair[0], "start_from")]
    for tower, other in whole:
        config = other.get_config()
        check_sizes(preset, tower, {name: config[name] for name in config if name not in _NO_SIZES})
    for tower, other in towers.values():
        if hasattr(tower, "start_from"):
            tower.start_from(other, preset)
    for tower, other in whole:
        tower.set_weights(other.get_weights())


def _check_classes(backbone, preset, classes):
    for side, cls in classes.items():
        tower = getattr(backbone, f"{side}_tower")
        if not isinstance(tower, cls):
            raise ValueError(
                f"initial weights {preset!r} need a {cls.__name__} as {side}_tower, received {type(tower).__name__}."
            )


def _sizes(tower, encoder, embedding_dim):
    """What the preset has, by the names of the tower's arguments."""
    sizes = {name: getattr(encoder, name) for name in _SHARED}
    sizes |= {"embedding_dim": embedding_dim, "activation": encoder.intermediate_activation}
    if tower.side == "image":
        return {**sizes, "image_size": tuple(encoder.image_shape[:2]), "patch_size": encoder.patch_size}
    return {**sizes, "vocabulary_size": encoder.vocabulary_size, "sequence_length": encoder.max_sequence_length}
