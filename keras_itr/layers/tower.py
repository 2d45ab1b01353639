import keras
from keras import ops


class Tower(keras.layers.Layer):
    """The contract of an image or text tower.

    A tower turns the model inputs it names into a dict of features:

    - `"pooled"` `(B, output_dim)`: one vector per item, not normalised;
    - `"tokens"` `(B, N, token_dim)` and `"mask"` `(B, N)` bool, True = valid:
      local features, where the input has any.

    Everything is built in the constructor, so that weights can be loaded into
    a tower that was made from its configuration and never called.

    Attributes:
        side: `"image"` or `"text"`.
        input_key: the model input it needs, such as `"regions"`.
        output_dim: int, width of `"pooled"`.
        token_dim: int, width of `"tokens"`, or None if it has none.
        takes_global_row: bool: its regions see each other, so that a row for the
            whole image belongs among its inputs and not behind it.
    """

    side = None
    input_key = None
    token_dim = None
    takes_global_row = False

    def mask_of(self, inputs, key, like):
        """The mask called `key`, or all True for the first two axes of `like`."""
        mask = inputs.get(key)
        return ops.ones(ops.shape(like)[:2], dtype="bool") if mask is None else ops.cast(mask, "bool")
