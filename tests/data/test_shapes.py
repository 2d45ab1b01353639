import functools
import hashlib
import itertools
import re
from math import comb

import numpy as np
import pytest

from keras_itr.data import load_shapes
from keras_itr.data.shapes import (
    Formulas,
    Scenes,
    describe_formulas,
    describe_scenes,
    draw_formulas,
    generate_scenes,
    graded_relevance,
    render,
    write_captions,
)
from keras_itr.data.shapes_scenes import (
    BASE,
    CHANGED,
    COLOUR,
    COLOURS,
    DUPLICATE,
    FILL,
    MIRRORED,
    RADII,
    SHAPE,
    SINGLE,
    SIZE,
    SPLITS,
    SWAPPED,
    UNSEEN_PAIRS,
)

LEFT, RIGHT, ABOVE, BELOW = range(4)
scenes_of = functools.cache(generate_scenes)


@functools.cache
def formulas_of(split, asymmetry=0.2):
    return draw_formulas(scenes_of(split), split, asymmetry)


def objects_of(scenes, n):
    """[(shape, colour, size, fill, x, y), ...] of scene n in Python integers."""
    rows = np.concatenate([scenes.attributes[n], scenes.centres[n]], axis=1).tolist()
    return [tuple(row) for row in rows if row[0] >= 0]


def relation_of(one, other):
    dx, dy = other[4] - one[4], other[5] - one[5]
    if abs(dx) > abs(dy):
        return LEFT if dx > 0 else RIGHT
    return ABOVE if dy > 0 else BELOW


def description(scenes, n):
    """What a scene shows, regardless of the order of its objects and of their exact places."""
    objects = sorted(objects_of(scenes, n))
    looks = tuple(item[:4] for item in objects)
    return looks, tuple(relation_of(one, other) for one, other in itertools.combinations(objects, 2))


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


# ---- the bytes

# The first 16 hexadecimal digits of SHA-256, of the pictures and of the captions.
PINNED = {
    ("train", 20): ("93764df4500147ea", "51018d9678cf32e9"),
    ("val", 20): ("2e98c74b47b51d44", "2c19080cb91cca60"),
    ("test", 500): ("f59770aead76cd65", "8e8f97aa97b63aa8"),
    ("unseen", 20): ("a8cf0d401bf070db", "ffd2d3a57bf00903"),
}


@pytest.mark.parametrize(("split", "num_scenes"), PINNED)
def test_bytes_are_pinned(split, num_scenes):
    table = load_shapes(split, num_scenes=num_scenes)
    images, text = table.image_columns["images"], "\n".join(table.captions).encode()
    assert (digest(images.tobytes()), digest(text)) == PINNED[split, num_scenes]


def test_generation_repeats_itself():
    one, two = (load_shapes("val", num_scenes=30) for _ in range(2))
    assert (one.image_columns["images"] == two.image_columns["images"]).all()
    assert list(one.captions) == list(two.captions)


@pytest.mark.parametrize("num_scenes", [1, 13, 60])
def test_first_scenes_do_not_depend_on_num_scenes(num_scenes):
    whole, part = load_shapes("val"), load_shapes("val", num_scenes=num_scenes)
    for key, column in part.image_columns.items():
        assert (column == whole.image_columns[key][:num_scenes]).all()
    for key, column in part.caption_columns.items():
        assert (column == whole.caption_columns[key][: 5 * num_scenes]).all()
    assert (part.relevance() == whole.relevance()[:num_scenes, : 5 * num_scenes]).all()


def test_seed_changes_the_scenes_and_asymmetry_only_the_captions():
    plain, seeded, short = (load_shapes("val", num_scenes=10, **kw) for kw in ({}, {"seed": 1}, {"asymmetry": 0.6}))
    assert (plain.image_columns["images"] != seeded.image_columns["images"]).any()
    assert (plain.image_columns["images"] == short.image_columns["images"]).all()
    assert list(plain.captions) != list(short.captions)


# ---- the table


@pytest.mark.parametrize(("split", "size"), [("train", 4000), ("val", 500), ("test", 500), ("unseen", 500)])
def test_sizes_of_the_splits(split, size):
    assert SPLITS[split] == size == len(scenes_of(split)) == len(formulas_of(split)) // 5


