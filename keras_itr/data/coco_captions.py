from keras_itr.data.annotation_collector import AnnotationCollector
from keras_itr.data.annotations import build_table
from keras_itr.data.file_pattern import FilePattern
from keras_itr.data.messages import place
from keras_itr.data.text_files import json_field, json_objects, read_json


def load_coco_captions(
    split,
    directory,
    annotations="captions_{split}.json",
    images=None,
    features=None,
    max_regions=None,
    region_boxes=None,
    text_features=None,
    teacher_image=None,
    teacher_text=None,
    image_global=None,
):
    """The official COCO captions JSON: one file per split.

    `images` has `id` and `file_name`, `annotations` has `id`, `image_id` and
    `caption`. Images without a caption are left out.

    Args:
        split: string; what stands for `{split}` in the patterns.
        directory: folder of the data.
        annotations: pattern of the JSON file, such as
            `"annotations/captions_{split}2017.json"`. Defaults to
            `"captions_{split}.json"`.
        images, features, max_regions, region_boxes, text_features, teacher_image,
            teacher_text, image_global: what else the table holds, see `build_table`.

    Returns:
        A `RetrievalTable`: images in the order of `images`, captions in that of
        `annotations`; a caption's id is that of its annotation.

    Raises:
        MissingData: names all files and folders that are absent.
        ValueError: for a file that is not as described, in one line with the
            JSON path.

    Example:

    ```python
    from keras_itr.data import load_coco_captions

    table = load_coco_captions("val", "coco", "annotations/captions_{split}2017.json", images="{split}2017")
    ```

    Reference: Chen et al., Microsoft COCO Captions, 2015.
    """
    path = FilePattern("annotations", annotations, directory, split, per_image=False).path
    columns = (images, features, max_regions, region_boxes, text_features, teacher_image, teacher_text, image_global)
    return build_table(lambda: collect_annotations(path), directory, split, *columns, needs=[path])


def is_coco_captions(path):
    """Whether a `.json` has the official layout of COCO's captions, and not Karpathy's."""
    return "annotations" in read_json(path)


def collect_annotations(path):
    document = read_json(path)
    _check_layout(path, document)
    collector = AnnotationCollector(path)
    names = _image_names(document, path, collector)
    captions = list(_captions(document, path, names))
    captioned = {image for _, image, _, _ in captions}
    if not captioned:
        raise ValueError(f"{path}: no caption in 'annotations'.")
    row_of = {image: collector.add_image(name) for image, name in names.items() if image in captioned}
    for where, image, number, caption in captions:
        collector.add_caption(row_of[image], caption, str(number), where)
    return collector.finish()


def _image_names(document, path, collector):
    """dict from image id to file name, in the order of the file."""
    names = {}
    for where, entry in json_objects(document, "images", path):
        number = json_field(entry, "id", (int, str), path, where)
        if number in names:
            raise ValueError(f"{place(path, where)}: image id {number!r} stands twice; keep one.")
        names[number] = json_field(entry, "file_name", str, path, where)
        collector.claim(names[number], f"{where}.file_name")
    return names


def _captions(document, path, names):
    """`(where, image id, caption id, caption)` of every annotation."""
    for where, entry in json_objects(document, "annotations", path):
        image = json_field(entry, "image_id", (int, str), path, where)
        if image not in names:
            raise ValueError(f"{place(path, where)}: image_id {image!r} is none of the {len(names)} ids in 'images'.")
        number = json_field(entry, "id", (int, str), path, where)
        yield where, image, number, json_field(entry, "caption", str, path, where)


def _check_layout(path, document):
    """Says what the file is, where it is a well-known other one."""
    first = {key: (document.get(key) or [None])[0] for key in ("images", "annotations") if _is_list(document, key)}
    image, annotation = first.get("images"), first.get("annotations")
    if isinstance(image, dict) and "sentences" in image:
        raise ValueError(
            f"{path}: has Karpathy's layout (images with sentences); read it with load_karpathy, that is "
            "data.source: karpathy."
        )
    if isinstance(annotation, dict) and "caption" not in annotation and "category_id" in annotation:
        raise ValueError(f"{path}: holds objects (instances or keypoints), no captions; name the captions_*.json file.")
    if isinstance(image, dict) and "annotations" not in document:
        raise ValueError(f"{path}: lists images only (an image_info file), no captions; name the captions_*.json file.")


def _is_list(document, key):
    return isinstance(document.get(key), list)
