"""The scenes of the `shapes` set: which objects stand where, and which scenes are siblings."""

import dataclasses
import difflib
import itertools

import numpy as np

from keras_itr.data.hashing import integers

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "black")
SIZES = ("small", "large")
FILLS = ("solid", "hollow")
ATTRIBUTE_COUNTS = np.array([len(SHAPES), len(COLOURS), len(SIZES), len(FILLS)])
SHAPE, COLOUR, SIZE, FILL = range(4)  # columns of `Scenes.attributes`

RELATIONS = ("left", "right", "above", "below")  # the inverse of relation r is r ^ 1
KINDS = ("single", "base", "duplicate", "changed", "swapped", "mirrored")
SINGLE, BASE, DUPLICATE, CHANGED, SWAPPED, MIRRORED = range(6)
SPLITS = {"train": 4000, "val": 500, "test": 500, "unseen": 500}  # scenes

# (colour, shape), each colour and shape at most once, so that both parts are known from other pairs.
UNSEEN_PAIRS = np.array([(0, 5), (1, 3), (2, 1), (3, 0), (5, 2), (7, 4)])

IMAGE_SIZE = 64
RADII = np.array([5, 9])  # pixels, by size
_LOWEST, _HIGHEST = 10, 53  # of a centre: three large objects still fit into one row
_BLOCK, _GROUP = 10, 5  # of ten scenes in a row, the first five are a group
_SLOTS = np.arange(3)
_FIRST, _SECOND = np.array([0, 0, 1]), np.array([1, 2, 2])  # the unordered pairs of slots
_PAIR_IS_UNSEEN = np.zeros((len(COLOURS), len(SHAPES)), bool)
_PAIR_IS_UNSEEN[tuple(UNSEEN_PAIRS.T)] = True
_SEEN_PAIRS = np.argwhere(~_PAIR_IS_UNSEEN)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """N scenes of one to three objects as arrays; object slots are filled from the front.

    Attributes:
        attributes: int8 (N, 3, 4), indices into `SHAPES`, `COLOURS`, `SIZES`, `FILLS`; -1 in an empty slot.
        centres: int32 (N, 3, 2), x and y of the centre pixel, y downwards; -1 in an empty slot.
        tints: int16 (N, 4, 3), what is added to the red, green and blue of each slot and, last, of the background.
        groups: int32 (N,), number of the sibling group; -1 for a scene outside the groups.
        kinds: int8 (N,), index into `KINDS`: how the scene came from the base of its group.

    Example:

    ```python
    from keras_itr.data.shapes import generate_scenes

    scenes = generate_scenes("test", num_scenes=10)
    len(scenes), scenes.num_objects  # 10 and an array of ten numbers from 1 to 3
    ```

    Source: our choice.
    """

    attributes: np.ndarray
    centres: np.ndarray
    tints: np.ndarray
    groups: np.ndarray
    kinds: np.ndarray

    def __len__(self):
        return len(self.attributes)

    @property
    def num_objects(self):
        """int64 (N,), 1 to 3."""
        return (self.attributes[:, :, 0] >= 0).sum(axis=1)

    @property
    def relations(self):
        """int8 (N, 3, 3): what slot i is to slot j, index into `RELATIONS`; -1 on the diagonal and at empty slots."""
        return _relations(self.centres)


