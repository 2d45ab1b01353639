"""Token ids with vocabularies of full size, on hard captions and, where they are at hand, on real ones."""

import gzip
import os
import pathlib

import keras
import numpy as np
import pytest
from tokenizer_support import clip_reference, hard_captions, wordpiece_reference

import keras_itr.preprocessing
from keras_itr.data import load_shapes
from keras_itr.preprocessing import CLIPTokenizer, WordPieceTokenizer
from keras_itr.preprocessing.byte_pairs import openai_merges

ASSETS = pathlib.Path(keras_itr.preprocessing.__file__).parent / "assets"
DATA = os.environ.get("KERAS_ITR_DATA", "")
CAPTIONS = [pathlib.Path(DATA, f"flickr8k/{split}_caps.txt") for split in ("train", "dev")]


def bert_vocabulary():
    """BERT's uncased list, of the package or of the data folder."""
    for path in [*ASSETS.glob("*uncased*.txt*"), pathlib.Path(DATA, "bert/vocab.txt")]:
        if path.is_file() and "LICENSE" not in path.name:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="\n") as file:
                return file.read().removesuffix("\n").split("\n")
    pytest.skip("needs BERT's vocabulary in the package, or as bert/vocab.txt in the folder KERAS_ITR_DATA")


def clip():
    return CLIPTokenizer(), clip_reference(openai_merges())


def wordpiece():
    vocabulary = bert_vocabulary()
    return WordPieceTokenizer(vocabulary), wordpiece_reference(vocabulary, 64)


def share_equal(tokenizer, reference, captions):
    equal = []
    for start in range(0, len(captions), 1000):
        batch = captions[start : start + 1000]
        ids = keras.ops.convert_to_numpy(tokenizer(batch))
        equal.append((ids == reference(batch)).all(axis=1))
    return np.concatenate(equal).mean()


@pytest.mark.parametrize("make", [clip, wordpiece])
def test_hard_captions(make):
    captions = hard_captions(load_shapes("val", num_scenes=200).captions)
    assert len(captions) == 2000 and captions == hard_captions(load_shapes("val", num_scenes=200).captions)
    assert share_equal(*make(), captions) >= 0.999


@pytest.mark.skipif(not all(map(pathlib.Path.is_file, CAPTIONS)), reason="needs flickr8k in the folder KERAS_ITR_DATA")
@pytest.mark.parametrize("make", [clip, wordpiece])
def test_real_captions(make):
    captions = [line for path in CAPTIONS for line in path.read_text(encoding="utf-8").splitlines()]
    assert share_equal(*make(), captions) >= 0.999
    assert share_equal(*make(), hard_captions(captions)) >= 0.999
