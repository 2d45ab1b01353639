import pathlib

import numpy as np
import pytest
import yaml

from keras_itr.data import AsymmetryPositives, RetrievalTable, ShuffleWords, WordDropout
from keras_itr.training.builders import build_model, build_pipeline
from keras_itr.training.recipe import Recipe, RecipeError, Registries, load_recipe
from keras_itr.training.registries import default_registries


class ConvNet:
    def __init__(self, channels, stride: int = 2, dropout: float = 0.0, name=None, dtype=None, **kwargs):
        pass


class Transformer:
    def __init__(
        self, vocabulary_size, depth: int | None = None, pooling: str = "mean", rate=0.1, final=True, **kwargs
    ):
        pass


class Method:
    def __init__(self, backbone, preprocessor=None, plugins=(), csa_weight: float = 0.1, temperature=None, graph=None):
        pass


class Word:
    def __init__(self, vocabulary=None, sequence_length: int = 16, lowercase: bool = True):
        pass


def shapes(split, num_images: int = 100, anything=None):
    pass


def precomputed(split, directory: str, regions=True):
    pass


def image_converter(image_size, name=None):
    pass


REGISTRIES = Registries(
    methods={"clip": Method, "cusa": Method, "vse_infinity": Method},
    image_towers={"convnet": ConvNet, "transformer": Transformer},
    text_towers={"transformer": Transformer},
    plugins={"soft_label_alignment": Method},
    tokenizers={"word": Word},
    readers={"shapes": shapes, "precomputed": precomputed},
    image_converter=image_converter,
)

RECIPE = """\
model:
  method: clip
  embedding_dim: 32
  image_tower: {type: convnet, channels: [8, 16]}
  text_tower:
    type: transformer
    depth: 2
  tokenizer: {type: word, min_count: 2}
data:
  source: shapes
  num_images: 50
run:
  epochs: 3
  batch_size: 16
  learning_rate: 5e-4
  schedule:
    type: cosine
    warmup_epochs: 1
"""


@pytest.fixture
def recipe_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    return tmp_path / "recipes"


def write(name, text):
    pathlib.Path("recipes", name).write_text(text, encoding="utf-8")


def load(name="x.yaml", *overrides):
    return load_recipe(f"recipes/{name}", overrides, registries=REGISTRIES)


def test_defaults_and_arguments(recipe_folder):
    write("x.yaml", RECIPE)
    recipe = load()
    assert recipe.model.image_tower.type == "convnet"
    assert recipe.model.image_tower.arguments == {"channels": [8, 16]}
    assert recipe.model.tokenizer.arguments == {} and recipe.model.tokenizer.min_count == 2
    assert recipe.data.arguments == {"num_images": 50}
    assert (recipe.data.train, recipe.data.validation, recipe.data.test) == ("train", "val", "test")
    assert recipe.run.learning_rate == 5e-4
    assert recipe.run.schedule.final == 1e-6 and recipe.run.schedule.per == "epoch"
    assert recipe.run.monitor == "rsum" and recipe.run.clip_norm is None


def test_extends_merges_deeply_and_the_nearer_file_wins(recipe_folder):
    (recipe_folder / "base").mkdir()
    write("base/clip.yaml", RECIPE)
    write("middle.yaml", "extends: base/clip.yaml\nmodel: {text_tower: {pooling: max}}\nrun: {epochs: 7}\n")
    write(
        "x.yaml", "extends: middle.yaml\nmodel:\n  method: cusa\n  image_tower: {type: transformer}\nrun: {epochs: 9}\n"
    )
    recipe = load()
    assert recipe.model.method == "cusa"
    assert recipe.model.text_tower.arguments == {"depth": 2, "pooling": "max"}
    assert recipe.model.image_tower.arguments == {}  # another type: nothing of the old one is left
    assert recipe.run.epochs == 9 and recipe.run.batch_size == 16


