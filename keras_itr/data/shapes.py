"""The generated `shapes` set: small scenes, captions from logical formulas, relevance by model checking.

A scene is a 64x64 picture of one to three objects on grey. An object has a shape, a colour, a size and a fill, and is
left of, right of, above or below every other one, by the dominant axis of the offset of their centres; scenes with an
offset near a diagonal are not drawn. A caption is a formula put into words, and because the formula is known, so is
every scene it is true of: its own, its duplicates and any other. That is what a data set of photographs cannot
say, and why metrics on this set report the recall of the own captions beside the recall of the true ones.

Everything is drawn by integer hashes of (seed, split, index) and rasterised in integers: nothing is stored or
downloaded, and the bytes are the same on every platform. Our choice throughout; the mould is the synthetic scene
with known relations (Johnson et al., "CLEVR", CVPR 2017) and the swapped-attribute and swapped-relation caption pairs
of Thrush et al., "Winoground", CVPR 2022.
"""

import itertools

import numpy as np

from keras_itr.data.shapes_captions import CAPTIONS_PER_SCENE, Formulas, draw_formulas, write_captions
from keras_itr.data.shapes_drawing import render
from keras_itr.data.shapes_scenes import ATTRIBUTE_COUNTS, COLOUR, RELATIONS, SHAPE, Scenes, generate_scenes
from keras_itr.data.table import RetrievalTable

__all__ = [
    "Formulas",
    "Scenes",
    "describe_formulas",
    "describe_scenes",
    "draw_formulas",
    "generate_scenes",
    "graded_relevance",
    "load_shapes",
    "render",
    "write_captions",
]

_SCENES_AT_ONCE = 256  # bounds the memory of model checking: 256 scenes x 20,000 captions are 20 MB


def load_shapes(split, asymmetry=0.2, seed=0, num_scenes=None):
    """Generate a split of the `shapes` set.

    A caption of the test split is true of 7.5 of its 500 scenes on average, and of one alone in half of the cases: a
    random order has a model-checked R@1 of 1.5 % and R@10 of 8.8 % (text to image), against 0.2 % and 2.0 % for the
    scene it was written for.

    `teacher_image` and `teacher_text` play the part of CUSA's frozen uni-modal teachers. They are counts of facts,
    computed from the scene's description and from the caption's formula, not from pixels or words: they are targets
    for training and no model may read them at inference.

    Args:
        split: "train" (4,000 scenes), "val", "test" or "unseen" (500 each). Every scene of "unseen" has an object whose
            (colour, shape) pair occurs in no other split.
        asymmetry: probability that a caption drops an attribute of a mentioned object, or a relation; [0, 1),
            default 0.2.
        seed: integer, default 0. The images depend on seed and split alone.
        num_scenes: keep the first so many scenes, default all; the rest of the set does not change.

    Returns:
        `RetrievalTable` of N scenes and T = 5 N captions. Image columns: "images" uint8 (N, 64, 64, 3) and
        "teacher_image" float32 (N, 266). Caption columns: "text" str (T,) and "teacher_text" float32 (T, 266). Its
        `relevance()` is bool (N, T): True where the caption is true of the scene.

    Raises:
        ValueError: unknown split, `asymmetry` outside [0, 1), or `num_scenes` outside 1..size of the split.

    Example:

    ```python
    from keras_itr.data import load_shapes

    table = load_shapes("val", num_scenes=20)
    table.captions[0]
    table.relevance().sum(axis=0)  # how many of the twenty scenes each caption is true of
    ```

    Source: our choice, see the module.
    """
    scenes = generate_scenes(split, seed, num_scenes)
    formulas = draw_formulas(scenes, split, asymmetry, seed)
    return RetrievalTable(
        image_columns={"images": render(scenes), "teacher_image": describe_scenes(scenes)},
        caption_columns={
            "text": np.array(write_captions(formulas, split, seed)),
            "teacher_text": describe_formulas(formulas),
        },
        caption_to_image=np.arange(len(formulas), dtype=np.int32) // CAPTIONS_PER_SCENE,
        image_names=[f"shapes/{split}/{index:06d}" for index in range(len(scenes))],
        relevance=lambda: graded_relevance(scenes, formulas) == 1,
        name=f"shapes_{split}",
    )


