"""Extract features of photos: python tools/extract_features.py photos --output features/all_ims.npy"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/extract_features.py photos --output features/all_ims.npy --weights mobilenet_v2.weights.h5 --grid 4 4
  python tools/extract_features.py coco/dataset_coco.json --images coco/images --split train \\
      --weights imagenet --grid 4 4 --pca 256 --output coco/train_ims.npy
  python tools/extract_features.py coco/dataset_coco.json --images coco/images --split val \\
      --weights imagenet --grid 4 4 --pca_file coco/train_ims_pca.npz --output coco/val_ims.npy
  python tools/extract_features.py coco/dataset_coco.json --images coco/images --split train \\
      --network ResNet50 --weights imagenet --pooled --output coco/train_teacher_image.npy
"""


def main(arguments):
    from keras_itr.data import extract_features

    rows = extract_features(
        arguments.source,
        arguments.output,
        network=arguments.network,
        weights=arguments.weights,
        image_size=tuple(arguments.image_size),
        grid=arguments.grid and tuple(arguments.grid),
        pooled=arguments.pooled,
        pca=arguments.pca_file if arguments.pca is None else arguments.pca,
        images=arguments.images,
        split=arguments.split,
        interpolation=arguments.interpolation,
        crop_to_aspect_ratio=arguments.crop,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
    )
    print(f"{arguments.output}: {rows.shape} {rows.dtype}")


def parser():
    flags = argparse.ArgumentParser(
        description="Rows of features of photos, one per image, memory-mapped. A killed run goes on where it was.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", help="folder of photos, or annotation file (.json, .token, .tsv, .csv, .jsonl)")
    flags.add_argument("--output", required=True, help="the .npy to write; the names go to <stem>_ids.txt beside it")
    flags.add_argument("--images", help="folder of the photos that an annotation file names (default: its own folder)")
    flags.add_argument("--split", help="split of an annotation file")
    flags.add_argument("--network", default="MobileNetV2", help="network of keras.applications, or a keras-hub class")
    flags.add_argument("--weights", help="file of weights, 'imagenet', or a keras-hub preset (default: random)")
    flags.add_argument("--image_size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    flags.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="cells (default: the whole map)")
    flags.add_argument("--pooled", action="store_true", help="one row per image, the mean of its cells")
    kind = flags.add_mutually_exclusive_group()
    kind.add_argument("--pca", type=int, metavar="DIM", help="fit a PCA on these photos (the training split)")
    kind.add_argument("--pca_file", metavar="NPZ", help="project with a PCA that was fitted before")
    flags.add_argument("--interpolation", default="bilinear", help="nearest, bilinear (default), bicubic, lanczos3")
    flags.add_argument("--crop", action="store_true", help="cut a centred window instead of stretching")
    flags.add_argument("--batch_size", type=int, default=32, help="photos at a time (default: 32)")
    flags.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    return flags


if __name__ == "__main__":
    run(parser(), main)
