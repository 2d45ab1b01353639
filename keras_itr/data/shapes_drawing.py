"""The pictures of the `shapes` set: integer rasterising of scenes."""

import functools

import numpy as np

from keras_itr.data.shapes_scenes import COLOUR, FILL, FILLS, IMAGE_SIZE, RADII, SHAPE, SHAPES, SIZE, SIZES

_RGB = np.array(
    [
        (215, 30, 30),
        (250, 140, 15),
        (255, 240, 70),
        (30, 145, 50),
        (40, 205, 225),
        (35, 60, 220),
        (250, 90, 185),
        (20,) * 3,
    ]
)
_GREY = 180
_SAMPLES = 4  # per pixel and axis
_SIDE = 2 * int(RADII.max()) + 1  # pixels of a sprite
_OUTLINE = (5, 8)  # thickness of a hollow shape in samples, by size


def render(scenes):
    """Draw scenes on a grey ground.

    Args:
        scenes: `Scenes` of length N.

    Returns:
        uint8 (N, 64, 64, 3), RGB. Integer arithmetic alone: the bytes are the same everywhere.

    Example:

    ```python
    from keras_itr.data.shapes import generate_scenes, render

    render(generate_scenes("test", num_scenes=10)).shape  # (10, 64, 64, 3)
    ```

    Source: our choice.
    """
    ground = _GREY + scenes.tints[:, 3, :1]  # (N, 1)
    images = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    images[:] = ground[:, None, None]
    reach = np.arange(_SIDE) - _SIDE // 2
    for slot in range(3):
        scene = np.flatnonzero(scenes.attributes[:, slot, 0] >= 0)
        attributes = scenes.attributes[scene, slot]
        ink = np.clip(_RGB[attributes[:, COLOUR]] + scenes.tints[scene, slot], 0, 255)[:, None, None]
        cover = _sprites()[attributes[:, SHAPE], attributes[:, SIZE], attributes[:, FILL]][..., None]
        x, y = scenes.centres[scene, slot].T
        window = scene[:, None, None], y[:, None, None] + reach[:, None], x[:, None, None] + reach
        full = _SAMPLES**2
        images[window] = (images[window] * (full - cover) + ink * cover + full // 2) // full
    return images


@functools.cache
def _sprites():
    """int32 (shapes, sizes, fills, side, side): how many of a pixel's samples the object covers, 0 to 16."""
    sprites = np.empty((len(SHAPES), len(SIZES), len(FILLS), _SIDE, _SIDE), np.int32)
    for size, radius in enumerate(RADII):
        # In eighths of a pixel from the centre, always odd: never on an edge between pixels.
        at = 2 * np.arange(_SIDE * _SAMPLES) + 1 - _SIDE * _SAMPLES
        for shape, mask in enumerate(_masks(at, at[:, None], 2 * _SAMPLES * int(radius) + _SAMPLES)):
            hollow = mask & ~_eroded(mask, _OUTLINE[size])
            for fill, filled in enumerate((mask, hollow)):
                sprites[shape, size, fill] = filled.reshape(_SIDE, _SAMPLES, _SIDE, _SAMPLES).sum(axis=(1, 3))
    sprites.flags.writeable = False
    return sprites


def _masks(x, y, reach):
    """Inside tests in the order of `SHAPES`; `reach` is half the side of the bounding box, y points downwards."""
    wide, tall = abs(x), abs(y)
    box = np.maximum(wide, tall) <= reach
    lobe = (9 * wide - 4 * reach - reach // 2) ** 2 + (9 * y + 3 * reach) ** 2 <= 22 * reach**2
    return (
        x * x + y * y <= reach * reach,
        np.maximum(wide, tall) <= reach - 2 * _SAMPLES,  # edges between pixels, a pixel inside the box
        box & (2 * wide <= y + reach),
        wide + tall <= reach,
        box & (19 * np.minimum(wide, tall) <= 9 * reach),
        box & (lobe | ((10 * wide + 9 * y <= 8 * reach) & (3 * y >= -reach))),
    )


def _eroded(mask, depth):
    """What stays of the mask when everything within `depth` samples of its border, a disc, is taken away."""
    padded = np.pad(mask, depth)
    rows, columns = mask.shape
    kept = mask.copy()
    for down in range(-depth, depth + 1):
        for right in range(-depth, depth + 1):
            if down * down + right * right <= depth * depth:
                kept &= padded[depth + down :, depth + right :][:rows, :columns]
    return kept
