import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import decode_image
from keras_itr.preprocessing.decoding import MAX_PIXELS

IN_GRAPH = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
WAYS = {"eager": decode_image, "graph": IN_GRAPH}


@pytest.fixture(scope="module")
def jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype="uint8")
    return tf.io.encode_jpeg(pixels, quality=95).numpy()


def with_exif(contents, orientation, endian="<", before=b""):
    """A JPEG with an EXIF block of three entries, the orientation in the middle, behind other segments."""
    entries = [(0x010F, 3, 7), (0x0112, 3, orientation), (0x0128, 3, 2)]
    directory = struct.pack(f"{endian}H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack(f"{endian}HHIHH", tag, kind, 1, value, 0)
    magic = b"II*\0" if endian == "<" else b"MM\0*"
    tiff = magic + struct.pack(f"{endian}I", 8) + directory + b"\0\0\0\0"
    block = b"Exif\0\0" + tiff
    return contents[:2] + before + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + contents[2:]


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
    0: lambda a: a,
    9: lambda a: a,
}


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_of_a_jpeg_is_applied(jpeg, orientation, endian):
    stored = decode_image(jpeg).numpy()
    comment = b"\xff\xfe" + struct.pack(">H", 7) + b"hello"
    for before in (b"", comment, comment * 3):
        photo = with_exif(jpeg, orientation, endian, before)
        for decode in WAYS.values():
            np.testing.assert_array_equal(decode(photo), UPRIGHT[orientation](stored))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0"]
)
def test_a_faulty_exif_block_counts_as_none(jpeg, block):
    photo = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    for decode in WAYS.values():
        np.testing.assert_array_equal(decode(photo), decode_image(jpeg))


def test_a_jpeg_has_the_pixels_of_pillow():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    smooth = np.add.outer(np.arange(64), np.arange(96)).astype("uint8")
    pixels = np.stack([smooth, smooth[::-1], np.roll(smooth, 30, axis=1)], axis=-1)
    for mode, options in (("RGB", {}), ("RGB", {"progressive": True}), ("L", {}), ("CMYK", {})):
        file = io.BytesIO()
        image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=85, **options)
        expected = np.asarray(image.open(file).convert("RGB"))
        np.testing.assert_array_equal(decode_image(file.getvalue()), expected, err_msg=f"{mode} {options}")


def test_a_palette_png_and_a_16_bit_png_have_the_pixels_of_pillow():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype="uint8")
    file = io.BytesIO()
    image.fromarray(pixels).convert("P").save(file, "PNG")
    np.testing.assert_array_equal(decode_image(file.getvalue()), np.asarray(image.open(file).convert("RGB")))
    deep = tf.io.encode_png(tf.constant(pixels.astype("uint16") * 257)).numpy()
    np.testing.assert_array_equal(decode_image(deep), pixels)


def test_a_palette_bitmap_has_the_colours_of_its_palette():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype="uint8")
    file = io.BytesIO()
    image.fromarray(pixels).convert("P").save(file, "BMP")
    for decode in WAYS.values():
        np.testing.assert_array_equal(decode(file.getvalue()), np.asarray(image.open(file).convert("RGB")))


def huge_png(height, width):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def huge_jpeg(jpeg):
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", 20000, 20000) + jpeg[start + 4 :]


def test_what_is_no_image_is_an_error(jpeg, encoded_images):
    png = encoded_images["colour png"][0]
    broken = {
        "empty": b"",
        "text": b"a photo of a dog, renamed to dog.jpg",
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "first bytes of a jpeg": jpeg[:3],
        "truncated png": png[:40],
        "png signature": png[:8],
        "webp": b"RIFF\x1a\0\0\0WEBPVP8 \x0e\0\0\0",
        "html": b"<html>404</html>",
        "gif signature": b"GIF89a",
        "bitmap signature": b"BM",
    }
    for name, contents in broken.items():
        for way, decode in WAYS.items():
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode(contents)
                pytest.fail(f"{name} was decoded, {way}")


def test_a_header_of_400_million_pixels_is_refused_before_it_is_decoded(jpeg):
    bitmap = b"BM" + b"\0" * 8 + struct.pack("<IIiiHH", 54, 40, 20000, -20000, 1, 24) + b"\0" * 24
    huge = {
        "png": huge_png(20000, 20000),
        "jpeg": huge_jpeg(jpeg),
        "gif": b"GIF89a" + struct.pack("<HH", 20000, 20000) + b"\0" * 20,
        "bitmap": bitmap,
    }
    for name, contents in huge.items():
        for way, decode in WAYS.items():
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"at most {MAX_PIXELS} pixels"):
                decode(contents)
                pytest.fail(f"{name}, {way}")


def test_the_limit_of_pixels_can_be_set(jpeg):
    assert decode_image(jpeg, max_pixels=24 * 40).shape == (24, 40, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 959 pixels"):
        decode_image(jpeg, max_pixels=959)


@pytest.mark.parametrize("way", WAYS)
def test_a_gif_is_its_first_frame_however_many_follow(way):
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(3)
    for palette, comment in (("global", b""), ("local", b"a comment"), ("grey", b"")):
        frames = [image.fromarray(draw.integers(0, 256, (20, 30, 3), dtype="uint8")) for _ in range(3)]
        frames = [frame.convert("L") if palette == "grey" else frame.quantize(64) for frame in frames]
        buffer = io.BytesIO()
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], comment=comment, loop=0)
        contents = buffer.getvalue()
        expected = np.asarray(image.open(io.BytesIO(contents)).convert("RGB"))
        np.testing.assert_array_equal(WAYS[way](contents), expected)
        # What follows the first frame is not looked at: garbage there, or ten thousand frames more.
        np.testing.assert_array_equal(WAYS[way](contents[:-500] + b"\x2c" * 500), expected)
    for broken in (contents[:40], contents[:13], contents[:200] + b"\0" * 50):
        with pytest.raises(tf.errors.InvalidArgumentError):
            WAYS[way](broken)
