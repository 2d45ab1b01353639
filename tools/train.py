"""Train a recipe: python tools/train.py recipes/cusa_shapes.yaml"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/train.py recipes/cusa_shapes.yaml
  python tools/train.py recipes/cusa_flickr8k.yaml --data_dir data --set run.epochs=10 --set run.seed=1
  KERAS_BACKEND=jax python tools/train.py recipes/cusa_shapes.yaml --smoke
"""


def main(arguments):
    from keras_itr.training import train

    train(
        arguments.recipe,
        overrides=arguments.overrides,
        data_dir=arguments.data_dir,
        run_dir=arguments.run_dir,
        smoke=arguments.smoke,
        overwrite=arguments.overwrite,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="Train a recipe and evaluate its best model. An interrupted run goes on where it stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("recipe", help="path of a recipe, such as recipes/cusa_shapes.yaml")
    flags.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the recipe, such as run.epochs=3; may be repeated",
    )
    flags.add_argument("--data_dir", help="folder that the recipe's data.directory is relative to")
    flags.add_argument("--run_dir", help="folder of the run (default: runs/<recipe name>)")
    flags.add_argument("--smoke", action="store_true", help="two steps with tiny towers on generated stand-in data")
    flags.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    return flags


if __name__ == "__main__":
    run(parser(), main)
