from keras_itr.training.evaluate_preset import evaluate_preset as evaluate_preset
from keras_itr.training.recipe import Recipe as Recipe
from keras_itr.training.recipe import RecipeError as RecipeError
from keras_itr.training.recipe import Registries as Registries
from keras_itr.training.recipe import load_recipe as load_recipe
from keras_itr.training.registries import default_registries as default_registries
from keras_itr.training.trainer import train as train
