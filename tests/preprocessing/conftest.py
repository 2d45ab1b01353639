import struct

import numpy as np
import pytest

CAPTIONS = (
    "A man's hat isn't red.",
    "Two dogs -- one BLACK, one white -- run/jump over 12 logs!",
    "",
    "Café déjà-vu: “quoted” naïve text, ΣΟΦΟΣ İstanbul",
    "猫が座っている",
    "a very long caption " * 30,
    "   \t\n",
)


@pytest.fixture
def captions():
    return list(CAPTIONS)


def bitmap(pixels):
    """uint8 (H, W), (H, W, 3) or (H, W, 4) -> the bytes of a BMP file."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    rows = pixels.reshape(height, width, channels)[::-1]
    if channels > 1:
        rows = np.concatenate([rows[..., 2::-1], rows[..., 3:]], axis=-1)
    rows = np.pad(rows.reshape(height, -1), ((0, 0), (0, -width * channels % 4)))
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256)) if channels == 1 else b""
    offset = 54 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", offset + rows.size, 0, 0, offset)
    information = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 * channels, 0, rows.size, 0, 0, 0, 0)
    return header + information + palette + rows.tobytes()


# One pixel, two frames: red, then blue.
ANIMATION = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\xff"
    b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x4c\x01\x00\x3b"
)


@pytest.fixture
def encoded_images():
    """Named encoded images with the pixels (H, W, 3) that they stand for; `None` where the format is lossy."""
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype="uint8")
    colour, grey = pixels[..., :3], np.repeat(pixels[..., :1], 3, axis=-1)
    return {
        "colour jpeg": (tf.io.encode_jpeg(colour).numpy(), None),
        "grey jpeg": (tf.io.encode_jpeg(pixels[..., :1]).numpy(), None),
        "colour png": (tf.io.encode_png(colour).numpy(), colour),
        "grey png": (tf.io.encode_png(pixels[..., :1]).numpy(), grey),
        "grey png with alpha": (tf.io.encode_png(pixels[..., :2]).numpy(), grey),
        "colour png with alpha": (tf.io.encode_png(pixels).numpy(), colour),
        "one pixel": (tf.io.encode_png(colour[:1, :1]).numpy(), colour[:1, :1]),
        "colour bmp": (bitmap(colour), colour),
        "colour bmp with alpha": (bitmap(pixels), colour),
        "grey bmp": (bitmap(pixels[..., 0]), grey),
        "gif": (ANIMATION, np.array([[[255, 0, 0]]], "uint8")),
    }