def test_set_wins_and_is_read_as_yaml(recipe_folder):
    write("x.yaml", RECIPE)
    overrides = ["run.epochs=5", "run.learning_rate=1e-4", "run.patience=", "model.arguments={temperature: [0.1, 1]}"]
    recipe = load("x.yaml", *overrides, "run.epochs=6", "run.schedule.type=constant", "run.monitor=a=b")
    assert recipe.run.epochs == 6
    assert recipe.run.learning_rate == 1e-4
    assert recipe.run.patience is None
    assert recipe.model.arguments == {"temperature": [0.1, 1]}
    assert recipe.run.schedule.type == "constant" and recipe.run.schedule.warmup_epochs == 0
    assert recipe.run.monitor == "a=b"


def test_numbers_with_an_exponent_are_numbers_unless_quoted(recipe_folder):
    write("x.yaml", RECIPE)
    floats = {"1e-4": 1e-4, "2E3": 2000.0, "1.5e+2": 150.0, ".5e1": 5.0, "-1e-4": -1e-4, "1e": "1e", "'1e-4'": "1e-4"}
    for text, expected in floats.items():
        value = load("x.yaml", f"data.anything={text}").data.arguments["anything"]
        assert value == expected and type(value) is type(expected)


def test_the_resolved_recipe_loads_to_an_equal_one_with_an_equal_hash(recipe_folder):
    write("base.yaml", RECIPE)
    text = "extends: base.yaml\nrun: {clip_norm: 2, tower_learning_rates: {image_tower: 1e-1}, weight_decay: 1e-4}\n"
    write("x.yaml", text + "model: {plugins: [{type: soft_label_alignment, csa_weight: 0.6}]}\n")
    recipe = load("x.yaml", "data.anything='1e-4'", "model.arguments.temperature='2020-01-02 ü: #'")
    write("resolved.yaml", recipe.to_yaml())
    again = load("resolved.yaml")
    assert again == recipe and again.to_dict() == recipe.to_dict() == yaml.safe_load(recipe.to_yaml())
    assert again.hash() == recipe.hash() and len(recipe.hash()) == 12
    other = load("x.yaml", "run.seed=1")
    assert other != recipe and other.hash() != recipe.hash()


def test_the_hash_does_not_depend_on_the_order_of_keys(recipe_folder):
    write("x.yaml", RECIPE)
    document = yaml.safe_load(RECIPE.replace("5e-4", "0.0005"))
    shuffled = {key: dict(reversed(document[key].items())) for key in ("run", "data", "model")}
    write("y.yaml", yaml.safe_dump(shuffled, sort_keys=False))
    assert load("y.yaml").hash() == load().hash()


def test_a_recipe_is_immutable(recipe_folder):
    write("x.yaml", RECIPE)
    with pytest.raises(ValueError, match="frozen"):
        load().run.epochs = 4


def test_annotations_and_defaults_tell_the_type_of_an_argument(recipe_folder):
    write("x.yaml", RECIPE)
    load("x.yaml", "model.text_tower={rate: 1, final: false, pooling: max}", "model.image_tower.channels=any")
    load("x.yaml", "model.text_tower={rate: [0.1, 0.2], final: null}")
    load("x.yaml", "model.image_tower.dropout=1", "model.text_tower.depth=null", "model.tokenizer.lowercase=false")
    for bad in ("dropout=true", "dropout=x", "stride=2.0", "stride=true", "stride=null"):
        with pytest.raises(RecipeError, match="must be"):
            load("x.yaml", f"model.image_tower.{bad}")
    for bad in ("rate=x", "rate=true", "final=1", "pooling=3"):
        with pytest.raises(RecipeError, match="must be"):
            load("x.yaml", f"model.text_tower.{bad}")
    load("x.yaml", "model.arguments.graph=graph.npz")
    with pytest.raises(RecipeError, match=r"model.arguments.graph: must be the path of a file, or null, got 5"):
        load("x.yaml", "model.arguments.graph=5")


