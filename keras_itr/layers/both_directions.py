import types

import keras


def both_directions(recurrent, **arguments):
    """A `Bidirectional` that averages its two directions, and that may be made while a `.keras` file is loaded.

    Args:
        recurrent: a recurrent layer that returns sequences; either direction is a copy of it.
        **arguments: of `keras.layers.Bidirectional`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_itr.layers.both_directions import both_directions

    layer = both_directions(keras.layers.GRU(4, return_sequences=True))
    layer(np.ones((2, 5, 3), "float32")).shape  # (2, 5, 4)
    ```

    Our choice.
    """
    layer = keras.layers.Bidirectional(recurrent, merge_mode="ave", **arguments)
    # `Bidirectional` copies a layer through its configuration, and a load takes equal `id()`s for one shared object: of
    # a layer that was freed the next one may have the id, and would get the old copy. In an object that weight tracking
    # does not enter, it stays.
    layer.copied = types.SimpleNamespace(recurrent=recurrent)
    return layer
