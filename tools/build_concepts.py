"""Concept graph of training captions: python tools/build_concepts.py flickr8k/train_caps.txt --output graph.npz"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/build_concepts.py flickr8k/train_caps.txt --output flickr8k/concepts.npz
  python tools/build_concepts.py coco/dataset_coco.json --split train --output coco/concepts.npz \\
      --word_classes word_classes.tsv --quotas 210 60 30 --glove glove.6B.300d.txt
"""


def main(arguments):
    from keras_itr.data import build_concept_graph

    build_concept_graph(
        arguments.source,
        arguments.output,
        split=arguments.split,
        num_concepts=arguments.num_concepts,
        quotas=arguments.quotas,
        word_classes=arguments.word_classes,
        glove=arguments.glove,
        embedding_dim=arguments.embedding_dim,
        seed=arguments.seed,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="Which words stand together in the captions of one split: the graph that CODER takes, as .npz, and "
        "a .json of the same for people beside it. Neither photos nor features are needed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "source", help="annotation file (.json, .token, .tsv, .csv, .jsonl), or .txt of a caption a line"
    )
    flags.add_argument("--output", required=True, help="the .npz to write; <stem>_summary.json comes beside it")
    flags.add_argument("--split", default="train", help="split of the annotation file (default: train)")
    flags.add_argument("--num_concepts", type=int, default=300, help="the most concepts (default: 300)")
    flags.add_argument(
        "--quotas",
        type=int,
        nargs=3,
        metavar=("OBJECTS", "PROPERTIES", "MOTIONS"),
        help="the most of each class, with --word_classes (default: 210 60 30)",
    )
    flags.add_argument("--word_classes", help="file of a word, a tab and object, property or motion a line")
    flags.add_argument("--glove", help="text file of word vectors (default: vectors from the co-occurrences)")
    flags.add_argument("--embedding_dim", type=int, default=300, help="width of vectors from co-occurrences, at most")
    flags.add_argument("--seed", type=int, default=0, help="for words that --glove lacks (default: 0)")
    return flags


if __name__ == "__main__":
    run(parser(), main)
