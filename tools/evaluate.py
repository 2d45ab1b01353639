"""Evaluate a preset on a recipe's data: python tools/evaluate.py cusa_shapes --recipe recipes/cusa_shapes.yaml"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/evaluate.py cusa_shapes --recipe recipes/cusa_shapes.yaml --split unseen
  python tools/evaluate.py runs/cusa_flickr8k/best --recipe recipes/cusa_flickr8k.yaml --data_dir data --json out.json
  python tools/evaluate.py runs/cusa_flickr8k/best --recipe recipes/cusa_flickr8k.yaml --data_dir data \\
      --protocol universal
  python tools/evaluate.py runs/tgdt_flickr8k/best --recipe recipes/tgdt_flickr8k.yaml --data_dir data \\
      --sweep_k 10,20/40,50/100 --plot sweep.png
"""


def main(arguments):
    from keras_itr.training import evaluate_preset, sweep_preset

    if arguments.plot and not (arguments.sweep_k is not None or arguments.profile):
        raise ValueError("--plot draws what --sweep_k or --profile measures; add one of them.")
    if arguments.sweep_k is not None or arguments.profile:
        if arguments.json or arguments.by_length or arguments.protocol != "full":
            raise ValueError(
                "--sweep_k and --profile measure all pairs of the split; leave out --json, --by_length and --protocol."
            )
        sweep_preset(
            arguments.preset,
            arguments.recipe,
            arguments.sweep_k,
            split=arguments.split,
            overrides=arguments.overrides,
            data_dir=arguments.data_dir,
            plot=arguments.plot,
        )
        return
    evaluate_preset(
        arguments.preset,
        arguments.recipe,
        split=arguments.split,
        overrides=arguments.overrides,
        data_dir=arguments.data_dir,
        protocol=arguments.protocol,
        json_path=arguments.json,
        by_length=arguments.by_length,
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
    flags.add_argument("--protocol", default="full", help="full, f30k, coco_1k, coco_5k or universal (default: full)")
    flags.add_argument("--by_length", action="store_true", help="also the recalls of short, middle and long captions")
    flags.add_argument(
        "--sweep_k",
        metavar="K,K,...",
        help="instead: recall and time of two-stage search with shortlists of these lengths, against exhaustive "
        "scoring; 20/40 is 20 captions of an image and 40 images of a caption",
    )
    flags.add_argument("--profile", action="store_true", help="the same for the method's own lengths")
    flags.add_argument("--plot", help="also draw the sweep into this file (.png, .svg or .pdf)")
    flags.add_argument("--json", help="also write the metrics to this file")
    return flags


if __name__ == "__main__":
    run(parser(), main)
