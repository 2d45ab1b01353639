import math
import os

import keras
import numpy as np
from keras import ops

from keras_itr.files import read_archive
from keras_itr.numerics import unit_rows

_ARRAYS = ("embeddings", "propagation")


@keras.saving.register_keras_serializable(package="keras_itr")
class ConceptGraphEncoder(keras.layers.Layer):
    """A graph of concepts to a matrix of concept vectors: two graph convolutions.

    `C = l2(A . leaky_relu(A . X . W1) . W2)` with the word vectors X of the
    concepts and the propagation matrix A, which is fixed. There is no input:
    the matrix is one for all samples. Float32 under any dtype policy.

    Both arrays become weights, so that a saved model needs no graph file; the
    configuration holds their sizes only.

    Args:
        graph: one of

            - an object with arrays `embeddings` `(K, E)` and `propagation`
              `(K, K)`, or a method `propagation()` that returns it: a
              `keras_itr.data.ConceptGraph`;
            - a dict of these two arrays, for another mode of propagation;
            - the path of a `.npz` that holds them, as `ConceptGraph.save` writes;
            - a pair `(K, E)`: zeros, to be filled when weights are loaded.
        units: int, width D of a concept vector, default 1024.
        hidden_units: int, default 512.
        negative_slope: float, of the leaky ReLU, default 0.2.
        trainable_embeddings: bool, default False: X is fixed.

    Returns:
        `layer()`: `(K, D)` float32, unit rows.

    Raises:
        ValueError: if an array is missing, has the wrong shape or holds a number
            that is not finite, or if the file cannot be read.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import ConceptGraphEncoder

    graph = {"embeddings": np.random.normal(size=(5, 3)), "propagation": np.eye(5)}
    ConceptGraphEncoder(graph, units=8, hidden_units=4)().shape  # (5, 8)
    ```

    Reference: Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020,
    as related code of CODER (ECCV 2022).
    """

    def __init__(self, graph, units=1024, hidden_units=512, negative_slope=0.2, trainable_embeddings=False, **kwargs):
        super().__init__(**kwargs)
        embeddings, propagation = _read_graph(graph)
        # Layers.
        self.propagation = self._constant(propagation, False, "propagation")
        self.embeddings = self._constant(embeddings, trainable_embeddings, "embeddings")
        self.kernel_1 = self._kernel(embeddings.shape[1], hidden_units, "kernel_1")
        self.kernel_2 = self._kernel(hidden_units, units, "kernel_2")
        # Configuration.
        self.graph = tuple(embeddings.shape)
        self.units = units
        self.hidden_units = hidden_units
        self.negative_slope = negative_slope
        self.trainable_embeddings = trainable_embeddings
        self.built = True

    def call(self, training=False):
        # A Keras layer needs one argument; there is nothing to do differently in training.
        hidden = ops.matmul(self.propagation, ops.matmul(self.embeddings, self.kernel_1))
        hidden = ops.leaky_relu(hidden, self.negative_slope)
        return unit_rows(ops.matmul(self.propagation, ops.matmul(hidden, self.kernel_2)))

    def require_graph(self):
        """Raise if the graph is the zeros of a pair of sizes: nothing would come of training with it."""
        if not ops.convert_to_numpy(self.propagation).any():
            raise ValueError(
                f"the graph of {self.graph[0]} concepts is still empty: load weights, or give one as "
                "graph=ConceptGraph.from_captions(captions), such as to from_preset."
            )

    def _constant(self, value, trainable, name):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(value.shape, initializer, "float32", trainable=trainable, autocast=False, name=name)

    def _kernel(self, rows, columns, name):
        bound = 1 / math.sqrt(columns)
        uniform = keras.initializers.RandomUniform(-bound, bound)
        return self.add_weight((rows, columns), uniform, "float32", autocast=False, name=name)

    def compute_output_shape(self):
        return (self.graph[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "graph": self.graph,
            "units": self.units,
            "hidden_units": self.hidden_units,
            "negative_slope": self.negative_slope,
            "trainable_embeddings": self.trainable_embeddings,
        }


def _read_graph(graph):
    """`(embeddings (K, E), propagation (K, K))` as float32 arrays."""
    if isinstance(graph, (tuple, list)):
        concepts, width = graph
        return np.zeros((concepts, width), "float32"), np.zeros((concepts, concepts), "float32")
    source = "graph"
    if isinstance(graph, (str, os.PathLike)):
        source = str(graph)
        graph = read_archive(source, _ARRAYS, "make the graph anew, as by tools/build_concepts.py.")
    elif not isinstance(graph, dict):
        graph = {key: getattr(graph, key) for key in _ARRAYS if hasattr(graph, key)}
    for key in _ARRAYS:
        if key not in graph:
            raise ValueError(f"{source}: needs {' and '.join(_ARRAYS)}, has {', '.join(graph) or 'neither'}.")
    propagation = graph["propagation"]
    propagation = np.asarray(propagation() if callable(propagation) else propagation, "float32")
    embeddings = np.asarray(graph["embeddings"], "float32")
    if embeddings.ndim != 2 or propagation.shape != (len(embeddings), len(embeddings)):
        raise ValueError(
            f"{source}: embeddings must be (K, E) and propagation (K, K), "
            f"received {embeddings.shape} and {propagation.shape}."
        )
    for key, array in (("embeddings", embeddings), ("propagation", propagation)):
        if not np.isfinite(array).all():
            raise ValueError(f"{source}: {key} hold a number that is not finite; make the graph anew.")
    return embeddings, propagation
