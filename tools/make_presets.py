"""The presets of the package from their recipes: python tools/make_presets.py"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/make_presets.py
  python tools/make_presets.py ascl_coco ascl_f30k
  python tools/make_presets.py tgdt_shapes --run runs/tgdt_shapes --set run.epochs=8
"""


def main(arguments):
    from keras_itr.training.packaged_presets import make_presets

    make_presets(arguments.names, arguments.run_dir, overrides=arguments.overrides, description=arguments.description)


def parser():
    flags = argparse.ArgumentParser(
        description="Make presets of keras_itr/presets anew: architectures of recipes, a trained one out of its run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("names", nargs="*", help="names in index.json (default: all)")
    flags.add_argument("--run", dest="run_dir", help="run directory of the trained preset")
    flags.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what the run was started with; may be repeated",
    )
    flags.add_argument("--description", help="one line about a preset that is not in index.json yet")
    return flags


if __name__ == "__main__":
    run(parser(), main)
