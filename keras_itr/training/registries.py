from keras_itr import data, layers, models, preprocessing
from keras_itr.training.recipe import Registries

METHODS = {
    "clip": models.CLIP,
    "vse_infinity": models.VSEInfinity,
    "cusa": models.CUSA,
    "aai": models.AAI,
    "coder": models.CODER,
    "tgdt": models.TGDT,
    "ascl": models.AsCL,
}
IMAGE_TOWERS = {
    "region": layers.RegionTower,
    "region_feature": layers.RegionFeatureTower,
    "region_transformer": layers.RegionTransformerTower,
    "grid": layers.GridTower.from_network,
    "clip_vision": layers.CLIPVisionTower,
    "convolutional": layers.ConvolutionalTower,
    "vision_transformer": layers.VisionTransformerTower,
}
TEXT_TOWERS = {
    "recurrent": layers.RecurrentTextTower,
    "transformer": layers.TransformerTextTower,
    "bert": layers.BertTextTower,
    "clip_text": layers.CLIPTextTower,
    "sentence_feature": layers.SentenceFeatureTower,
}
PLUGINS = {"soft_label_alignment": models.SoftLabelAlignment}
TOKENIZERS = {
    "word": preprocessing.WordTokenizer,
    "wordpiece": preprocessing.WordPieceTokenizer,
    "clip": preprocessing.CLIPTokenizer,
}
READERS = {
    "shapes": data.load_shapes,
    "precomputed": data.load_precomputed,
    "karpathy": data.load_karpathy,
    "coco_captions": data.load_coco_captions,
    "flickr_tokens": data.load_flickr_tokens,
    "pairs": data.load_pairs,
}


def default_registries():
    """The names that recipes may use, with the classes and functions behind them.

    Returns:
        A `keras_itr.training.Registries`.

    Example:

    ```python
    from keras_itr.training import default_registries, load_recipe

    load_recipe("recipes/cusa_shapes.yaml", registries=default_registries())
    ```
    """
    return Registries(
        methods=METHODS,
        image_towers=IMAGE_TOWERS,
        text_towers=TEXT_TOWERS,
        plugins=PLUGINS,
        tokenizers=TOKENIZERS,
        readers=READERS,
        image_converter=preprocessing.RetrievalImageConverter,
    )
