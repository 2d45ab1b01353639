"""Published weights to a preset: python tools/convert.py clip-vit-base-patch32 presets/clip_b32"""

import argparse

from command_line import run

EXAMPLES = """examples:
  python tools/convert.py clip-vit-base-patch32 presets/clip_b32
  python tools/convert.py hf://sentence-transformers/all-MiniLM-L6-v2 presets/minilm
  python tools/convert.py vse_infinity/model_best.pth presets/vse_infinity --allow_pickle --vocabulary bert/vocab.txt
"""


def main(arguments):
    from keras_itr.conversion import convert

    convert(
        arguments.source,
        arguments.preset,
        kind=arguments.kind,
        vocabulary=arguments.vocabulary,
        sequence_length=arguments.sequence_length,
        cleaning=arguments.cleaning,
        activation=arguments.activation,
        num_heads=arguments.num_heads,
        allow_pickle=arguments.allow_pickle,
        overwrite=arguments.overwrite,
    )


def parser():
    flags = argparse.ArgumentParser(
        description="Weights of CLIP, SigLIP, BERT sentence encoders, ViT, DINOv2, CUSA, VSE-infinity to a preset.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", help="folder or file of weights, or hf://user/model")
    flags.add_argument("preset", help="folder to write")
    flags.add_argument("--kind", help="what the source is (default: told by the names of its tensors)")
    flags.add_argument("--vocabulary", help="vocab.txt or merges.txt (default: the one beside the weights)")
    flags.add_argument("--sequence_length", type=int, help="tokens read of a caption (default: the source's)")
    flags.add_argument("--cleaning", help="cleaning of captions before CLIP's tokenizer: none, cusa or words")
    flags.add_argument("--activation", choices=["quick_gelu", "gelu"], help="of CLIP without config.json: quick_gelu")
    flags.add_argument("--num_heads", type=int, help="attention heads of a BERT or SigLIP without config.json")
    flags.add_argument("--allow_pickle", action="store_true", help="read a PyTorch file, by weights_only=True")
    flags.add_argument("--overwrite", action="store_true", help="replace a preset that is there")
    return flags


if __name__ == "__main__":
    run(parser(), main)
