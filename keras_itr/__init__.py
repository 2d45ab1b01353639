"""Image-text retrieval in Keras 3, on TensorFlow, JAX and PyTorch from one code base."""

import importlib

__version__ = "0.1.0.dev0"

_PARTS = (
    "conversion",
    "data",
    "evaluation",
    "layers",
    "losses",
    "metrics",
    "models",
    "preprocessing",
    "search",
    "serving",
    "training",
)


def __getattr__(name):
    # Parts are imported when first used: `import keras_itr` itself costs nothing.
    if name in _PARTS:
        return importlib.import_module(f"keras_itr.{name}")
    raise AttributeError(f"module 'keras_itr' has no attribute {name!r}; it has {', '.join(_PARTS)}.")


def __dir__():
    return [*_PARTS, "__version__"]
