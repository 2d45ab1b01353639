from keras_itr.models.backbone import DualEncoderBackbone as DualEncoderBackbone
from keras_itr.models.clip import CLIP as CLIP
from keras_itr.models.cusa import CUSA as CUSA
from keras_itr.models.from_preset import from_preset as from_preset
from keras_itr.models.from_preset import list_presets as list_presets
from keras_itr.models.retriever import ImageTextRetriever as ImageTextRetriever
from keras_itr.models.soft_label_alignment import SoftLabelAlignment as SoftLabelAlignment
