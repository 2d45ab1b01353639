class FrozenWeights:
    """Weights that are frozen for a while, one by one.

    `layer.trainable = True` would train all that is in a layer, also what somebody had frozen inside of it.

    Example:

    ```python
    import keras
    from keras_itr.models.freezing import FrozenWeights

    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    frozen = FrozenWeights()
    frozen.freeze(layer.variables)
    len(layer.trainable_variables)  # 0
    frozen.thaw()
    len(layer.trainable_variables)  # 2
    ```

    Our choice.
    """

    def __init__(self):
        self.weights = []

    def freeze(self, weights):
        """Freeze those of the `weights` that train, and remember them."""
        weights = [weight for weight in weights if weight.trainable]
        for weight in weights:
            weight.trainable = False
        self.weights += weights

    def thaw(self):
        """Let all train again that was frozen here."""
        for weight in self.weights:
            weight.trainable = True
        self.weights = []


def settle_frozen_layers(layer):
    """Freeze the weights of every layer in `layer` that says it is frozen.

    Keras asks the outermost layer and each weight, not the layers between; a restored layer says that it is frozen, and
    its weights were made after that.
    """
    for part in layer._flatten_layers():
        if not part.trainable:
            for weight in part.variables:
                weight.trainable = False
