import difflib
import math
import re
import zipfile

import keras
import numpy as np
from keras import ops

from keras_itr.layers.image_networks import build_image_network, pixel_scaling


@keras.saving.register_keras_serializable(package="keras_itr")
class GridFeatures(keras.layers.Layer):
    """Pixels to rows of features: a pretrained network, cell pooling, PCA.

    Turns a photo into the same rows as a set of precomputed grid features, so that a model that was trained on such a
    set takes photos (`keras_itr.models.with_grid_features`), or trains on pixels (`GridTower`).

    Args:
        network: name of a network of `keras.applications` or of a keras-hub backbone class, see
            `build_image_network`.
        image_size: pair of ints, height and width of its input.
        arguments: dict of further arguments of the network.
        weights: its weights at construction, see `build_image_network`; they are not part of the configuration, a
            preset holds them.
        grid: pair of ints, rows and columns of cells; each is the mean of its part of the map. None (default) takes
            every place of the map as a cell.
        pca: None (default); the path of a `.npz` with `"mean"` `(C,)` and `"components"` `(C, D)`; or an int D for a
            projection whose numbers are loaded later.
        unfreeze: None (default): the network is frozen; `"all"`: all of it trains; a regular expression: the weights
            whose path it matches train, such as `"block_1[3-6]|Conv_1"`. Batch statistics stay fixed and dropout stays
            off in every case.

    Inputs:
        images: `(B, H, W, 3)` float32, scaled as the network wants it (see `pixel_scaling`), RGB.

    Returns:
        `(B, cells, D)`, cells row by row from the top left.

    Raises:
        ValueError: if the map cannot be divided into the grid, if the PCA has another width than the network, if no
            weight matches `unfreeze`.

    Example:

    ```python
    import numpy as np
    from keras_itr.layers import GridFeatures

    features = GridFeatures("MobileNetV2", (64, 64), arguments={"alpha": 0.35}, grid=(1, 2))
    features(np.zeros((2, 64, 64, 3), "float32")).shape  # (2, 2, 1280)
    ```

    Reference: grid features as in Jiang et al., In Defense of Grid Features for Visual Question Answering, CVPR 2020;
    fixed batch statistics as in the grid recipe of Chen et al., VSE-infinity, CVPR 2021. Cells and PCA are our choice.
    """

    def __init__(self, network, image_size, arguments=None, weights=None, grid=None, pca=None, unfreeze=None, **kwargs):
        super().__init__(**kwargs)
        _check_grid(grid)
        if not (unfreeze is None or isinstance(unfreeze, str)):
            raise ValueError(f"unfreeze must be null, 'all' or a regular expression, got {unfreeze!r}.")
        # Layers.
        self.network = build_image_network(network, image_size, arguments, weights)
        self.map_size, self.prefix_tokens, width = _map_size(self.network.output_shape)
        self._unfreeze(unfreeze)
        mean, components = _read_pca(pca, width)
        self.pca_mean = self._constant(mean, "pca_mean")
        self.pca_components = self._constant(components, "pca_components")
        if grid and any(places % cells for places, cells in zip(self.map_size, grid, strict=True)):
            raise ValueError(f"grid {tuple(grid)} does not divide the network's map of {self.map_size} places.")
        # Configuration.
        self.network_name = network
        self.image_size = tuple(image_size)
        self.arguments = arguments
        self.grid = tuple(grid) if grid else None
        self.unfreeze = unfreeze
        self.num_cells = math.prod(self.grid or self.map_size)
        self.output_dim = width if components is None else components.shape[1]
        scaling = pixel_scaling(network)
        self.is_bgr = bool(scaling and scaling[2])
        self.built = True

    def call(self, images):
        images = ops.flip(images, axis=-1) if self.is_bgr else images
        features = self.network(images, training=False)
        if len(features.shape) == 3:
            features = features[:, self.prefix_tokens :]
            features = ops.reshape(features, (-1, *self.map_size, features.shape[-1]))
        if self.grid:
            cell = tuple(places // cells for places, cells in zip(self.map_size, self.grid, strict=True))
            features = ops.average_pool(features, cell, cell, data_format="channels_last")
        features = ops.reshape(features, (-1, self.num_cells, features.shape[-1]))
        if self.pca_components is None:
            return features
        centred = ops.subtract(ops.cast(features, "float32"), self.pca_mean)
        return ops.cast(ops.matmul(centred, self.pca_components), self.compute_dtype)

    def compute_output_shape(self, images_shape):
        return (images_shape[0], self.num_cells, self.output_dim)

    def _unfreeze(self, pattern):
        if pattern == "all":
            return
        if pattern is None:
            self.network.trainable = False
            return
        matches = [bool(re.search(pattern, weight.path)) for weight in self.network.trainable_weights]
        if not any(matches):
            names = list(dict.fromkeys(weight.path.split("/")[0] for weight in self.network.trainable_weights))
            near = difflib.get_close_matches(pattern, names, 3, cutoff=0.3) or names[-3:]
            raise ValueError(f"unfreeze {pattern!r} matches no weight of the {len(names)} layers; near: {near}.")
        for weight, trains in zip(self.network.trainable_weights, matches, strict=True):
            weight.trainable = trains

    def _constant(self, value, name):
        if value is None:
            return None
        initializer = keras.initializers.Constant(value)
        return self.add_weight(value.shape, initializer, dtype="float32", trainable=False, name=name)

    def get_config(self):
        name = self.network_name
        is_name = pixel_scaling(name) is not None
        return {
            **super().get_config(),
            "network": name if is_name else keras.saving.serialize_keras_object(self.network),
            "image_size": self.image_size,
            "arguments": self.arguments if is_name else None,
            "grid": self.grid,
            "pca": None if self.pca_components is None else self.output_dim,
            "unfreeze": self.unfreeze,
        }


def _check_grid(grid):
    is_pair = isinstance(grid, (list, tuple)) and len(grid) == 2
    if grid is not None and not (is_pair and all(isinstance(cells, int) and cells > 0 for cells in grid)):
        raise ValueError(f"grid must be null or two positive integers, rows and columns, got {grid!r}.")


def _map_size(output_shape):
    """`((rows, columns), tokens before the patches, width)` of a network's output."""
    if len(output_shape) == 4:
        return tuple(output_shape[1:3]), 0, output_shape[3]
    # A class token and registers stand before a square of patches.
    side = math.isqrt(output_shape[1])
    return (side, side), output_shape[1] - side * side, output_shape[2]


def _read_pca(pca, width):
    """`(mean (C,), components (C, D))` as float32, or two None."""
    if pca is None:
        return None, None
    if isinstance(pca, int):
        return np.zeros(width, "float32"), np.zeros((width, pca), "float32")
    if not zipfile.is_zipfile(pca):
        raise ValueError(f"pca {pca!r} is no .npz file, or is not there; tools/extract_features.py --pca makes one.")
    with np.load(pca, allow_pickle=False) as stored:
        missing = {"mean", "components"} - set(stored.files)
        if missing:
            raise ValueError(f"{pca}: needs the arrays 'mean' and 'components', has {', '.join(stored.files)}.")
        mean, components = stored["mean"].astype("float32"), stored["components"].astype("float32")
    if mean.shape != (width,) or components.ndim != 2 or len(components) != width:
        raise ValueError(
            f"{pca}: mean {mean.shape} and components {components.shape} do not fit a network of width {width}."
        )
    return mean, components
