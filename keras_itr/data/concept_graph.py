import json
from pathlib import Path

import numpy as np

from keras_itr.data.concept_summary import as_text, describe
from keras_itr.data.concept_words import choose_concepts, count_concepts, words_of
from keras_itr.data.messages import choose
from keras_itr.data.missing_data import require_files
from keras_itr.data.word_vectors import ppmi_vectors, read_word_vectors, source_name
from keras_itr.files import read_archive, written_whole
from keras_itr.messages import one_line

_MODES = ("complex", "scale", "binary")
_ARRAYS = ("concepts", "classes", "counts", "cooccurrence", "embeddings", "settings")


class ConceptGraph:
    """Words as concepts, and how strongly one calls for another in captions.

    Made from training captions alone by `from_captions`, or from given counts.
    `keras_itr.layers.ConceptGraphEncoder` takes the graph as it is, or the path
    where it was saved.

    Args:
        concepts: list of K distinct words.
        counts: `(K,)` int, captions with each concept.
        cooccurrence: `(K, K)` int, captions with both; symmetric, diagonal 0.
        embeddings: `(K, E)` float, a word vector of each concept.
        classes: list of K strings such as `"object"`, or None.
        settings: dict, how the graph was made; None: nothing is known.

    Raises:
        ValueError: if the parts do not fit together.

    Example:

    ```python
    from keras_itr.data import ConceptGraph

    captions = ["a man riding a horse", "a brown horse", "a man and a dog"]
    graph = ConceptGraph.from_captions(captions, num_concepts=5)
    graph.concepts  # ["horse", "man", "brown", "dog", "riding"]
    graph.propagation().shape  # (5, 5)
    graph.save("graph.npz")
    ```

    Reference: the concept graph of Wang et al., Consensus-Aware Visual-Semantic
    Embedding, ECCV 2020, as related code of CODER (ECCV 2022), with its
    constants. Concepts of training captions only, and word vectors that need no
    download, are our choice.
    """

    def __init__(self, concepts, counts, cooccurrence, embeddings, classes=None, settings=None):
        self.concepts = [str(concept) for concept in concepts]
        self.counts = np.asarray(counts, "int64")
        self.cooccurrence = np.asarray(cooccurrence, "int64")
        self.embeddings = np.asarray(embeddings, "float32")
        self.classes = [""] * len(self.concepts) if classes is None else [str(name) for name in classes]
        self.settings = dict(settings or {})
        self._check()

    @classmethod
    def from_captions(
        cls,
        captions,
        num_concepts=300,
        quotas=(210, 60, 30),
        pos_fn=None,
        embeddings="ppmi_svd",
        embedding_dim=300,
        seed=0,
        concepts=None,
        cleaning="words",
        verbose=False,
    ):
        """The graph of the most frequent content words of captions.

        Args:
            captions: sequence of strings, of the training split only.
            num_concepts: int, the most concepts; fewer words give fewer.
            quotas: the most objects, properties and motions, used with `pos_fn`.
            pos_fn: function of a word to `"object"`, `"property"`, `"motion"` or
                None; None (default) takes content words of any class.
            embeddings: `"ppmi_svd"`, vectors from these co-occurrences, or the
                path of a text file of word vectors such as GloVe's.
            embedding_dim: int, the most columns of `"ppmi_svd"`, which has no more
                than concepts; a file has its own.
            seed: int, for words that the file lacks.
            concepts: list of words, in place of any choice.
            cleaning: style of `clean_caption`, default `"words"`.
            verbose: bool, progress bars on work over two seconds, default False.

        Returns:
            A `ConceptGraph`, the same for the same arguments.

        Raises:
            ValueError: if there is no caption or no content word, for a single
                string, a `num_concepts` below 1, quotas that do not make it, or a
                faulty file.
        """
        if isinstance(captions, (str, bytes)):
            raise ValueError(f"captions must be a list of strings, received one string; use [{captions[:20]!r}].")
        if num_concepts < 1:
            raise ValueError(f"num_concepts must be 1 or more, received {num_concepts}.")
        word_sets = list(words_of(captions, cleaning, verbose))
        classes = None
        if concepts is None:
            concepts, classes = choose_concepts(word_sets, num_concepts, quotas, pos_fn)
        if not word_sets or not len(concepts):
            raise ValueError(f"{len(word_sets)} captions with {len(concepts)} concepts make no graph.")
        counts, cooccurrence = count_concepts(word_sets, concepts, verbose)
        if embeddings == "ppmi_svd":
            vectors = ppmi_vectors(counts, cooccurrence, len(word_sets), embedding_dim)
        else:
            vectors = read_word_vectors(embeddings, concepts, seed)
        settings = {"captions": len(word_sets), "cleaning": cleaning, "embeddings": source_name(embeddings)}
        return cls(concepts, counts, cooccurrence, vectors, classes, {**settings, "seed": seed})

    @property
    def num_edges(self):
        """int, edges of the default propagation: ordered pairs of two concepts that it links."""
        return int(np.count_nonzero(self.adjacency())) - len(self.concepts)

    def conditional(self):
        """`P_ij = A_ij / N_i` `(K, K)`: the share of the captions with concept i that hold j too; diagonal 0."""
        return self.cooccurrence / np.maximum(self.counts, 1)[:, None]

    def adjacency(self, mode="complex", scale=5.0, shift=0.02, threshold=0.3, neighbour_weight=0.25):
        """The weighted edges B `(K, K)`, row i: how strongly concept i calls for j, itself included.

        With the conditional frequency `P_ij = A_ij / N_i` and its scaled form
        `R_ij = scale^(P_ij - shift) - scale^(-shift)`:

        - `"complex"` (default): `R >= threshold` as 0 or 1, each column brought to
          the sum `neighbour_weight`, plus the identity;
        - `"scale"`: `R` plus the identity;
        - `"binary"`: as `"complex"`, but of `P >= threshold`.
        """
        if mode not in _MODES:
            raise ValueError(f"unknown mode {mode!r}: {choose('modes', mode, _MODES)}")
        strength = self.conditional()
        if mode != "binary":
            strength = scale ** (strength - shift) - scale**-shift
        if mode != "scale":
            linked = (strength >= threshold).astype("float64")
            strength = neighbour_weight * linked / (linked.sum(axis=0) + 1e-6)
        return strength + np.eye(len(strength))

    def propagation(self, mode="complex", scale=5.0, shift=0.02, threshold=0.3, neighbour_weight=0.25):
        """`D^-1/2 B^T D^-1/2` `(K, K)` of the adjacency B with its row sums D; arguments as there."""
        adjacency = self.adjacency(mode, scale, shift, threshold, neighbour_weight)
        root = 1 / np.sqrt(adjacency.sum(axis=1))
        return root[:, None] * adjacency.T * root[None, :]

    def save(self, path):
        """Write all to one `.npz`; equal graphs give equal files.

        Settings are JSON text in it. It also holds the default `"propagation"`,
        for readers that know arrays only; `load` derives it anew.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS if name != "settings"}
        arrays["settings"] = json.dumps(self.settings, sort_keys=True)
        with written_whole(path) as aside, open(aside, "wb") as file:
            np.savez(
                file, **{name: np.asarray(value) for name, value in arrays.items()}, propagation=self.propagation()
            )

    def summary(self):
        """The sizes in one line, such as `"30,000 captions, 300 concepts, 745 edges"`."""
        counts = {"concepts": len(self.concepts), "edges": self.num_edges}
        counts = {"captions": self.settings["captions"], **counts} if "captions" in self.settings else counts
        return ", ".join(f"{number:,} {name}" for name, number in counts.items())

    def save_summary(self, path, neighbours=5):
        """Write the graph as JSON for people; equal graphs give equal files.

        Settings, the number of edges, and a line for every concept: its class, its
        count, and the `neighbours` that it calls for most, with their `P(j|i)`.
        """
        with written_whole(path) as aside:
            aside.write_text(as_text(describe(self, neighbours)), encoding="utf-8")

    @classmethod
    def load(cls, path):
        """The graph that `save` wrote.

        Raises:
            MissingData: if there is no file.
            ValueError: if it is no file of a graph.
        """
        require_files([path])
        arrays = read_archive(path, _ARRAYS, "make the graph anew, as by tools/build_concepts.py.")
        try:
            arrays["settings"] = json.loads(str(arrays["settings"]))
            return cls(**arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{Path(path)}: not a file that ConceptGraph.save wrote ({one_line(error)}); make the graph anew."
            ) from error

    def _check(self):
        size = len(self.concepts)
        if len(set(self.concepts)) != size:
            twice = next(concept for concept in self.concepts if self.concepts.count(concept) > 1)
            raise ValueError(f"concepts must differ, {twice!r} stands twice.")
        shapes = {"counts": (size,), "cooccurrence": (size, size), "embeddings": (size, *self.embeddings.shape[1:2])}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of {size} concepts cannot have shape {getattr(self, name).shape}.")
        if not np.isfinite(self.embeddings).all():
            row = np.argwhere(~np.isfinite(self.embeddings))[0][0]
            raise ValueError(f"embeddings of {self.concepts[row]!r} hold a number that is not finite; mend its vector.")
        if len(self.classes) != size:
            raise ValueError(f"{len(self.classes)} classes for {size} concepts.")
        together = self.cooccurrence
        if (together != together.T).any() or together.diagonal().any() or (together > self.counts[:, None]).any():
            raise ValueError("cooccurrence must be symmetric, 0 on its diagonal, and at most the count of a concept.")

    def __repr__(self):
        return f"<ConceptGraph of {len(self.concepts)} concepts, {np.count_nonzero(self.cooccurrence) // 2} pairs>"
