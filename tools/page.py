"""Search galleries in the browser: python tools/page.py gallery captions"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/page.py gallery
  python tools/page.py gallery captions --port 8080
"""


def main(arguments):
    from keras_itr.serving import launch_page, search_page

    launch_page(search_page(arguments.gallery, arguments.k), arguments.host, arguments.port)


def parser():
    flags = argparse.ArgumentParser(
        description="A page that searches galleries of tools/index.py by a caption or a dropped photo. Needs "
        'pip install "keras-itr[demo]"; works without a network.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("gallery", nargs="+", help="folders that tools/index.py wrote, of photos or captions")
    flags.add_argument("--k", type=int, default=12, help="items shown at first (default: 12)")
    flags.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    flags.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    return flags


if __name__ == "__main__":
    run(parser(), main)