def graded_relevance(scenes, formulas):
    """The share of each formula's atomic facts that is true of each scene.

    A fact is the existence of a variable's object, an attribute or a relation. Variables stand for distinct objects,
    and the share is that of the best assignment of objects to variables; where the objects do not suffice, all facts
    of a variable without an object are false. So the share is 1.0 exactly where the formula is true.

    Args:
        scenes: `Scenes` of length N.
        formulas: `Formulas` of length T.

    Returns:
        float32 (N, T) in [0, 1].

    Example:

    ```python
    from keras_itr.data.shapes import draw_formulas, generate_scenes, graded_relevance

    scenes = generate_scenes("test", num_scenes=10)
    graded_relevance(scenes, draw_formulas(scenes, "test"))  # (10, 50)
    ```

    Source: our choice.
    """
    facts, num_facts = _formula_facts(formulas), formulas.num_facts.astype(np.float32)
    assignments = [_scene_facts(scenes, order) for order in itertools.permutations(range(3))]
    graded = np.empty((len(scenes), len(formulas)), np.float32)
    for start in range(0, len(scenes), _SCENES_AT_ONCE):
        rows = slice(start, start + _SCENES_AT_ONCE)
        # Sums of at most 17 ones: exact in float32 in whatever order they are added.
        graded[rows] = np.max([scene[rows] @ facts.T for scene in assignments], axis=0) / num_facts
    return graded


def describe_scenes(scenes):
    """Counts of the facts of scenes, the image teacher.

    Counted are shapes (6), colours (8), sizes (2), fills (2), (colour, shape) pairs (48), and for every "left" and
    every "above" the two shapes (72) and the two colours (128) it joins. Cosines grow with the facts shared.

    Args:
        scenes: `Scenes` of length N.

    Returns:
        float32 (N, 266).

    Example:

    ```python
    from keras_itr.data.shapes import describe_scenes, generate_scenes

    describe_scenes(generate_scenes("test", num_scenes=10)).shape  # (10, 266)
    ```

    Source: our choice.
    """
    return _count_facts(scenes.attributes, scenes.relations)


def describe_formulas(formulas):
    """Counts of the facts that formulas state, the text teacher: the columns of `describe_scenes`.

    Args:
        formulas: `Formulas` of length T.

    Returns:
        float32 (T, 266); what is not said is not counted.

    Example:

    ```python
    from keras_itr.data.shapes import describe_formulas, draw_formulas, generate_scenes

    describe_formulas(draw_formulas(generate_scenes("test", num_scenes=10), "test")).shape  # (50, 266)
    ```

    Source: our choice.
    """
    relations = np.full((len(formulas), 3, 3), -1, np.int8)
    inverse = np.where(formulas.relations >= 0, formulas.relations ^ 1, -1)
    for first, second in ((0, 1), (1, 2)):
        relations[:, first, second], relations[:, second, first] = formulas.relations[:, first], inverse[:, first]
    return _count_facts(formulas.attributes, relations)


def _formula_facts(formulas):
    """(T, F): a one for every fact stated."""
    exists = np.arange(3) < formulas.mentioned[:, None]
    parts = [_one_hot(formulas.attributes[:, :, a], count) for a, count in enumerate(ATTRIBUTE_COUNTS)]
    return _joined(exists, *parts, _one_hot(formulas.relations, len(RELATIONS)))


def _scene_facts(scenes, order):
    """(N, F): a one for every fact that is true when variable v stands for object `order[v]`."""
    objects, (first, second, third) = scenes.attributes[:, order], order
    relations = scenes.relations[:, [first, second], [second, third]]
    parts = [_one_hot(objects[:, :, a], count) for a, count in enumerate(ATTRIBUTE_COUNTS)]
    return _joined(objects[:, :, 0] >= 0, *parts, _one_hot(relations, len(RELATIONS)))


def _one_hot(index, count):
    return index[..., None] == np.arange(count)


def _joined(*parts):
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).astype(np.float32)


def _count_facts(attributes, relations):
    """attributes (N, 3, 4) and relations (N, 3, 3), -1 where unknown -> (N, 266)."""
    blocks = [_one_hot(attributes[:, :, a], count).sum(axis=1) for a, count in enumerate(ATTRIBUTE_COUNTS)]
    shape, colour = (_one_hot(attributes[:, :, a], ATTRIBUTE_COUNTS[a]).astype(np.float32) for a in (SHAPE, COLOUR))
    blocks.append(np.einsum("noc,nos->ncs", colour, shape))
    for relation in (0, 2):  # "left" and "above"; the other two are their inverses
        joins = (relations == relation).astype(np.float32)
        blocks += [np.einsum("nia,nij,njb->nab", kind, joins, kind, optimize=True) for kind in (shape, colour)]
    return _joined(*blocks)
