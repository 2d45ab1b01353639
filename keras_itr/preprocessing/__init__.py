"""Raw captions to token ids and raw images to pixels, in core TensorFlow operations, for training and serving alike."""

from keras_itr.preprocessing.cleaning import clean_caption as clean_caption
from keras_itr.preprocessing.clip_tokenizer import CLIPTokenizer as CLIPTokenizer
from keras_itr.preprocessing.decoding import decode_image as decode_image
from keras_itr.preprocessing.image_converter import RetrievalImageConverter as RetrievalImageConverter
from keras_itr.preprocessing.images import convert_image as convert_image
from keras_itr.preprocessing.retrieval_preprocessor import RetrievalPreprocessor as RetrievalPreprocessor
from keras_itr.preprocessing.word_tokenizer import WordTokenizer as WordTokenizer
from keras_itr.preprocessing.wordpiece_tokenizer import WordPieceTokenizer as WordPieceTokenizer
