from keras_itr.data.augmentation import RandomShift as RandomShift
from keras_itr.data.pipeline import TrainingPipeline as TrainingPipeline
from keras_itr.data.precomputed import load_precomputed as load_precomputed
from keras_itr.data.shapes import graded_relevance as graded_relevance
from keras_itr.data.shapes import load_shapes as load_shapes
from keras_itr.data.table import RetrievalTable as RetrievalTable
