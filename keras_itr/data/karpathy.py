import os

from keras_itr.data.annotation_collector import AnnotationCollector
from keras_itr.data.annotations import build_table
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.messages import choose, place
from keras_itr.data.text_files import json_field, json_objects, read_json


def load_karpathy(
    split,
    directory,
    annotations="dataset.json",
    images=None,
    features=None,
    max_regions=None,
    region_boxes=None,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
    restval=True,
):
    """Karpathy's `dataset_*.json` of COCO, Flickr30K and Flickr8K: all splits in one file.

    Every entry of `images` has `filename`, `split` and `sentences`, each of which
    has `raw` and mostly `sentid`, the caption's id. Where an entry has
    `filepath`, its photo lies at `filepath/filename` or at `filename`.

    Args:
        split: string, such as `"train"`, `"val"`, `"test"`.
        directory: folder of the data.
        annotations: pattern of the JSON file. Defaults to `"dataset.json"`.
        images, features, max_regions, region_boxes, text_features, teacher_image,
            teacher_text, image_global: what else the table holds, see `build_table`.
        restval: bool, whether `"train"` also takes COCO's `"restval"`, as
            published results do. Defaults to True.

    Returns:
        A `RetrievalTable`: images and captions in the order of the file.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for a file that is not as described, in one line with the
            JSON path; for an unknown split, with those there are.

    Example:

    ```python
    from keras_itr.data import load_karpathy

    table = load_karpathy("val", "coco", "dataset_coco.json", images="images")
    ```

    Reference: Karpathy and Fei-Fei, CVPR 2015.
    """
    path = FilePattern("annotations", annotations, directory, split, per_image=False).path
    columns = (images, features, max_regions, region_boxes, text_features, teacher_image, teacher_text, image_global)
    return build_table(lambda: collect_annotations(path, split, restval), directory, split, *columns, needs=[path])


def collect_annotations(path, split, restval):
    document = read_json(path)
    if "annotations" in document:
        raise ValueError(
            f"{path}: has the layout of COCO's own files; read its captions with load_coco_captions, that is "
            "data.source: coco_captions."
        )
    wanted = {split, "restval"} if split == "train" and restval else {split}
    collector, splits = AnnotationCollector(path), {}
    for where, entry in json_objects(document, "images", path):
        name = json_field(entry, "filename", str, path, where)
        # Also of other splits: a photo that is in two of them would be trained on and tested with.
        collector.claim(name, f"{where}.filename")
        of_split = json_field(entry, "split", str, path, where)
        splits[of_split] = True
        if of_split in wanted:
            _add_image(collector, path, where, name, entry)
    if not wanted & set(splits):
        raise ValueError(f"{path}: no image of split {split!r}; {choose('splits', split, splits)}")
    return collector.finish()


def _add_image(collector, path, where, name, entry):
    folder = json_field(entry, "filepath", str, path, where, default="")
    if folder:
        collector.check_path(folder, f"{where}.filepath")
    image = collector.add_image(name, os.path.join(folder, name))
    sentences = list(json_objects(entry, "sentences", path, where))
    if not sentences:
        raise ValueError(f"{place(path, f'{where}.sentences')}: image {name!r} has no sentence; leave the image out.")
    for here, sentence in sentences:
        caption = json_field(sentence, "raw", str, path, here)
        number = json_field(sentence, "sentid", (int, str), path, here, default=None)
        collector.add_caption(image, caption, None if number is None else str(number), here)
