"""Search an index by a caption or a photo: python tools/search.py "a dog on grass" --k 10 --index gallery"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/search.py "a dog on grass"
  python tools/search.py "a dog on grass" --k 10 --index gallery --html dogs.html
  python tools/search.py my_photo.jpg --index captions --json captions.json
  python tools/search.py "a dog on grass" --json > dogs.json
"""


def main(arguments):
    from keras_itr.search import search_gallery

    search_gallery(
        arguments.index,
        arguments.query,
        k=arguments.k,
        rerank=arguments.rerank,
        preset=arguments.preset,
        json_path=arguments.json,
        html_path=arguments.html,
        verify=arguments.verify,
        **({} if arguments.probes is None else {"probes": arguments.probes}),
    )


def parser():
    flags = argparse.ArgumentParser(
        description="The best photos or captions of an index that tools/index.py wrote, for a caption or a photo.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("query", help="a caption, or the path of a photo")
    flags.add_argument("--k", type=int, default=10, help="how many to show (default: 10)")
    flags.add_argument("--index", default="gallery", help="folder of the index (default: gallery)")
    flags.add_argument("--preset", help="where the preset of the index is now, if it was moved")
    flags.add_argument("--no_rerank", dest="rerank", action="store_false", help="leave out the method's second stage")
    flags.add_argument("--no_verify", dest="verify", action="store_false", help="leave out the checksums of the files")
    flags.add_argument("--probes", type=int, help="faiss: lists searched, instead of the index's own number")
    flags.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON in place of the table, or also write it to a file",
    )
    flags.add_argument("--html", help="also write a page with pictures to this file")
    return flags


if __name__ == "__main__":
    run(parser(), main)
