"""The presets that have a name: python tools/list_presets.py"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/list_presets.py
"""


def main(arguments):
    from keras_itr.models import preset_table

    print(preset_table())


def parser():
    return argparse.ArgumentParser(
        description="List the named presets: method, parameters, and whether weights are at hand.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    run(parser(), main)
