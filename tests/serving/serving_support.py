"""Tiny retrievers of photos and captions, one of each method."""

import keras
from momentum_support import make_aai, make_coder

from keras_itr.layers import ConvolutionalTower, RecurrentTextTower
from keras_itr.models import CLIP, CUSA, TGDT, AsCL, DualEncoderBackbone, VSEInfinity
from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer

CAPTIONS = ("a red circle left of a blue square", "two dogs run", "naïve café", "ein Hund läuft über die Wiese")


def photo_parts(width=8):
    """Backbone and preprocessor of photos of 16 x 16 pixels and captions of 12 words."""
    tokenizer = WordTokenizer.from_captions(CAPTIONS, sequence_length=12)
    images = ConvolutionalTower((16, 16), (8, width), width, pooling="mean")
    texts = RecurrentTextTower(tokenizer.vocabulary_size(), width, word_dim=8, pooling="mean")
    converter = RetrievalImageConverter((16, 16), scale=1 / 127.5, offset=-1.0)
    return DualEncoderBackbone(images, texts), RetrievalPreprocessor(tokenizer, converter)


def _tgdt(backbone, preprocessor):
    return TGDT(
        backbone, embedding_dim=8, local_layers=1, global_layers=1, intermediate_dim=16, preprocessor=preprocessor
    )


METHODS = {
    "clip": lambda backbone, preprocessor: CLIP(backbone, preprocessor=preprocessor),
    "vse_infinity": lambda backbone, preprocessor: VSEInfinity(backbone, preprocessor=preprocessor),
    "cusa": lambda backbone, preprocessor: CUSA(backbone, preprocessor=preprocessor),
    "coder": lambda backbone, preprocessor: make_coder(backbone, preprocessor=preprocessor),
    "aai": lambda backbone, preprocessor: make_aai(backbone, preprocessor=preprocessor),
    "tgdt": _tgdt,
    "ascl": lambda backbone, preprocessor: AsCL(backbone, 8, num_heads=2, preprocessor=preprocessor),
}


def photo_model(method):
    """A retriever with random weights, the same in every process."""
    keras.utils.set_random_seed(1)
    return METHODS[method](*photo_parts())
