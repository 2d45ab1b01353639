"""Text teachers of CUSA: python tools/make_teachers.py dataset_coco.json --split train --encoder DIR --output X.npy"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/make_teachers.py coco/dataset_coco.json --images coco/images --split train \\
      --encoder all_minilm_l6_v2_en --cleaning cusa --output coco/train_teacher_text.npy
  The image teacher is made by tools/extract_features.py with --pooled.
"""


def main(arguments):
    from keras_itr.data import extract_caption_features

    rows = extract_caption_features(
        arguments.source,
        arguments.output,
        arguments.encoder,
        split=arguments.split,
        images=arguments.images,
        cleaning=arguments.cleaning,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
    )
    print(f"{arguments.output}: {rows.shape} {rows.dtype}")


def parser():
    flags = argparse.ArgumentParser(
        description="Sentence vectors of captions, one row per caption in the reader's order. A killed run goes on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", help="annotation file (.json, .token, .tsv, .csv, .jsonl)")
    flags.add_argument("--output", required=True, help="the .npy to write")
    flags.add_argument("--encoder", required=True, help="preset or folder of a BERT-type sentence encoder")
    flags.add_argument("--split", help="split of the annotation file")
    flags.add_argument("--images", help="folder of the photos that the file names (default: its own folder)")
    flags.add_argument("--cleaning", default="none", help="none (default), cusa or words")
    flags.add_argument("--batch_size", type=int, default=64, help="captions at a time (default: 64)")
    flags.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    return flags


if __name__ == "__main__":
    run(parser(), main)
