import numpy as np
import pytest
from support import draw

from keras_itr.data import RetrievalTable


def table(**changes):
    arguments = {
        "image_columns": {"regions": draw(3, 2, 4)},
        "caption_columns": {"text": ["a", "b", "c", "d"], "teacher_text": draw(4, 5)},
        "caption_to_image": [1, 0, 0, 2],
        **changes,
    }
    return RetrievalTable(**arguments)


def test_counts_and_defaults():
    rows = table()
    assert (rows.num_images, rows.num_captions, list(rows.captions)) == (3, 4, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(rows.image_ids, [0, 1, 2])


def test_subset_keeps_the_captions_of_its_images():
    truth = np.eye(3, 4, dtype=bool)
    part = table(relevance=lambda: truth).subset(2)
    assert list(part.captions) == ["a", "b", "c"] and part.num_images == 2
    np.testing.assert_array_equal(part.caption_to_image, [1, 0, 0])
    np.testing.assert_array_equal(part.relevance(), truth[:2, :3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_columns": {"region": draw(3, 2, 4)}}, "data: unknown image column 'region'; did you mean regions?"),
        ({"caption_columns": {}}, "data: no caption column; give at least one of text, text_features, teacher_text."),
        ({"caption_to_image": [0, 1, 2]}, "data: text has 4 rows for 3 captions."),
        ({"caption_to_image": [0, 1, 1, 3]}, "data: caption 3 belongs to image 3, but there are only 3 images."),
        ({"caption_to_image": [0, 1, 1, 1]}, "data: image 2 has no caption."),
        ({"caption_columns": {"text": ["a", " ", "c", "d"]}}, "data: caption 1 is empty."),
        (
            {"image_columns": {"regions": draw(3, 2, 4), "teacher_image": draw(2, 4)}},
            "data: teacher_image has 2 rows for 3 images.",
        ),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError) as caught:
        table(**changes)
    assert str(caught.value) == message
