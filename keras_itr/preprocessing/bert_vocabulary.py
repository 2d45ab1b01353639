"""The vocabulary of BERT, uncased, which comes with the package."""

import functools
import pathlib

BERT_UNCASED = "bert_uncased"
_FILE = pathlib.Path(__file__).parent / "assets" / "bert_uncased_vocabulary.txt"
_SIZE = 30_522


@functools.cache
def bert_uncased_vocabulary():
    """The pieces of BERT base, uncased, in English: tuple of 30,522 `str`, the position being the id."""
    return tuple(_FILE.read_text(encoding="utf-8").removesuffix("\n").split("\n"))


def is_bert_uncased(vocabulary):
    """bool: whether a vocabulary is that of BERT, uncased. The file is not read for one of another size."""
    return vocabulary is not None and len(vocabulary) == _SIZE and vocabulary == bert_uncased_vocabulary()
