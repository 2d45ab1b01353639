"""Embed photos or captions into an index: python tools/index.py cusa_coco1k photos --output gallery"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/index.py runs/cusa_coco1k/best photos
  python tools/index.py runs/cusa_coco1k/best captions.csv --column text --output captions
  python tools/index.py my_clip photos --output gallery --dtype float16
  python tools/index.py my_clip photos --output gallery --engine faiss --probes 32
  python tools/index.py my_clip photos --output gallery --engine milvus --uri http://localhost:19530
"""


def main(arguments):
    from keras_itr.search import index_gallery

    settings = {
        name: getattr(arguments, name)
        for name in ("dtype", "probes", "approximate_above", "uri")
        if getattr(arguments, name) is not None
    }
    index_gallery(
        arguments.preset,
        arguments.source,
        arguments.output,
        column=arguments.column,
        batch_size=arguments.batch_size,
        on_error=arguments.on_error,
        engine=arguments.engine,
        **settings,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="Embed a folder of photos, or a file of captions, for tools/search.py. A killed run goes on where "
        "it was; run again, it embeds what is new or has changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("preset", help="name, directory or hub handle of a preset with weights")
    flags.add_argument("source", help="folder of photos; or captions: .txt, one a line, or .csv or .tsv")
    flags.add_argument("--output", default="gallery", help="folder to write (default: gallery)")
    flags.add_argument("--column", default="caption", help="column of a .csv or .tsv (default: caption)")
    flags.add_argument("--batch_size", type=int, default=32, help="items embedded at a time (default: 32)")
    flags.add_argument("--on_error", default="skip", choices=["skip", "raise"], help="of broken photos (default: skip)")
    flags.add_argument("--engine", default="exact", help="exact (default), faiss or milvus; see GalleryIndex")
    flags.add_argument("--dtype", choices=["float32", "float16"], help="of the vectors (default: float32)")
    flags.add_argument("--probes", type=int, help="faiss: lists searched for each query (default: 16)")
    flags.add_argument("--approximate_above", type=int, help="faiss: exact up to so many items (default: 100000)")
    flags.add_argument("--uri", help="milvus: a file, such as gallery.db, or the address of a server")
    return flags


if __name__ == "__main__":
    run(parser(), main)
