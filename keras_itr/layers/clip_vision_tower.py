import keras
import keras_hub
from keras import ops

from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class CLIPVisionTower(Tower):
    """CLIP's Vision Transformer: pixels to the projected class token.

    The defaults are those of ViT-B/32. `keras_itr.models.load_initial_weights`
    fills it with OpenAI's weights; without them it starts at random.

    Args:
        image_size: int or pair of equal ints, a multiple of `patch_size`.
        patch_size: int, default 32.
        hidden_dim: int, width of the Transformer, default 768.
        num_layers: int, default 12.
        num_heads: int, default 12.
        intermediate_dim: int, width of the feed-forward part, default 3072.
        embedding_dim: int, width of the output, default 512.
        activation: of the feed-forward part, default `"quick_gelu"` as in
            OpenAI's weights; `"gelu"` for weights trained with that.

    Inputs:
        images: `(B, H, W, 3)` float32, after the preset's image converter.

    Returns:
        dict of `"pooled"` `(B, E)`: the class token after the last
        normalisation, then a bias-free projection; `"tokens"`
        `(B, P, hidden_dim)`: the patches after the same normalisation, row by
        row from the top left, without the class token and not projected;
        `"mask"` `(B, P)`, all True; `P = H * W / patch_size**2`.

    Raises:
        ValueError: if the image is not square or no multiple of the patch size.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import CLIPVisionTower

    tower = CLIPVisionTower(64, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32, embedding_dim=8)
    tower({"images": np.zeros((2, 64, 64, 3), "float32")})["pooled"].shape  # (2, 8)
    ```

    Reference: Radford et al., Learning Transferable Visual Models From Natural
    Language Supervision, ICML 2021; layers of keras-hub.
    """

    side = "image"
    input_key = "images"

    def __init__(
        self,
        image_size,
        patch_size=32,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        intermediate_dim=3072,
        embedding_dim=512,
        activation="quick_gelu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height != width or height % patch_size:
            raise ValueError(
                f"image_size must be square and a multiple of patch_size {patch_size}, received {(height, width)}."
            )
        # Layers.
        self.encoder = keras_hub.models.CLIPVisionEncoder(
            patch_size,
            hidden_dim,
            num_layers,
            num_heads,
            intermediate_dim,
            intermediate_activation=activation,
            image_shape=(height, width, 3),
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="vision_encoder",
        )
        # keras-hub leaves these at 0, the same position for all, until weights are loaded.
        positions = self.encoder.embedding.position_ids
        positions.assign(ops.expand_dims(ops.arange(positions.shape[1], dtype=positions.dtype), 0))
        self.projection = keras.layers.Dense(embedding_dim, use_bias=False, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, hidden_dim))
        # Configuration.
        self.image_size = (height, width)
        self.patch_size = patch_size
        self.hidden_dim = self.token_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.embedding_dim = self.output_dim = embedding_dim
        self.activation = activation
        self.built = True

    def call(self, inputs, training=False):
        sequence = self.encoder({"images": inputs["images"]}, training=training)
        tokens = sequence[:, 1:]
        mask = self.mask_of(inputs, None, tokens)
        return {"pooled": self.projection(sequence[:, 0]), "tokens": tokens, "mask": mask}

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "embedding_dim": self.embedding_dim,
            "activation": self.activation,
        }
