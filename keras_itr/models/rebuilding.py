"""A retriever with another part, and the weights that it has."""

from keras import ops


def rebuilt(model, **changes):
    """A retriever of the same class and weights with other constructor arguments: a backbone, a preprocessor, plug-ins.

    Towers and plug-ins are shared, not copied; what only training needs begins anew.

    Args:
        model: an `ImageTextRetriever`.
        **changes: constructor arguments that leave the layers of its own as they are.

    Returns:
        An `ImageTextRetriever`.

    Example:

    ```python
    from keras_itr.models import SoftLabelAlignment, from_preset
    from keras_itr.models.rebuilding import rebuilt

    rebuilt(from_preset("clip_shapes"), plugins=(SoftLabelAlignment(),))
    ```

    Our choice.
    """
    parts = {"backbone": model.backbone, "preprocessor": model.preprocessor, "plugins": model.plugins}
    other = type(model).from_config({**model.get_config(), **parts, **changes})
    for old, weight in zip(own_weights(model), own_weights(other), strict=True):
        # By value: two variables must not share a buffer, which JAX donates to the step that updates one of them.
        weight.assign(ops.convert_to_numpy(old))
    for layer in other.training_only_layers():
        layer.reset()
    other.missing_weights = model.missing_weights
    return other


def own_weights(model):
    """The weights of the method itself, in an order that the configuration decides."""
    backbone = model.backbone
    parts = (backbone.image_tower, backbone.text_tower, *model.plugins, *model.training_only_layers())
    left_out = {id(weight) for part in parts for weight in part.weights}
    return [weight for weight in model.weights if id(weight) not in left_out]