# (what is changed in RECIPE: text to find, text to put there), the whole message.
MALFORMED = {
    "unknown key": (
        ("epochs: 3", "epocks: 3"),
        "recipes/x.yaml:13: run.epocks: unknown key; did you mean 'epochs'?",
    ),
    "unknown section": (
        ("data:", "date:"),
        "recipes/x.yaml:9: date: unknown key; did you mean 'data'?",
    ),
    "unknown key without a neighbour": (
        ("    warmup_epochs: 1", "    zzz: 1"),
        "recipes/x.yaml:18: run.schedule.zzz: unknown key; choose from warmup_steps, warmup_epochs, type, per, final",
    ),
    "key of another schedule": (
        ("    warmup_epochs: 1", "    decay_epochs: 1"),
        "recipes/x.yaml:18: run.schedule.decay_epochs: unknown key; did you mean 'warmup_epochs'?",
    ),
    "missing key": (
        ("  batch_size: 16\n", ""),
        "recipes/x.yaml:12: run.batch_size: required key is missing",
    ),
    "missing section": (
        ("data:\n  source: shapes\n  num_images: 50\n", ""),
        "recipes/x.yaml:1: data: required key is missing",
    ),
    "text for an integer": (
        ("epochs: 3", 'epochs: "3"'),
        "recipes/x.yaml:13: run.epochs: must be a valid integer, got '3'",
    ),
    "float for an integer": (
        ("batch_size: 16", "batch_size: 16.0"),
        "recipes/x.yaml:14: run.batch_size: must be a valid integer, got 16.0",
    ),
    "truth value for an integer": (
        ("epochs: 3", "epochs: yes"),
        "recipes/x.yaml:13: run.epochs: must be a valid integer, got true",
    ),
    "out of range": (
        ("epochs: 3", "epochs: 0"),
        "recipes/x.yaml:13: run.epochs: must be greater than 0, got 0",
    ),
    "quoted number": (
        ("5e-4", "'5e-4'"),
        "recipes/x.yaml:15: run.learning_rate: must be a valid number, got '5e-4'",
    ),
    "list for a section": (
        ("  source: shapes\n  num_images: 50", "  - shapes"),
        "recipes/x.yaml:9: data: must be a mapping, got ['shapes']",
    ),
    "rate above its range": (
        ("num_images: 50", "region_dropout: 1.0"),
        "recipes/x.yaml:11: data.region_dropout: must be less than 1, got 1.0",
    ),
    "rate below its range": (
        ("num_images: 50", "word_dropout: -0.1"),
        "recipes/x.yaml:11: data.word_dropout: must be greater than or equal to 0, got -0.1",
    ),
    "rate that is a truth value": (
        ("num_images: 50", "word_dropout: true"),
        "recipes/x.yaml:11: data.word_dropout: must be a valid number, got true",
    ),
    "number for a truth value": (
        ("num_images: 50", "second_view: 1"),
        "recipes/x.yaml:11: data.second_view: must be a valid boolean, got 1",
    ),
    "unknown kind of positives": (
        ("num_images: 50", "positives: [join, truncat]"),
        "recipes/x.yaml:11: data.positives.1: unknown value 'truncat'; did you mean 'truncate'?",
    ),
    "positives twice": (
        ("num_images: 50", "positives: [join, join]"),
        "recipes/x.yaml:11: data.positives: must name each mode once, got ['join', 'join']",
    ),
    "positives that are no list": (
        ("num_images: 50", "positives: join"),
        "recipes/x.yaml:11: data.positives: must be a valid list, got 'join'",
    ),
    "unknown literal": (
        ("  epochs: 3", "  optimizer: adamww\n  epochs: 3"),
        "recipes/x.yaml:13: run.optimizer: unknown value 'adamww'; did you mean 'adamw'?",
    ),
    "unknown schedule": (
        ("type: cosine", "type: cosin"),
        "recipes/x.yaml:17: run.schedule.type: unknown value 'cosin'; did you mean 'cosine'?",
    ),
    "schedule without a type": (
        ("    type: cosine\n", ""),
        "recipes/x.yaml:16: run.schedule.type: required key is missing",
    ),
    "two warm-ups": (
        ("    warmup_epochs: 1", "    warmup_epochs: 1\n    warmup_steps: 5"),
        "recipes/x.yaml:16: run.schedule: set one of warmup_steps and warmup_epochs, not both",
    ),
    "unknown method": (
        ("method: clip", "method: vse_infinty"),
        "recipes/x.yaml:2: model.method: unknown value 'vse_infinty'; did you mean 'vse_infinity'?",
    ),
    "unknown tower": (
        ("type: convnet", "type: convnext"),
        "recipes/x.yaml:4: model.image_tower.type: unknown value 'convnext'; did you mean 'convnet'?",
    ),
    "unknown argument": (
        ("    depth: 2", "    dept: 2"),
        "recipes/x.yaml:7: model.text_tower.dept: unknown argument of 'transformer'; did you mean 'depth'?",
    ),
    "argument that the builder gives": (
        ("    depth: 2", "    name: x"),
        "recipes/x.yaml:7: model.text_tower.name: unknown argument of 'transformer'; "
        "choose from depth, pooling, rate, final, type",
    ),
    "argument that follows from other parts": (
        ("    depth: 2", "    vocabulary_size: 9"),
        "recipes/x.yaml:7: model.text_tower.vocabulary_size: remove it: 'transformer' is given it by the data, "
        "tokenizer or image converter",
    ),
    "missing argument": (
        (", channels: [8, 16]", ""),
        "recipes/x.yaml:4: model.image_tower.channels: required argument of 'convnet' is missing",
    ),
    "wrong type of an argument": (
        ("    depth: 2", "    depth: deep"),
        "recipes/x.yaml:7: model.text_tower.depth: must be an integer or null, got 'deep'",
    ),
    "unknown argument of the method": (
        ("  embedding_dim: 32", "  embedding_dim: 32\n  arguments:\n    csa_wieght: 0.2"),
        "recipes/x.yaml:5: model.arguments.csa_wieght: unknown argument of 'clip'; did you mean 'csa_weight'?",
    ),
    "unknown plug-in": (
        ("  embedding_dim: 32", "  embedding_dim: 32\n  plugins:\n  - {type: soft_labels}"),
        "recipes/x.yaml:5: model.plugins.0.type: unknown value 'soft_labels'; did you mean 'soft_label_alignment'?",
    ),
    "unknown argument of the tokenizer": (
        ("min_count: 2", "mincount: 2"),
        "recipes/x.yaml:8: model.tokenizer.mincount: unknown argument of 'word'; did you mean 'min_count'?",
    ),
    "unknown argument of the image converter": (
        ("  embedding_dim: 32", "  embedding_dim: 32\n  image_converter: {size: [8, 8]}"),
        "recipes/x.yaml:4: model.image_converter.size: unknown argument of the image converter; choose from image_size",
    ),
    "unknown reader": (
        ("source: shapes", "source: shape"),
        "recipes/x.yaml:10: data.source: unknown value 'shape'; did you mean 'shapes'?",
    ),
    "unknown key of the data": (
        ("num_images: 50", "captions_per_imge: 2"),
        "recipes/x.yaml:11: data.captions_per_imge: unknown argument of 'shapes'; did you mean 'captions_per_image'?",
    ),
    "missing argument of the reader": (
        ("source: shapes\n  num_images: 50", "source: precomputed"),
        "recipes/x.yaml:9: data.directory: required argument of 'precomputed' is missing",
    ),
    "Python tag": (
        ("epochs: 3", "epochs: !!python/object/apply:os.system ['true']"),
        "recipes/x.yaml:13: YAML tag !!python/object/apply:os.system is not allowed; write a plain value",
    ),
    "own tag": (
        ("epochs: 3", "epochs: !three 3"),
        "recipes/x.yaml:13: YAML tag !three is not allowed; write a plain value",
    ),
    "alias": (
        ("epochs: 3\n  batch_size: 16", "epochs: &n 3\n  batch_size: *n"),
        "recipes/x.yaml:14: YAML alias *n is not allowed; write the value out",
    ),
    "key written twice": (
        ("  batch_size: 16", "  epochs: 16"),
        "recipes/x.yaml:14: run.epochs: written twice, first at recipes/x.yaml:13",
    ),
    "key that is not text": (
        ("  batch_size: 16", "  16: 16"),
        "recipes/x.yaml:14: keys are text, got '16'; quote it",
    ),
    "tab": (
        ("  epochs: 3", "\tepochs: 3"),
        "recipes/x.yaml:13: not valid YAML: found character '\\t' that cannot start any token",
    ),
    "unfinished list": (
        ("channels: [8, 16]}", "channels: [8, 16}"),
        "recipes/x.yaml:4: not valid YAML: expected ',' or ']', but got '}'",
    ),
    "two documents": (
        ("data:", "---\ndata:"),
        "recipes/x.yaml:9: not valid YAML: but found another document",
    ),
    "control character": (
        ("epochs: 3", "epochs: \x07"),
        "recipes/x.yaml:13: not valid YAML: special characters are not allowed",
    ),
}


