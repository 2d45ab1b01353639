"""Evaluate a preset on a recipe's data: python tools/evaluate.py cusa_shapes --recipe recipes/cusa_shapes.yaml"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/evaluate.py cusa_shapes --recipe recipes/cusa_shapes.yaml --split unseen
  python tools/evaluate.py runs/cusa_flickr8k/best --recipe recipes/cusa_flickr8k.yaml --data_dir data --json out.json
"""


def main(arguments):
    from keras_itr.training import evaluate_preset

    evaluate_preset(
        arguments.preset,
        arguments.recipe,
        split=arguments.split,
        overrides=arguments.overrides,
        data_dir=arguments.data_dir,
        protocol=arguments.protocol,
        json_path=arguments.json,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="Recall at 1, 5 and 10 both ways, their sum and the median ranks of a preset on a recipe's data.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("preset", help="name, directory or hub handle of a preset with weights")
    flags.add_argument("--recipe", required=True, help="recipe whose data section is evaluated on")
    flags.add_argument("--split", help="split to evaluate (default: the recipe's test split, else validation)")
    flags.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for train.py"
    )
    flags.add_argument("--data_dir", help="folder that the recipe's data.directory is relative to")
    flags.add_argument("--protocol", default="full", help="full, f30k, coco_1k or coco_5k (default: full)")
    flags.add_argument("--json", help="also write the metrics to this file")
    return flags


if __name__ == "__main__":
    run(parser(), main)
