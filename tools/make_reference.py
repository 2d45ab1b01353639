"""The public API as Markdown, out of the docstrings: python tools/make_reference.py --output docs/reference"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/make_reference.py --output docs/reference
"""


def main(arguments):
    from keras_itr.reference import write_reference

    pages = write_reference(arguments.output)
    print(f"{arguments.output}: {len(pages)} pages, {sum(pages.values())} names")


def parser():
    flags = argparse.ArgumentParser(
        description="One page of Markdown for each part of the package, with the docstrings of all public names.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--output", default="docs/reference", help="folder to write to (default: docs/reference)")
    return flags


if __name__ == "__main__":
    run(parser(), main)
