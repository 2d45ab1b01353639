import keras
import keras_hub

from keras_itr.layers.tower import Tower


@keras.saving.register_keras_serializable(package="keras_itr")
class SigLIPVisionTower(Tower):
    """SigLIP's Vision Transformer: pixels to what a learned query draws from all patches.

    The defaults are those of ViT-B/16. `keras_itr.conversion.convert` fills it with published weights; without them it
    starts at random.

    Args:
        image_size: int or pair of equal ints, a multiple of `patch_size`.
        patch_size: int, default 16.
        hidden_dim: int, width of the Transformer and of the output, default 768.
        num_layers: int, default 12.
        num_heads: int, default 12.
        intermediate_dim: int, width of the feed-forward part, default 3072.

    Inputs:
        images: `(B, H, W, 3)` float32, after the preset's image converter.

    Returns:
        dict of `"pooled"` `(B, hidden_dim)`, `"tokens"` `(B, P, hidden_dim)`, the patches after the last normalisation,
        row by row from the top left, and `"mask"` `(B, P)`, all True; `P = H * W / patch_size**2`.

    Raises:
        ValueError: if the image is not square or no multiple of the patch size.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import SigLIPVisionTower

    tower = SigLIPVisionTower(32, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32)
    tower({"images": np.zeros((2, 32, 32, 3), "float32")})["pooled"].shape  # (2, 16)
    ```

    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023; layers of keras-hub.
    """

    side = "image"
    input_key = "images"

    def __init__(
        self, image_size, patch_size=16, hidden_dim=768, num_layers=12, num_heads=12, intermediate_dim=3072, **kwargs
    ):
        super().__init__(**kwargs)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height != width or height % patch_size:
            raise ValueError(
                f"image_size must be square and a multiple of patch_size {patch_size}, received {(height, width)}."
            )
        # Layers.
        self.siglip = keras_hub.models.SigLIPVisionEncoder(
            patch_size,
            hidden_dim,
            num_layers,
            num_heads,
            intermediate_dim,
            image_shape=(height, width, 3),
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="vision_encoder",
        )
        # The same layers, with the patches as a second output.
        outputs = {"pooled": self.siglip.output, "tokens": self.siglip.post_layer_norm.output}
        self.encoder = keras.Model(self.siglip.input, outputs, name="encoder")
        # Configuration.
        self.image_size = (height, width)
        self.patch_size = patch_size
        self.hidden_dim = self.output_dim = self.token_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.built = True

    def call(self, inputs, training=False):
        features = self.encoder({"images": inputs["images"]}, training=training)
        return {**features, "mask": self.mask_of(inputs, None, features["tokens"])}

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
        }
