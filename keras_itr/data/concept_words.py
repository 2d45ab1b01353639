"""Which words of the captions are concepts, and how often they stand together."""

import sys
from collections import Counter

import numpy as np

from keras_itr.data.messages import choose
from keras_itr.preprocessing import clean_caption
from keras_itr.progress import SlowBar

CLASSES = ("object", "property", "motion")
_AT_ONCE = 10_000
# Function words and numbers of English captions: they are frequent and name nothing.
_STOP_WORDS = """
    a about above across after against all along also am an and another any anything are around as at away back be
    because been before behind being below beneath beside besides between both but by can could did do does doing
    done down during each either else etc even every everything few for from front get gets getting go goes going had
    has have having he her here hers herself him himself his how i if in inside instead into is it its itself just
    like lot lots made make makes many may me might more most much must my near next no nor not nothing of off on
    once one ones only onto or other others our out outside over own part per quite rather s same several shall she
    should side so some someone something such than that the their theirs them themselves then there these they thing
    things this those through to together too top toward towards two under underneath until up upon us use used uses
    using various very was way we well were what when where which while who whom whose why will with within without
    would yet you your zero three four five six seven eight nine ten n't 's 're 've 'll 'd 'm
    """


def words_of(captions, cleaning, verbose=False):
    """The set of words of every caption, cut as `WordTokenizer` cuts them."""
    captions = [str(caption) for caption in captions]
    bar = SlowBar(len(captions), verbose)
    for start in range(0, len(captions), _AT_ONCE):
        for cleaned in clean_caption(captions[start : start + _AT_ONCE], cleaning):
            # One object per word, not per occurrence: COCO has six million of them.
            yield set(map(sys.intern, cleaned.split()))
        bar.update(min(start + _AT_ONCE, len(captions)))


def choose_concepts(word_sets, num_concepts, quotas, pos_fn):
    """The most frequent content words.

    Frequency is the number of captions, ties go by the alphabet.

    Args:
        word_sets: list of sets of words, one per caption.
        num_concepts: int, the most concepts.
        quotas: three ints, the most objects, properties and motions; only with
            `pos_fn`, and their sum is then `num_concepts`.
        pos_fn: function of a word to one of `CLASSES`, or None for any other
            word; or None.

    Returns:
        concepts, list of words, and their classes, list of strings, empty ones
        without `pos_fn`.
    """
    counts = Counter(word for words in word_sets for word in words)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if pos_fn is None:
        stop_words = set(_STOP_WORDS.split())
        chosen = [word for word in ranked if word not in stop_words and not word.isnumeric()][:num_concepts]
        return chosen, [""] * len(chosen)
    if sum(quotas) != num_concepts or len(quotas) != len(CLASSES) or min(quotas) < 0:
        raise ValueError(f"quotas must be three numbers that make num_concepts {num_concepts}, received {quotas}.")
    class_of = {word: pos_fn(word) for word in ranked}
    unknown = {str(name) for name in class_of.values() if name is not None} - set(CLASSES)
    if unknown:
        raise ValueError(f"pos_fn returned {min(unknown)!r}: {choose('classes', min(unknown), CLASSES)}")
    groups = [
        [word for word in ranked if class_of[word] == name][:quota] for name, quota in zip(CLASSES, quotas, strict=True)
    ]
    classes = [name for name, group in zip(CLASSES, groups, strict=True) for _ in group]
    return [word for group in groups for word in group], classes


def count_concepts(word_sets, concepts, verbose=False):
    """How many captions hold each concept, and each pair of two.

    A concept counts once per caption.

    Args:
        word_sets: list of sets of words, one per caption.
        concepts: list of K words.
        verbose: bool, a progress bar on work over two seconds.

    Returns:
        counts `(K,)` and cooccurrence `(K, K)`, int64, symmetric, diagonal 0.
    """
    column = {concept: index for index, concept in enumerate(concepts)}
    together = np.zeros((len(concepts), len(concepts)), "int64")
    bar = SlowBar(len(word_sets), verbose)
    for start in range(0, len(word_sets), _AT_ONCE):
        chunk = word_sets[start : start + _AT_ONCE]
        found = [(row, column[word]) for row, words in enumerate(chunk) for word in words if word in column]
        rows, columns = np.array(found, "int64").reshape(-1, 2).T
        # Exact: float32 holds every whole number up to 16 million, and a chunk counts far less.
        present = np.zeros((len(chunk), len(concepts)), "float32")
        present[rows, columns] = 1
        together += (present.T @ present).astype("int64")
        bar.update(start + len(chunk))
    counts = np.diag(together).copy()
    np.fill_diagonal(together, 0)
    return counts, together