def test_table_columns():
    table = load_shapes("test", num_scenes=20)
    images = table.image_columns["images"]
    assert (images.shape, images.dtype) == ((20, 64, 64, 3), np.uint8)
    assert table.image_columns["teacher_image"].shape == (20, 266)
    assert table.caption_columns["teacher_text"].shape == (100, 266)
    assert table.image_columns["teacher_image"].dtype == table.caption_columns["teacher_text"].dtype == np.float32
    assert table.caption_to_image.tolist() == [n for n in range(20) for _ in range(5)]
    assert table.image_names[12] == "shapes/test/000012"
    assert all(isinstance(caption, str) for caption in table.captions)
    relevance = table.relevance()
    assert (relevance.shape, relevance.dtype) == ((20, 100), bool)
    assert relevance[table.caption_to_image, np.arange(100)].all()


def test_unknown_split_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown split 'tset'.*nearest: 'test'"):
        load_shapes("tset")
    with pytest.raises(ValueError, match="Unknown split None"):
        load_shapes(None)


@pytest.mark.parametrize("asymmetry", [-0.1, 1.0, 2, float("nan")])
def test_asymmetry_outside_its_range(asymmetry):
    with pytest.raises(ValueError, match=r"`asymmetry`.*from 0 to below 1; got"):
        load_shapes("val", asymmetry=asymmetry, num_scenes=2)


@pytest.mark.parametrize("num_scenes", [0, -5, 501])
def test_num_scenes_outside_the_split(num_scenes):
    with pytest.raises(ValueError, match=f"from 1 to 500 for split 'val', got {num_scenes}"):
        load_shapes("val", num_scenes=num_scenes)


# ---- the scenes


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_the_scenes_are_in_groups_of_five(split):
    scenes = scenes_of(split)
    grouped = scenes.groups >= 0
    assert grouped.mean() == 0.5
    assert (np.unique(scenes.groups[grouped], return_counts=True)[1] == 5).all()
    assert ((scenes.kinds == SINGLE) == ~grouped).all()
    for group in np.unique(scenes.groups[grouped]):
        assert sorted(scenes.kinds[scenes.groups == group]) == [BASE, DUPLICATE, CHANGED, SWAPPED, MIRRORED]


@pytest.mark.parametrize("split", SPLITS)
def test_every_pair_has_one_clear_relation(split):
    scenes = scenes_of(split)
    relations = scenes.relations
    for n in range(len(scenes)):
        objects = objects_of(scenes, n)
        assert len(objects) == scenes.num_objects[n]
        assert (relations[n] >= 0).sum() == len(objects) * (len(objects) - 1)
        for i, j in itertools.permutations(range(len(objects)), 2):
            assert relations[n, i, j] == relation_of(objects[i], objects[j])
            assert {relations[n, i, j], relations[n, j, i]} in ({LEFT, RIGHT}, {ABOVE, BELOW})
            minor, major = sorted(abs(objects[i][axis] - objects[j][axis]) for axis in (4, 5))
            assert 3 * minor <= 2 * major
            assert major > RADII[objects[i][SIZE]] + RADII[objects[j][SIZE]] + 1  # apart


@pytest.mark.parametrize("split", SPLITS)
def test_unseen_pairs_occur_in_unseen_alone(split):
    scenes = scenes_of(split)
    unseen = {tuple(pair) for pair in UNSEEN_PAIRS.tolist()}
    assert len(unseen) == 6
    for n in range(len(scenes)):
        hits = [(item[COLOUR], item[SHAPE]) in unseen for item in objects_of(scenes, n)]
        assert any(hits) == (split == "unseen")


def test_all_attributes_and_counts_occur_about_equally():
    scenes = scenes_of("train")
    single = scenes.kinds <= BASE
    objects = scenes.attributes[single][scenes.attributes[single][:, :, 0] >= 0]
    for attribute, count in enumerate((6, 8, 2, 2)):
        share = np.bincount(objects[:, attribute], minlength=count) / len(objects)
        assert np.abs(share * count - 1).max() < 0.2
    assert set(scenes.num_objects) == {1, 2, 3}


def siblings_of(split, kind):
    """(base objects, sibling objects) of every group."""
    scenes = scenes_of(split)
    bases = {scenes.groups[n]: n for n in np.flatnonzero(scenes.kinds == BASE)}
    for n in np.flatnonzero(scenes.kinds == kind):
        yield objects_of(scenes, bases[scenes.groups[n]]), objects_of(scenes, n)


