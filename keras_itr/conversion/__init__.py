"""Published weights to presets: CLIP, sentence encoders, official checkpoints of the methods."""

from keras_itr.conversion.checkpoint import Checkpoint as Checkpoint
from keras_itr.conversion.convert import convert as convert
from keras_itr.conversion.plan import Plan as Plan
