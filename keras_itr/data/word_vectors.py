"""Word vectors for concepts: from their own co-occurrences, or out of a GloVe text file."""

from pathlib import Path

import numpy as np

from keras_itr.data.hashing import uniform
from keras_itr.data.missing_data import require_files


def ppmi_vectors(counts, cooccurrence, num_captions, dim):
    """Positive pointwise mutual information, cut to its strongest directions.

    `M_ij = max(0, log(N A_ij / (N_i N_j)))` with the counts themselves on the
    diagonal, so that a word that is alone has a vector too; `M = U S V^T`; the
    vectors are `U S^(1/2)`. Signs are fixed: equal counts give equal vectors.

    Args:
        counts: `(K,)` int, captions with each word.
        cooccurrence: `(K, K)` int, captions with both.
        num_captions: int, N.
        dim: int, the most columns.

    Returns:
        `(K, min(dim, K))` float32.

    Reference: Levy and Goldberg, Neural Word Embedding as Implicit Matrix
    Factorization, NeurIPS 2014. The diagonal is our choice.
    """
    together = np.asarray(cooccurrence, "float64") + np.diag(np.asarray(counts, "float64"))
    expected = np.outer(counts, counts) / num_captions
    ratio = np.divide(together, expected, out=np.ones_like(together), where=together > 0)
    left, strength, _ = np.linalg.svd(np.maximum(np.log(ratio), 0.0))
    vectors = (left * np.sqrt(strength))[:, :dim]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return (vectors * np.where(largest < 0, -1.0, 1.0)).astype("float32")


def read_word_vectors(path, words, seed=0):
    """The vectors of these words out of a text file of one word and its numbers a line.

    The file is read line by line, so that it may be large. A word that is not
    in it gets numbers drawn from (seed, word), as spread as those found.

    Args:
        path: path of a UTF-8 file such as `glove.6B.300d.txt`.
        words: list of K words.
        seed: int.

    Returns:
        `(K, E)` float32.

    Raises:
        MissingData: if there is no file.
        ValueError: for a line of another width or that is not numbers (the
            message names it), or if no word is in the file.
    """
    require_files([path])
    found, wanted, width = {}, set(words), None
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, rest = line.partition(" ")
            # Rare entries of more than one word come later and would begin like a known one.
            if word in wanted and word not in found:
                found[word] = _numbers(f"{path}:{number}", rest, width)
                width = len(found[word])
    if not found:
        raise ValueError(f"{path}: holds none of the {len(words)} words; is it a text file of word vectors?")
    spread = np.std(list(found.values())) * np.sqrt(3)
    for word in wanted - set(found):
        found[word] = (2 * uniform(seed, "word vector", word, np.arange(width)) - 1) * spread
    return np.stack([found[word] for word in words]).astype("float32")


def _numbers(where, text, width):
    try:
        vector = np.array([float(number) for number in text.split()])
    except ValueError:
        raise ValueError(f"{where}: a word and numbers, divided by spaces, are needed.") from None
    if not len(vector) or (width is not None and len(vector) != width) or not np.isfinite(vector).all():
        raise ValueError(f"{where}: {len(vector)} numbers, {width or 'at least 1'} finite ones are needed.")
    return vector


def source_name(embeddings):
    """What is kept of where vectors came from: the name of a file, not its place."""
    return embeddings if embeddings == "ppmi_svd" else Path(embeddings).name
