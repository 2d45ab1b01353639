from pathlib import Path

from keras_itr.data import extract_caption_features, extract_features
from keras_itr.data.caption_extraction import captions_of, write_caption_rows
from keras_itr.data.extraction import content_digest, write_rows
from keras_itr.data.feature_extraction import photos_of
from keras_itr.models.from_preset import from_preset
from keras_itr.models.preset_index import is_retriever, read_index
from keras_itr.training.builders import load_table
from keras_itr.training.recipe import load_recipe
from keras_itr.training.recipe_loading import RecipeError
from keras_itr.training.registries import default_registries
from keras_itr.training.teacher_files import teacher_files


def make_teachers(
    source,
    text_encoder=None,
    image_encoder=None,
    output=None,
    split="train",
    images=None,
    overrides=(),
    data_dir=None,
    cleaning=None,
    image_weights="imagenet",
    image_size=(256, 256),
    batch_size=64,
    dtype="float16",
    verbose=True,
):
    """The frozen teachers of CUSA: features of captions and of photos, in the files that recipes read.

    Rows are memory-mapped, ids stand beside them, and a run that was killed goes on where it was: see
    `keras_itr.data.extract_caption_features` and `keras_itr.data.extract_features`.

    Args:
        source: path of a recipe (`.yaml`): its captions and photos, into the files that its `data.teacher_text` and
            `data.teacher_image` name; or an annotation file or a folder of photos, into `output`.
        text_encoder: a sentence encoder, see `keras_itr.data.SentenceEncoder`; or a preset of this package, whose text
            tower embeds the captions. None (default): no text teacher.
        image_encoder: a network of `keras.applications` or a class of keras-hub, whose map is averaged; or a preset of
            this package, whose image tower embeds the photos. None (default): no image teacher.
        output: the `.npy` to write, where `source` is no recipe.
        split: string, the split of a recipe or an annotation file, default `"train"`: only training reads teachers.
            Of a recipe it is the name that its `data.train` gives.
        images: folder of the photos, where the recipe names none; of an annotation file, default its own folder.
        overrides: sequence of `"dotted.key=value"`, of a recipe.
        data_dir: folder that the recipe's `data.directory` is relative to.
        cleaning: style of `clean_caption`; None (default) is that of the recipe's tokenizer if it names one, such as
            `"cusa"` in the recipes of the paper, and otherwise `"none"`.
        image_weights: of a network, see `keras_itr.layers.build_image_network`; default `"imagenet"`.
        image_size: pair of ints, of a network, default `(256, 256)`.
        batch_size: int, captions or photos at a time, default 64.
        dtype: `"float16"` (default) or `"float32"`.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        dict of `"text"` `(T, D)` and `"image"` `(N, D)`, memory-mapped arrays, those that were asked for.

    Raises:
        ValueError: if no encoder is given, the recipe names no file for a teacher, or one that was made by other means,
            or an encoder cannot be had.
        MissingData: names the files of the data set that are not there.

    Example:

    ```python
    from keras_itr.training import make_teachers

    make_teachers("recipes/cusa_coco1k.yaml", "all_minilm_l6_v2_en", "MobileNetV2", data_dir="data")
    ```

    Reference: Huang et al., CUSA, AAAI 2024: a sentence encoder and an image network, both frozen. The vectors for
    search within a modality are taken, where a preset has such (our choice).
    """
    encoders = {"text": text_encoder, "image": image_encoder}
    encoders = {side: str(encoder) for side, encoder in encoders.items() if encoder is not None}
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be 'float16' or 'float32', received {dtype!r}.")
    if not encoders:
        raise ValueError("give text_encoder, image_encoder or both: there is nothing to make.")
    if Path(source).suffix in (".yaml", ".yml"):
        source, outputs, recipe_cleaning = _of_recipe(source, encoders, output, split, overrides, data_dir)
        cleaning = cleaning or recipe_cleaning
    else:
        outputs = _of_file(encoders, output)
    options = {"batch_size": batch_size, "dtype": dtype, "verbose": verbose}
    # Both are looked at before either side's work begins.
    encoders = {side: _Embedder(name, side) if _is_retriever(name) else name for side, name in encoders.items()}
    rows = {}
    if "text" in encoders:
        rows["text"] = _texts(source, split, encoders["text"], outputs["text"], cleaning or "none", options)
    if "image" in encoders:
        network = {"weights": image_weights, "image_size": image_size}
        rows["image"] = _images(source, split, images, encoders["image"], outputs["image"], network, options)
    return rows


def _of_recipe(path, encoders, output, split, overrides, data_dir):
    """The table of a recipe's split, without teachers, the file of each of them, and how captions are cleaned."""
    if output is not None:
        raise ValueError(f"{path}: a recipe names the files of its teachers itself; leave output out.")
    registries = default_registries()
    recipe = load_recipe(path, overrides, registries=registries)
    split = recipe.data.train if split == "train" else split
    files = teacher_files(recipe.data, split, data_dir)
    for side in encoders:
        if side not in files:
            raise RecipeError(f"{path}: data.teacher_{side} names no file for the {side} teacher.")
        if files[side].exists() and not files[side].with_suffix(".json").exists():
            raise ValueError(f"{files[side]}: is there and was made by other means; move it away to make it anew.")
    tokenizer = recipe.model.tokenizer
    return load_table(recipe, split, registries, data_dir), files, tokenizer and tokenizer.arguments.get("cleaning")


def _of_file(encoders, output):
    if len(encoders) > 1 or output is None:
        raise ValueError("an annotation file or a folder needs one encoder and output, the .npy to write.")
    return {side: output for side in encoders}


def _texts(source, split, encoder, output, cleaning, options):
    if not isinstance(encoder, _Embedder):
        return extract_caption_features(source, output, encoder, split, cleaning, **options)
    captions, names = captions_of(source, split)
    return write_caption_rows(output, captions, names, lambda: encoder, encoder.settings, cleaning, **options)


def _images(source, split, images, encoder, output, network, options):
    if not isinstance(encoder, _Embedder):
        return extract_features(source, output, encoder, pooled=True, images=images, split=split, **network, **options)
    names, paths = photos_of(source, images, split)
    return write_rows(output, paths, names, encoder, encoder.settings, **options)


class _Embedder:
    """One side of a preset as a function of a list of captions or paths."""

    def __init__(self, preset, side):
        self.model = from_preset(preset, load_weights=True)
        needed = getattr(self.model.backbone, f"{side}_tower").input_key
        if needed not in ("images", "token_ids"):
            raise ValueError(f"preset {preset!r} cannot be the {side} teacher: its {side} tower reads {needed!r}.")
        self.method = f"embed_{side}s"
        self.settings = {"preset": content_digest(preset)}

    def __call__(self, batch):
        embed = getattr(self.model, self.method)
        return embed(list(batch), cross_modal=not self.model.uni_modal, batch_size=len(batch), verbose=False)


def _is_retriever(source):
    """Whether this is a preset of the package: one of its names, or a directory that one of its retrievers wrote."""
    return is_retriever(source) or source in read_index()
