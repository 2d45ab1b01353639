from pathlib import Path

from keras_itr.data.caption_files import read_captions, read_word_classes
from keras_itr.data.concept_graph import ConceptGraph
from keras_itr.data.concept_summary import strongest_edges
from keras_itr.data.missing_data import require_files

_QUOTAS = (210, 60, 30)


def build_concept_graph(
    source,
    output,
    split="train",
    num_concepts=300,
    quotas=None,
    word_classes=None,
    glove=None,
    embedding_dim=300,
    seed=0,
    verbose=True,
):
    """The concept graph of an annotation file's captions, on disk.

    Captions of the split asked for are read, and nothing else: no photo and no
    feature need be there.

    Args:
        source: annotation file: a Karpathy or an official COCO captions `.json`, a Flickr `.token`, a `.tsv`, `.csv` or
            `.jsonl` of pairs; or a `.txt` of one caption a line.
        output: the `.npz` to write, see `ConceptGraph.save`; `<stem>_summary.json` beside it gets the same for people,
            see `ConceptGraph.save_summary`.
        split: string, default `"train"`.
        num_concepts: int, the most concepts, default 300.
        quotas: the most objects, properties and motions, default 210, 60 and 30; needs `word_classes`.
        word_classes: file of a word, a tab and `object`, `property` or `motion` a line: concepts are of these words.
            None (default): content words of any class.
        glove: text file of word vectors such as GloVe's; None (default): vectors from the co-occurrences.
        embedding_dim: int, the most columns of vectors from co-occurrences, default 300; `glove` has its own.
        seed: int, for words that `glove` lacks.
        verbose: bool, progress bars on work over two seconds, and a summary.

    Returns:
        The `ConceptGraph`. Equal captions and arguments give equal files.

    Raises:
        MissingData: names all files that are absent.
        ValueError: for a file or a number that is not as described.

    Example:

    ```python
    from keras_itr.data import build_concept_graph

    graph = build_concept_graph("flickr8k/train_caps.txt", "flickr8k/concepts.npz")
    ```

    Reference: Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020, as related code of CODER (ECCV 2022).
    """
    output = Path(output)
    if output.suffix != ".npz":
        raise ValueError(f"{output}: the file of a graph must end in .npz.")
    for name, value in (("num_concepts", num_concepts), ("embedding_dim", embedding_dim)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if quotas is not None and word_classes is None:
        raise ValueError("quotas count the words of a class; give word_classes too.")
    require_files([path for path in (source, word_classes, glove) if path is not None])
    class_of = None if word_classes is None else read_word_classes(word_classes).get
    graph = ConceptGraph.from_captions(
        read_captions(source, split),
        num_concepts,
        _QUOTAS if quotas is None else tuple(quotas),
        class_of,
        "ppmi_svd" if glove is None else glove,
        embedding_dim,
        seed,
        verbose=verbose,
    )
    graph.settings |= {"source": Path(source).name, "split": split}
    if word_classes is not None:
        graph.settings["word_classes"] = Path(word_classes).name
    summary = output.with_name(f"{output.stem}_summary.json")
    graph.save(output)
    graph.save_summary(summary)
    if verbose:
        edges = [f"{one} -> {other} {strength:.2f}" for one, other, strength in strongest_edges(graph, 5)]
        print(f"{graph.summary()}: {output}, {summary}\nstrongest: {', '.join(edges) or 'none'}")
    return graph
