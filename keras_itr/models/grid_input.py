from keras_itr.layers import GridTower
from keras_itr.models.backbone import DualEncoderBackbone
from keras_itr.models.rebuilding import rebuilt
from keras_itr.preprocessing import RetrievalPreprocessor


def with_grid_features(model, grid_features, image_converter):
    """A model that was trained on rows of features, as one that takes photos.

    Args:
        model: an `ImageTextRetriever` whose image tower reads `"regions"`.
        grid_features: a `GridFeatures` that makes the rows of the set it was trained on.
        image_converter: a `RetrievalImageConverter` with the size, resize rule and scaling of that set.

    Returns:
        A retriever of the same class with the same weights; the towers are shared, not copied. It saves as a preset of
        its own, with the network inside.

    Raises:
        ValueError: if the rows have another width than the model reads, or if the model takes photos already.

    Example:

    ```python
    from keras_itr.layers import GridFeatures
    from keras_itr.models import from_preset, with_grid_features
    from keras_itr.preprocessing import RetrievalImageConverter

    features = GridFeatures("MobileNetV2", (256, 256), weights="mobilenet_v2.weights.h5", grid=(4, 4), pca="pca.npz")
    converter = RetrievalImageConverter(
        (256, 256), scale=1 / 127.5, offset=-1.0, interpolation="bilinear", crop_to_aspect_ratio=False
    )
    model = with_grid_features(from_preset("runs/clip_rows/best"), features, converter)
    model.embed_images(["photo.jpg"])
    ```

    Our choice.
    """
    old = model.backbone
    if old.image_tower.input_key != "regions":
        raise ValueError(f"the image tower reads {old.image_tower.input_key!r}, not rows of features; nothing to add.")
    backbone = DualEncoderBackbone(GridTower(grid_features, old.image_tower), old.text_tower, old.embedding_dim)
    tokenizer = getattr(model.preprocessor, "tokenizer", None)
    return rebuilt(model, backbone=backbone, preprocessor=RetrievalPreprocessor(tokenizer, image_converter))