def generate_scenes(split, seed=0, num_scenes=None):
    """Draw the scenes of a split.

    Of every ten scenes in a row the first five are a sibling group: a base of two or three objects, then the same
    scene with its positions jittered, with one attribute of one object changed, with one attribute swapped between
    two objects, and mirrored along the axis of the relation of its first two objects. Siblings are jittered too.
    Relations other than the mirrored ones stay. The other five scenes are drawn on their own.

    The splits share no draw. Still the same description (objects and relations, not positions) comes up twice by
    chance: under seed 0, 6.0 % of the test scenes are described like a train scene, nearly all of them scenes of one
    object (63 % of those, 2 % of the scenes of two, none of three). No picture is repeated.

    Args:
        split: "train", "val", "test" or "unseen".
        seed: integer, default 0.
        num_scenes: keep the first so many scenes of the split; default all.

    Returns:
        `Scenes`.

    Raises:
        ValueError: unknown split, or `num_scenes` outside 1..size of the split.

    Example:

    ```python
    from keras_itr.data.shapes import generate_scenes

    scenes = generate_scenes("test", num_scenes=10)
    scenes.relations[0, 0, 1]  # what the first object of the first scene is to the second
    ```

    Source: our choice.
    """
    index = np.arange(_checked_size(split, num_scenes))
    within = index % _BLOCK
    kinds = np.where(within < _GROUP, within + BASE, SINGLE).astype(np.int8)
    attributes = np.full((len(index), 3, 4), -1, np.int8)
    centres = np.full((len(index), 3, 2), -1, np.int32)

    key = (seed, split)
    own = np.flatnonzero(kinds <= BASE)
    attributes[own] = _draw_objects(key, own, kinds[own] == BASE)
    centres[own] = _draw_layout(key, own, attributes[own])
    siblings = np.flatnonzero(kinds > BASE)
    bases = siblings - within[siblings]
    attributes[siblings], centres[siblings] = _edit(key, siblings, kinds[siblings], attributes[bases], centres[bases])
    tints = integers(21, *key, "tint", index[:, None, None], np.arange(4)[:, None], np.arange(3)) - 10
    tints[:, 3] = tints[:, 3, :1]  # the background stays grey
    groups = np.where(within < _GROUP, index // _BLOCK, -1).astype(np.int32)
    return Scenes(attributes, centres, tints.astype(np.int16), groups, kinds)


def _checked_size(split, num_scenes):
    if split not in SPLITS:
        near = difflib.get_close_matches(str(split), SPLITS, n=1, cutoff=0)[0]
        raise ValueError(f"Unknown split {split!r} of `shapes`; use one of {', '.join(SPLITS)} (nearest: {near!r}).")
    if num_scenes is None:
        return SPLITS[split]
    if not 1 <= num_scenes <= SPLITS[split]:
        raise ValueError(f"`num_scenes` must be from 1 to {SPLITS[split]} for split {split!r}, got {num_scenes}.")
    return num_scenes


def _first_valid(count, propose):
    """Row by row the first attempt that is valid; `propose(rows, attempt)` -> (valid, arrays...)."""
    pending, settled = np.arange(count), None
    for attempt in itertools.count():
        valid, *proposals = propose(pending, attempt)
        settled = settled or [np.array(proposal) for proposal in proposals]
        for array, proposal in zip(settled, proposals, strict=True):
            array[pending[valid]] = proposal[valid]
        pending = pending[~valid]
        if not len(pending):
            return settled


def _draw_objects(key, index, grouped):
    """(n, 3, 4): distinct objects; in a group two of them differ in size or fill, so that a swap is always possible."""
    draw = integers(8, *key, "objects", index)
    num_objects = np.where(~grouped & (draw == 0), 1, 2 + draw % 2)

    def propose(rows, attempt):
        where = index[rows][:, None], _SLOTS, attempt
        pairs = _SEEN_PAIRS[integers(len(_SEEN_PAIRS), *key, "pair", *where)]
        if key[1] == "unseen":
            pairs[:, 0] = UNSEEN_PAIRS[integers(len(UNSEEN_PAIRS), *key, "unseen", *where)[:, 0]]
        size, fill = integers(2, *key, "size", *where), integers(2, *key, "fill", *where)
        objects = np.stack([pairs[:, :, 1], pairs[:, :, 0], size, fill], axis=2).astype(np.int8)
        objects[num_objects[rows, None] <= _SLOTS] = -1
        looks = objects[:, :, SIZE:]
        swappable = ((looks[:, _FIRST] != looks[:, _SECOND]).any(2) & (looks[:, _SECOND, 0] >= 0)).any(1)
        return _objects_are_valid(key[1], objects) & (swappable | ~grouped[rows]), objects

    return _first_valid(len(index), propose)[0]


def _draw_layout(key, index, objects):
    """(n, 3, 2): centres anywhere on the canvas."""
    span = _HIGHEST - _LOWEST + 1

    def propose(rows, attempt):
        centres = _LOWEST + integers(span, *key, "centre", index[rows][:, None, None], _SLOTS[:, None], [0, 1], attempt)
        centres[objects[rows, :, 0] < 0] = -1
        return _layout_is_valid(objects[rows], centres), centres

    return _first_valid(len(index), propose)[0]


def _edit(key, index, kinds, base_objects, base_centres):
    """The siblings' objects and centres; the whole edit is drawn anew until the result is a valid scene."""
    start = np.where((kinds == MIRRORED)[:, None, None], _mirrored(base_centres), base_centres)
    relations = _relations(start)

    def propose(rows, attempt):
        objects = _edited_objects((*key, "edit", attempt), index[rows], kinds[rows], base_objects[rows])
        reach = 4 - attempt // 16 % 5  # crowded scenes leave less room; with no jitter the layout is the valid start
        where = index[rows][:, None, None], _SLOTS[:, None], [0, 1], attempt
        centres = start[rows] + integers(2 * reach + 1, *key, "jitter", *where) - reach
        centres[objects[:, :, 0] < 0] = -1
        valid = _objects_are_valid(key[1], objects) & _layout_is_valid(objects, centres)
        valid &= (_relations(centres) == relations[rows]).all((1, 2))
        valid &= (kinds[rows] != SWAPPED) | (objects != base_objects[rows]).any((1, 2))
        return valid, objects, centres

    return _first_valid(len(index), propose)


def _edited_objects(key, index, kinds, base):
    count, row = (base[:, :, 0] >= 0).sum(1), np.arange(len(index))
    attribute = integers(4, *key, "attribute", index)
    one = integers(count, *key, "one", index)
    other = (one + 1 + integers(count - 1, *key, "other", index)) % count
    limit = ATTRIBUTE_COUNTS[attribute]
    old = base[row, one, attribute]
    changed, swapped = base.copy(), base.copy()
    changed[row, one, attribute] = (old + 1 + integers(limit - 1, *key, "value", index)) % limit
    swapped[row, one, attribute], swapped[row, other, attribute] = base[row, other, attribute], old
    kinds = kinds[:, None, None]
    return np.where(kinds == CHANGED, changed, np.where(kinds == SWAPPED, swapped, base))


def _mirrored(centres):
    horizontal = _relations(centres)[:, 0, 1] < 2
    axis = np.stack([horizontal, ~horizontal], axis=1)[:, None]  # (n, 1, 2)
    return np.where(axis & (centres >= 0), IMAGE_SIZE - 1 - centres, centres)


def _relations(centres):
    """One relation per ordered pair by the dominant axis of the offset: (n, 3, 2) -> (n, 3, 3)."""
    dx, dy = np.moveaxis(centres[:, None, :] - centres[:, :, None], 3, 0)
    relations = np.where(abs(dx) > abs(dy), np.where(dx > 0, 0, 1), np.where(dy > 0, 2, 3))
    present = centres[:, :, 0] >= 0
    return np.where(present[:, :, None] & present[:, None] & ~np.eye(3, dtype=bool), relations, -1).astype(np.int8)


def _objects_are_valid(split, objects):
    """No two alike, and no unseen (colour, shape) pair, or at least one in the split "unseen"."""
    present = objects[:, :, 0] >= 0
    alike = (objects[:, _FIRST] == objects[:, _SECOND]).all(2) & present[:, _SECOND]
    unseen = (_PAIR_IS_UNSEEN[objects[:, :, COLOUR], objects[:, :, SHAPE]] & present).any(1)
    return ~alike.any(1) & (unseen == (split == "unseen"))


def _layout_is_valid(objects, centres):
    """Inside the canvas, apart, and no offset near a diagonal: its minor part is at most 2/3 of its major part.

    The room is that of large objects whatever the size, so that every edit of a sibling fits.
    """
    present = objects[:, :, 0] >= 0
    inside = ((centres >= _LOWEST) & (centres <= _HIGHEST)).all(2) | ~present
    offset = abs(centres[:, _FIRST] - centres[:, _SECOND])
    minor, major = offset.min(2), offset.max(2)
    clear = (major >= 2 * RADII.max() + 2) & (3 * minor <= 2 * major)
    return inside.all(1) & (clear | ~present[:, _SECOND]).all(1)
