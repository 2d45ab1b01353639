"""Teachers of CUSA: python tools/make_teachers.py recipes/cusa_coco1k.yaml --data_dir data --text_encoder DIR"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/make_teachers.py recipes/cusa_coco1k.yaml --data_dir data \\
      --text_encoder all_minilm_l6_v2_en --image_encoder MobileNetV2
  python tools/make_teachers.py recipes/cusa_flickr8k.yaml --data_dir data --text_encoder my_sentence_encoder
  python tools/make_teachers.py coco/dataset_coco.json --split train --cleaning cusa \\
      --text_encoder hf://sentence-transformers/all-MiniLM-L6-v2 --output coco/train_teacher_text.npy
  python tools/make_teachers.py photos --image_encoder runs/clip_coco/best --output photos_teacher.npy
"""


def main(arguments):
    from keras_itr.training import make_teachers

    rows = make_teachers(
        arguments.source,
        arguments.text_encoder,
        arguments.image_encoder,
        output=arguments.output,
        split=arguments.split,
        images=arguments.images,
        overrides=arguments.overrides,
        data_dir=arguments.data_dir,
        cleaning=arguments.cleaning,
        image_weights=arguments.image_weights,
        image_size=tuple(arguments.image_size),
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
    )
    for teacher in rows.values():
        print(f"{teacher.filename}: {teacher.shape} {teacher.dtype}")


def parser():
    flags = argparse.ArgumentParser(
        description="Features of captions (a row each) and of photos (a row each) by frozen encoders, memory-mapped, "
        "with ids. A killed run goes on where it was.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "source", help="recipe (.yaml) that names the teachers' files; or annotation file, or folder of photos"
    )
    flags.add_argument(
        "--text_encoder", help="sentence encoder (folder, name or handle of a BERT), or a preset of this package"
    )
    flags.add_argument(
        "--image_encoder", help="network of keras.applications, class of keras-hub, or a preset of this package"
    )
    flags.add_argument("--output", help="the .npy to write, where the source is no recipe")
    flags.add_argument("--split", default="train", help="split of the recipe or annotation file (default: train)")
    flags.add_argument("--images", help="folder of the photos, where the recipe or file does not tell")
    flags.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for train.py"
    )
    flags.add_argument("--data_dir", help="folder that the recipe's data.directory is relative to")
    flags.add_argument(
        "--cleaning", help="of captions: none, cusa, ascl, words (default: as the recipe's tokenizer, or none)"
    )
    flags.add_argument("--image_weights", default="imagenet", help="of a network: file, preset or imagenet (default)")
    flags.add_argument("--image_size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    flags.add_argument("--batch_size", type=int, default=64, help="captions or photos at a time (default: 64)")
    flags.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    return flags


if __name__ == "__main__":
    run(parser(), main)