def looks(objects):
    return [item[:4] for item in objects]


def relations_of(objects):
    return [relation_of(one, other) for one, other in itertools.combinations(objects, 2)]


@pytest.mark.parametrize("split", ["val", "unseen"])
def test_duplicates_have_equal_descriptions_and_other_places(split):
    for base, sibling in siblings_of(split, DUPLICATE):
        assert len(base) > 1
        assert looks(base) == looks(sibling)
        assert relations_of(base) == relations_of(sibling)
        assert base != sibling


@pytest.mark.parametrize("split", ["val", "unseen"])
def test_changed_siblings_differ_in_one_attribute_of_one_object(split):
    changed = set()
    for base, sibling in siblings_of(split, CHANGED):
        assert relations_of(base) == relations_of(sibling)
        differing = [(i, a) for i in range(len(base)) for a in range(4) if base[i][a] != sibling[i][a]]
        assert len(differing) == 1
        changed.add(differing[0][1])
    assert changed == {SHAPE, COLOUR, SIZE, FILL}


@pytest.mark.parametrize("split", ["val", "unseen"])
def test_swapped_siblings_exchange_one_attribute_between_two_objects(split):
    swapped = set()
    for base, sibling in siblings_of(split, SWAPPED):
        assert relations_of(base) == relations_of(sibling)
        (i, a), (j, b) = [(i, a) for i in range(len(base)) for a in range(4) if base[i][a] != sibling[i][a]]
        assert i != j
        assert a == b
        assert (base[i][a], base[j][a]) == (sibling[j][a], sibling[i][a])
        swapped.add(a)
    assert swapped == {SHAPE, COLOUR, SIZE, FILL}