@pytest.mark.parametrize(("change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(recipe_folder, change, message):
    assert change[0] in RECIPE
    write("x.yaml", RECIPE.replace(*change, 1))
    with pytest.raises(RecipeError) as caught:
        load()
    assert str(caught.value) == message


FILES = {
    "empty": ("# nothing\n", "recipes/x.yaml:1: the recipe is empty; it needs the keys model, data and run"),
    "list": ("- 1\n", "recipes/x.yaml:1: a recipe is a mapping with the keys model, data and run, not a sequence"),
    "extends a missing file": (
        "run: {epochs: 1}\nextends: bsae.yaml\n",
        "recipes/x.yaml:2: extends: no such file recipes/bsae.yaml; did you mean 'recipes/base.yaml'?",
    ),
    "extends two files": (
        "extends: [a.yaml, b.yaml]\n",
        "recipes/x.yaml:1: extends: must be the path of one other recipe, got ['a.yaml', 'b.yaml']",
    ),
    "extends itself": (
        "extends: cycle.yaml\n",
        "recipes/cycle.yaml:1: extends: a recipe cannot extend itself: "
        "recipes/x.yaml -> recipes/cycle.yaml -> recipes/x.yaml",
    ),
    "fault in the other file": (
        "extends: broken.yaml\nrun:\n  epochs: 1\n",
        "recipes/broken.yaml:4: run.batchsize: unknown key; did you mean 'batch_size'?",
    ),
    "argument missing in this file's tower": (
        "extends: base.yaml\nmodel:\n  text_tower: {type: transformer}\n  image_tower:\n    type: transformer\n"
        "    channels: 3\n",
        "recipes/x.yaml:6: model.image_tower.channels: unknown argument of 'transformer'; "
        "choose from depth, pooling, rate, final, type",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_malformed_files(recipe_folder, text, message):
    write("base.yaml", RECIPE)
    write("cycle.yaml", "extends: x.yaml\n")
    write("broken.yaml", "extends: base.yaml\nrun:\n  clip_norm: 2.0\n  batchsize: 4\n")
    write("x.yaml", text)
    with pytest.raises(RecipeError) as caught:
        load()
    assert str(caught.value) == message


OVERRIDES = {
    "run.epocks=3": "--set run.epocks=3: run.epocks: unknown key; did you mean 'epochs'?",
    "run.epochs=many": "--set run.epochs=many: run.epochs: must be a valid integer, got 'many'",
    "run.epochs.x=3": "--set run.epochs.x=3: run.epochs: must be a valid integer, got {'x': 3}",
    "rum.epochs=3": "--set rum.epochs=3: rum: unknown key; did you mean 'run'?",
    "model.plugins=[{type: x}]": "--set model.plugins=[{type: x}]: model.plugins.0.type: unknown value 'x'; "
    "choose from soft_label_alignment",
    "run=3": "--set run=3: run: must be a mapping, got 3",
    "run.epochs": "--set run.epochs: write it as --set key=value, for example --set run.epochs=3",
    "run..epochs=3": "--set run..epochs=3: write it as --set key=value, for example --set run.epochs=3",
    "run.epochs=[3": "--set run.epochs=[3: not valid YAML: expected ',' or ']', but got '<stream end>'",
    "run.epochs=!!int 3": "--set run.epochs=!!int 3: YAML tag !!int is not allowed; write a plain value",
}


@pytest.mark.parametrize(("override", "message"), OVERRIDES.items(), ids=OVERRIDES)
def test_malformed_overrides(recipe_folder, override, message):
    write("x.yaml", RECIPE)
    with pytest.raises(RecipeError) as caught:
        load("x.yaml", override)
    assert str(caught.value) == message


def test_an_argument_missing_after_a_replaced_tower_is_placed_in_the_file_that_replaced_it(recipe_folder):
    write("base.yaml", RECIPE.replace("type: convnet, channels: [8, 16]", "type: transformer"))
    write("x.yaml", "extends: base.yaml\n\nmodel:\n  image_tower:\n    type: convnet\n")
    with pytest.raises(RecipeError, match=r"^recipes/x.yaml:4: model.image_tower.channels: required argument"):
        load()
    write("base.yaml", RECIPE)
    write("x.yaml", "extends: base.yaml\nrun:\n  schedule: {type: step, final: 1}\n")
    with pytest.raises(RecipeError, match=r"^recipes/x.yaml:3: run.schedule.final: unknown key"):
        load()


def test_an_override_does_not_move_its_section(recipe_folder):
    write("x.yaml", RECIPE.replace("  batch_size: 16\n", ""))
    with pytest.raises(RecipeError, match=r"^recipes/x.yaml:12: run.batch_size: required key"):
        load("x.yaml", "run.epochs=3")


def test_a_shorter_list_replaces_a_longer_one(recipe_folder):
    write("base.yaml", RECIPE + "\n")
    write("x.yaml", "extends: base.yaml\nmodel: {image_tower: {channels: [4]}}\n")
    assert load().model.image_tower.arguments == {"channels": [4]}


def test_a_missing_file_suggests_its_neighbour(recipe_folder):
    write("cusa_shapes.yaml", RECIPE)
    with pytest.raises(RecipeError) as caught:
        load("cusa_shape.yaml")
    assert str(caught.value) == "no such file recipes/cusa_shape.yaml; did you mean 'recipes/cusa_shapes.yaml'?"


def test_a_file_that_is_not_text(recipe_folder):
    (recipe_folder / "x.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(RecipeError, match=r"^recipes/x.yaml: cannot be read as text: .*can't decode byte 0xff"):
        load()


VIEWS = """\
model:
  method: clip
  embedding_dim: 4
  image_tower: {type: region, embedding_dim: 4}
  text_tower: {type: transformer, embedding_dim: 4, num_layers: 1, num_heads: 1}
  tokenizer: {type: word, sequence_length: 8}
data: {source: shapes, region_dropout: 0.5, word_dropout: 0.5, second_view: true}
run: {epochs: 1, batch_size: 4, learning_rate: 1e-4}
"""
SENTENCES = "model.text_tower={type: sentence_feature, embedding_dim: 4}"


def pipeline_of(*overrides):
    write("views.yaml", VIEWS)
    registries = default_registries()
    recipe = load_recipe("recipes/views.yaml", overrides, registries=registries)
    table = RetrievalTable(
        {"regions": np.ones((4, 5, 3), "float32"), "images": np.zeros((4, 16, 16, 3), "uint8")},
        {"text": ["a red hat on a man"] * 8, "text_features": np.ones((8, 3), "float32")},
        np.arange(8) // 2,
    )
    return build_pipeline(recipe, build_model(recipe, table, registries), table)


def test_size_augmentation_and_second_views_are_set_in_the_recipe(recipe_folder):
    def keys(*overrides):
        return set(pipeline_of(*overrides).dataset(epochs=1).element_spec)

    both = {"regions", "region_mask", "token_ids", "padding_mask", "image_id"}
    views = {"region_mask_view2", "token_ids_view2", "padding_mask_view2"}
    assert keys() == both | views
    assert keys("data.second_view=false") == both
    assert keys("data.second_view=false", "data.region_dropout=0") == both - {"region_mask"}
    assert keys("data.word_dropout=0") == both | {"region_mask_view2"}
    assert keys("data.word_dropout=0", SENTENCES) == {
        "regions",
        "region_mask",
        "region_mask_view2",
        "text_features",
        "image_id",
    }


def test_positives_and_shuffled_negatives_are_set_in_the_recipe(recipe_folder):
    both = ("data.positives=[join, truncate]", "data.shuffled_negatives=true", "run.seed=3")
    pipeline = pipeline_of(*both)
    assert isinstance(pipeline.positives, AsymmetryPositives)
    assert (pipeline.positives.modes, pipeline.positives.probabilities) == (("join", "truncate"), (0.5, 0.5))
    shuffle = pipeline.augmentations[-2]
    assert isinstance(shuffle, ShuffleWords) and isinstance(pipeline.augmentations[-1], WordDropout)
    assert pipeline.seed == pipeline.positives.seed == shuffle.seed == 3
    added = set(pipeline.dataset(epochs=1).element_spec) - set(pipeline_of().dataset(epochs=1).element_spec)
    assert added == {
        "positive_token_ids",
        "positive_padding_mask",
        "negative_token_ids",
        "negative_padding_mask",
    }
    single = pipeline_of("data.positives=[truncate]").positives
    assert (single.modes, single.probabilities) == (("truncate",), (1.0,))
    assert pipeline_of().positives is None


def test_the_words_of_negatives_are_not_dropped(recipe_folder):
    pipeline = pipeline_of("data.shuffled_negatives=true", "data.word_dropout=0.9")
    tokenizer = pipeline.preprocessor.tokenizer
    batch = next(iter(pipeline.dataset(epochs=1)))
    for ids in batch["negative_token_ids"].numpy():
        assert sorted(tokenizer.detokenize(ids).split()) == ["a", "a", "hat", "man", "on", "red"]


MISPLACED = {
    "no tokenizer": (
        (SENTENCES, "model.tokenizer=null"),
        "data.word_dropout: needs model.tokenizer and a text tower that reads its tokens; set it to 0.",
    ),
    "unread tokens": (
        (SENTENCES,),
        "data.word_dropout: needs model.tokenizer and a text tower that reads its tokens; set it to 0.",
    ),
    "positives of unread tokens": (
        (SENTENCES, "data.word_dropout=0", "data.positives=[join]"),
        "data.positives: needs model.tokenizer and a text tower that reads its tokens; set it to [].",
    ),
    "negatives of unread tokens": (
        (SENTENCES, "data.word_dropout=0", "data.shuffled_negatives=true"),
        "data.shuffled_negatives: needs model.tokenizer and a text tower that reads its tokens; set it to false.",
    ),
    "no regions": (
        (
            "model.image_tower={type: convolutional, filters: [4], embedding_dim: 4}",
            "model.image_converter={image_size: [16, 16]}",
        ),
        "data.region_dropout: the image tower reads no regions; set it to 0.",
    ),
    "nothing that differs": (
        ("data.word_dropout=0", "data.region_dropout=0"),
        "second_view: nothing makes it differ from the first; add random_crop or an augmentation, such as "
        "RegionDropout or WordDropout.",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), MISPLACED.values(), ids=MISPLACED)
def test_an_augmentation_of_what_is_not_read_is_an_error(recipe_folder, overrides, message):
    with pytest.raises(ValueError) as caught:
        pipeline_of(*overrides)
    assert str(caught.value) == message


def test_sections_are_documented():
    for name, field in Recipe.model_fields.items():
        assert field.annotation.__doc__, name
