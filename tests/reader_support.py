"""What the tests of the readers share: random annotations, and errors that must be one line."""

import numpy as np
import pytest

LETTERS = "ab Zé猫🙂\"',;:#|\\{}%0"


def random_images(seed, letters=LETTERS, count=12):
    """dict of image name to its one to six random captions."""
    rng = np.random.default_rng(seed)
    return {
        f"{number:04d}.jpg": ["x" + "".join(rng.choice(list(letters), 9)) for _ in range(rng.integers(1, 7))]
        for number in rng.permutation(count)
    }


def grouped(table):
    """dict of image name to its captions, of a table."""
    images = {name: [] for name in table.image_names}
    for image, caption in zip(table.caption_to_image, table.captions, strict=True):
        images[table.image_names[image]].append(caption)
    return images


def touch(folder, names):
    """Empty files, enough for a reader that only looks whether photos are there."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def message_of(function, *arguments, **keywords):
    """The message of the one-line ValueError or FileNotFoundError that a call must raise."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        function(*arguments, **keywords)
    # A decoding error is a ValueError too, but names no file.
    assert not isinstance(caught.value, UnicodeError)
    assert "\n" not in str(caught.value)
    return str(caught.value)