@pytest.mark.parametrize("split", ["val", "unseen"])
def test_mirrored_siblings_invert_the_relations_of_one_axis(split):
    for base, sibling in siblings_of(split, MIRRORED):
        assert looks(base) == looks(sibling)
        before, after = relations_of(base), relations_of(sibling)
        axis = before[0] // 2
        assert after == [relation ^ 1 if relation // 2 == axis else relation for relation in before]


def test_no_group_member_but_the_duplicate_repeats_the_base():
    scenes = scenes_of("train")
    for n in np.flatnonzero(scenes.kinds == BASE):
        same = [description(scenes, n) == description(scenes, n + step) for step in range(1, 5)]
        assert same == [True, False, False, False]


def test_splits_share_no_picture_and_few_descriptions():
    train, test = scenes_of("train"), scenes_of("test")
    pictures = {picture.tobytes() for picture in render(train)}
    assert len(pictures) == 4000
    for split in ("val", "test", "unseen"):
        assert not any(picture.tobytes() in pictures for picture in render(scenes_of(split)))
    known = {description(train, n) for n in range(len(train))}
    repeated = np.array([description(test, n) in known for n in range(len(test))])
    assert repeated.sum() == 30  # the 6.0 % of the documentation
    assert [repeated[test.num_objects == count].sum() for count in (1, 2, 3)] == [26, 4, 0]


@pytest.mark.parametrize("seed", [1, 6, -3])
def test_other_seeds_generate(seed):
    for split in SPLITS:
        scenes = generate_scenes(split, seed, num_scenes=200)
        formulas = draw_formulas(scenes, split, seed=seed)
        assert (graded_relevance(scenes, formulas)[np.arange(1000) // 5, np.arange(1000)] == 1).all()


# ---- the pictures


def scene_of(*objects):
    """One scene; objects are (shape, colour, size, fill, x, y)."""
    attributes, centres = np.full((1, 3, 4), -1, np.int8), np.full((1, 3, 2), -1, np.int32)
    for slot, item in enumerate(objects):
        attributes[0, slot], centres[0, slot] = item[:4], item[4:]
    return Scenes(attributes, centres, np.zeros((1, 4, 3), np.int16), np.array([-1]), np.array([SINGLE]))


def picture_of(*objects):
    return render(scene_of(*objects))[0].astype(int)


def ink_of(*objects):
    """Pixels that are not ground."""
    return (picture_of(*objects) != 180).any(axis=2)


def test_objects_are_drawn_where_they_stand():
    rows, columns = np.nonzero(ink_of((0, 0, 1, 0, 20, 40)))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (11, 29, 31, 49)
    assert (picture_of((0, 0, 1, 0, 20, 40))[40, 20] == (215, 30, 30)).all()


@pytest.mark.parametrize("shape", range(6))
def test_sizes_and_fills_differ_clearly(shape):
    small, large = (ink_of((shape, 3, size, 0, 32, 32)).sum() for size in (0, 1))
    assert large > 2.5 * small
    for size in (0, 1):
        solid, hollow = (picture_of((shape, 3, size, fill, 32, 32)) for fill in (0, 1))
        assert (solid[32, 32] == (30, 145, 50)).all()
        assert (hollow[32, 32] == 180).all()
        assert np.abs(solid - hollow).max(axis=2).astype(bool).sum() >= 8


def test_shapes_and_colours_differ_clearly():
    solid = [ink_of((shape, 0, 0, 0, 32, 32)) for shape in range(6)]
    assert min((one != other).sum() for one, other in itertools.combinations(solid, 2)) >= 12  # of about 80
    inks = [picture_of((1, colour, 1, 0, 32, 32))[32, 32] for colour in range(len(COLOURS))]
    inks.append(np.array([180] * 3))
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(inks, 2)) >= 80


def test_objects_do_not_touch_in_pictures():
    scenes = scenes_of("val")
    for n in range(60):
        objects = objects_of(scenes, n)
        cover = sum(ink_of(item).astype(int) for item in objects)
        assert cover.max() == 1
        assert (cover.astype(bool) == ink_of(*objects)).all()


# ---- formulas and relevance


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("asymmetry", [0.0, 0.2, 0.6])
def test_every_own_caption_is_true(split, asymmetry):
    scenes, formulas = scenes_of(split), formulas_of(split, asymmetry)
    for start in range(0, len(scenes), 100):
        rows, own = slice(start, start + 100), slice(5 * start, 5 * (start + 100))
        part = Formulas(formulas.attributes[own], formulas.mentioned[own], formulas.relations[own])
        chunk = Scenes(*(getattr(scenes, f)[rows] for f in ("attributes", "centres", "tints", "groups", "kinds")))
        assert (graded_relevance(chunk, part)[np.arange(500) // 5, np.arange(500)] == 1).all()


def plain_share(objects, attributes, mentioned, relations):
    """Best share of true facts over all assignments of objects, or of nothing, to the variables."""
    best, total = 0, mentioned + sum(v >= 0 for row in attributes for v in row) + sum(r >= 0 for r in relations)
    for chosen in itertools.permutations([*objects, None, None, None], mentioned):
        true = 0
        for variable, item in enumerate(chosen):
            if item is not None:
                true += 1 + sum(item[a] == value for a, value in enumerate(attributes[variable]) if value >= 0)
        for variable, relation in enumerate(relations):
            if relation >= 0 and chosen[variable] and chosen[variable + 1]:
                true += relation_of(chosen[variable], chosen[variable + 1]) == relation
        best = max(best, true)
    return best / total


@pytest.mark.parametrize(("split", "asymmetry"), [("test", 0.2), ("unseen", 0.6)])
def test_graded_relevance_equals_plain_loops(split, asymmetry):
    scenes = generate_scenes(split, num_scenes=20)
    formulas = draw_formulas(scenes, split, asymmetry)
    graded = graded_relevance(scenes, formulas)
    assert graded.dtype == np.float32
    stated = list(
        zip(formulas.attributes.tolist(), formulas.mentioned.tolist(), formulas.relations.tolist(), strict=True)
    )
    expected = [[plain_share(objects_of(scenes, n), *formula) for formula in stated] for n in range(20)]
    np.testing.assert_array_equal(graded, np.array(expected, np.float32))


def formula_of(*attributes, relations=(-1, -1)):
    rows = [*attributes, *[(-1,) * 4] * (3 - len(attributes))]
    return Formulas(np.array([rows], np.int8), np.array([len(attributes)], np.int8), np.array([relations], np.int8))


def test_graded_relevance_by_hand():
    scene = scene_of((0, 0, 1, 0, 20, 30), (1, 5, 0, 1, 45, 30))  # large red circle, left of a small blue hollow square
    for share, formula in (
        (1, formula_of((0, 0, 1, 0))),
        (4 / 5, formula_of((0, 0, 1, 1))),
        (1, formula_of((1, -1, -1, -1), (0, -1, -1, -1), relations=(RIGHT, -1))),
        (4 / 5, formula_of((1, -1, -1, -1), (0, -1, -1, -1), relations=(LEFT, -1))),
        (2 / 4, formula_of((2, 0, 0, -1))),  # red or small, not both
        (2 / 3, formula_of((-1,) * 4, (-1,) * 4, (-1,) * 4)),
        (3 / 4, formula_of((0, -1, -1, -1), (0, -1, -1, -1))),  # one circle cannot be two
    ):
        np.testing.assert_allclose(graded_relevance(scene, formula), [[share]], rtol=1e-6)


def test_asymmetry_zero_says_everything_about_the_mentioned():
    formulas = formulas_of("test", 0.0)
    there = np.arange(3) < formulas.mentioned[:, None]
    assert ((formulas.attributes >= 0) == there[:, :, None]).all()
    assert ((formulas.relations >= 0) == there[:, 1:]).all()


def test_larger_asymmetry_drops_more_at_its_rate():
    sizes, words = [], []
    for asymmetry in (0.0, 0.2, 0.6):
        formulas = formulas_of("train", asymmetry)
        sizes.append((formulas.attributes >= 0).sum())
        words.append(len(" ".join(write_captions(formulas, "train")).split()))
    np.testing.assert_allclose(np.array(sizes[1:]) / sizes[0], [0.8, 0.4], atol=0.01)
    assert words[0] > 1.1 * words[1] > 1.3 * words[2]
    more, less = formulas_of("train", 0.2), formulas_of("train", 0.6)
    assert (more.mentioned == less.mentioned).all()
    assert ((less.attributes < 0) | (less.attributes == more.attributes)).mean() > 0.999  # but for the kept colours


def test_every_caption_states_an_attribute_and_all_numbers_of_objects_occur():
    formulas = formulas_of("train", 0.6)
    assert (formulas.attributes >= 0).any(axis=(1, 2)).all()
    assert set(formulas.mentioned) == {1, 2, 3}


def test_chance_of_the_test_split():
    relevance = graded_relevance(scenes_of("test"), formulas_of("test")) == 1
    true = relevance.sum(axis=0)
    assert abs(true.mean() - 7.52) < 0.01  # as documented
    assert np.median(true) == 1
    beyond_ten = [1 - comb(500 - count, 10) / comb(500, 10) for count in true.tolist()]
    np.testing.assert_allclose([true.mean() / 5, 100 * np.mean(beyond_ten)], [1.5, 8.85], atol=0.02)
    groups, own = scenes_of("test").groups, np.arange(2500) // 5
    outside = (groups[:, None] != groups[own]) | ((groups[own] < 0) & (np.arange(500)[:, None] != own))
    assert (relevance & outside).sum() / outside.sum() < 0.015


# ---- words

WORDS = {"turquoise": "cyan", "over": "above", "higher": "above", "under": "below", "lower": "below"}
RELATION_WORDS = ("left", "right", "above", "below")


def parsed(caption):
    """Facts {(colour, relation, colour)} of a caption whose objects all have colours of their own."""
    marks = [WORDS.get(word, word) for word in re.findall(r"[a-z]+", caption)]
    marks = [word for word in marks if word in (*COLOURS, *RELATION_WORDS)]
    at = [i for i, word in enumerate(marks) if word in RELATION_WORDS]
    if not at:
        return set()
    if at[0] == 0:  # "left of Y there is X"
        return {(marks[2], marks[0], marks[1])}
    facts = {(marks[at[0] - 1], marks[at[0]], marks[at[0] + 1])}
    if len(at) == 2:  # "which" goes on from the second object, "and" from the first
        middle = marks[at[1] - 1] if "which" in caption else marks[at[0] - 1]
        facts.add((middle, marks[at[1]], marks[at[1] + 1]))
    return facts


def left_or_above(one, relation, other):
    """The fact as "left" or "above", whichever side it was told from."""
    return (other, relation ^ 1, one) if relation % 2 else (one, relation, other)


def test_captions_state_the_relations_of_their_formulas():
    formulas = formulas_of("train")
    checked, forms = 0, set()
    for t, caption in enumerate(write_captions(formulas, "train")):
        colours = formulas.attributes[t, : formulas.mentioned[t], COLOUR].tolist()
        if min(colours) < 0 or len(set(colours)) < len(colours):
            continue
        names = [COLOURS[colour] for colour in colours]
        stated = {
            left_or_above(names[v], relation, names[v + 1])
            for v, relation in enumerate(formulas.relations[t].tolist())
            if relation >= 0
        }
        told = {left_or_above(one, RELATION_WORDS.index(word), other) for one, word, other in parsed(caption)}
        assert told == stated, caption
        checked += bool(stated)
        forms.add((len(colours), len(stated)))
    assert checked > 5000
    assert forms == {(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)}


VOCABULARY = {
    SHAPE: ["circle|round shape", "square|box", "triangle", "diamond|rhombus", "cross|plus sign", "heart"],
    COLOUR: ["red", "orange", "yellow", "green", "cyan|turquoise", "blue", "pink", "black"],
    SIZE: ["small|little|tiny", "large|big|huge"],
    FILL: ["solid|filled", "hollow|outlined"],
}


def test_captions_state_the_attributes_of_their_formulas_and_no_others():
    formulas = formulas_of("test")
    for t, caption in enumerate(write_captions(formulas, "test")):
        for attribute, values in VOCABULARY.items():
            said = formulas.attributes[t, :, attribute]
            counts = [len(re.findall(rf"\b({pattern})\b", caption)) for pattern in values]
            assert counts == np.bincount(said[said >= 0], minlength=len(values)).tolist(), caption
        nameless = formulas.mentioned[t] - (formulas.attributes[t, :, SHAPE] >= 0).sum()
        assert len(re.findall(r"\b(thing|object)\b", caption)) == nameless
        assert len(re.findall(r"\ban? ", caption)) == formulas.mentioned[t] + len(re.findall("picture|image", caption))
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)


def test_one_formula_has_many_wordings():
    one = formula_of((0, 0, 1, 0), (1, 5, 0, 1), relations=(LEFT, -1))
    many = Formulas(*(np.repeat(column, 300, axis=0) for column in (one.attributes, one.mentioned, one.relations)))
    captions = write_captions(many, "test")
    assert len(set(captions)) > 250
    assert {word for caption in captions for word in ("left", "right") if word in caption.split()} == {"left", "right"}
    assert max(len(caption.split()) for caption in write_captions(formulas_of("train", 0.0), "train")) <= 29


# ---- teachers


def cosines(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_descriptors_count_facts():
    scene = scene_of((0, 0, 1, 0, 20, 30), (1, 5, 0, 1, 45, 30))
    row = describe_scenes(scene)[0]
    ones = [0, 1, 6, 11, 14, 15, 16, 17]  # shapes; colours from 6; sizes from 14; fills from 16
    ones += [18 + 0 * 6 + 0, 18 + 5 * 6 + 1]  # (colour, shape)
    ones += [66 + 0 * 6 + 1, 102 + 0 * 8 + 5]  # circle left of square; red left of blue
    assert np.flatnonzero(row).tolist() == sorted(ones)
    assert (row[ones] == 1).all()


def test_a_full_formula_is_described_like_its_scene():
    scene = scene_of((0, 0, 1, 0, 20, 30), (1, 5, 0, 1, 45, 30))
    for formula in (
        formula_of((0, 0, 1, 0), (1, 5, 0, 1), relations=(LEFT, -1)),
        formula_of((1, 5, 0, 1), (0, 0, 1, 0), relations=(RIGHT, -1)),
    ):
        np.testing.assert_array_equal(describe_formulas(formula), describe_scenes(scene))


def test_descriptors_are_closer_where_more_is_shared():
    scenes, formulas = scenes_of("test"), formulas_of("test")
    image, text = cosines(describe_scenes(scenes)), cosines(describe_formulas(formulas))
    base = np.flatnonzero(scenes.kinds == BASE)
    np.testing.assert_allclose(image[base, base + 1], 1, atol=1e-6)
    strangers = image[~np.eye(500, dtype=bool)].mean()
    for step in (2, 3, 4):
        assert strangers + 0.3 < image[base, base + step].mean() < 0.95
    same = np.kron(np.eye(500, dtype=bool), np.ones((5, 5), bool))
    assert text[same].mean() > text[~same].mean() + 0.3
