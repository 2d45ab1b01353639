"""Serving: a trained retriever as a SavedModel that takes captions and image bytes."""

from keras_itr.serving.export import export as export
from keras_itr.serving.gates import ExportError as ExportError
from keras_itr.serving.gates import check_export as check_export
from keras_itr.serving.openvino_export import load_openvino as load_openvino
from keras_itr.serving.samples import make_samples as make_samples
from keras_itr.serving.search_page import launch_page as launch_page
from keras_itr.serving.search_page import search_page as search_page
from keras_itr.serving.signatures import ServedFunctions as ServedFunctions
