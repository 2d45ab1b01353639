"""Export a preset for TensorFlow Serving: python tools/export.py cusa_shapes exported/cusa_shapes"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/export.py cusa_shapes exported/cusa_shapes
  python tools/export.py runs/clip_coco1k/best exported/clip_coco1k --version 2
  python tools/export.py runs/clip_coco1k/best exported/clip_coco1k --version 3 --precision bfloat16 --also openvino
"""


def main(arguments):
    from keras_itr.models import from_preset
    from keras_itr.serving import export

    export(
        from_preset(arguments.preset, load_weights=True),
        arguments.directory,
        version=arguments.version,
        precision=arguments.precision,
        also=arguments.also,
        source=arguments.preset,
        max_pixels=arguments.max_pixels,
        max_bytes=arguments.max_bytes,
        overwrite=arguments.overwrite,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="A versioned SavedModel that takes captions and image bytes, with all that serves it. It is run "
        "through the gates first: a broken export is not left behind.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("preset", help="name, directory or hub handle of a preset with weights")
    flags.add_argument("directory", help="folder of the versions; its name is the model's name in the server")
    flags.add_argument("--version", type=int, default=1, help="number of the version (default: 1)")
    flags.add_argument("--precision", default="float32", help="float32 (default) or bfloat16; its cosine is printed")
    flags.add_argument(
        "--also", action="append", default=[], metavar="FORMAT", help="openvino: the encoders in that format too"
    )
    flags.add_argument("--max_pixels", type=int, default=100_000_000, help="largest image (default: 100 million)")
    flags.add_argument("--max_bytes", type=int, default=1 << 25, help="largest encoded image (default: 32 MB)")
    flags.add_argument("--overwrite", action="store_true", help="replace a version that is there")
    return flags


if __name__ == "__main__":
    run(parser(), main)
