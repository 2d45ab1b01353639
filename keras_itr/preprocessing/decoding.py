"""Encoded images to pixels, in core TensorFlow operations: one function for `tf.data`, eager calls and serving."""

# 300 MB once decoded. A header of a few bytes can ask for any size, so it is read before the pixels are.
MAX_PIXELS = 100_000_000
_HEADER_BYTES = 1 << 17
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")  # in the order of `_DECODERS`
_ORIENTATION_TAG = 0x0112


def decode_image(contents, max_pixels=MAX_PIXELS):
    """Decodes one JPEG, PNG, BMP or GIF (its first frame) to three channels, upright.

    The pixels of a JPEG are those of Pillow and of libjpeg's accurate transform, bit by bit; TensorFlow's default, the
    fast one, is off by one level on average. CMYK is turned into RGB, grey into three equal channels, an alpha channel
    is dropped, not blended, and a JPEG's EXIF orientation is applied, as every viewer does. A faulty EXIF block counts
    as none. What is truncated, empty or of another format is an error.

    Args:
        contents: Scalar string `tf.Tensor`, or `bytes`.
        max_pixels: Largest height x width that is decoded; default 100 million.

    Returns:
        uint8 (H, W, 3) `tf.Tensor`.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are none of these formats, are damaged, or hold too many pixels.

    Example:

    ```python
    import tensorflow as tf
    from keras_itr.preprocessing import decode_image

    red = tf.io.encode_png(tf.constant([[[255, 0, 0, 128]]], tf.uint8))
    decode_image(red)  # [[[255, 0, 0]]]
    ```

    Source: our choice.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        contents = tf.convert_to_tensor(contents, tf.string)
        header = _header(contents)
        is_kind = [tf.reduce_all(header[: len(signature)] == list(signature)) for signature in _SIGNATURES]
        kind = tf.argmax([*is_kind, True], output_type=tf.int32)  # the first that fits; the last is "none of them"
        branches = [lambda decode=decode: decode(contents, header, max_pixels) for decode in _DECODERS]
        return tf.ensure_shape(tf.switch_case(kind, branches), [None, None, 3])


def explain_fault(path, error):
    """One line on why a photo file could not be decoded.

    Args:
        path: the file.
        error: the `tf.errors.OpError` of reading or decoding it.

    Returns:
        string that names the file and ends with a full stop.
    """
    import tensorflow as tf

    if not isinstance(error, tf.errors.InvalidArgumentError):
        return f"{path} cannot be read: {type(error).__name__}."
    if "may have at most" in error.message:
        return f"{path} has more than {MAX_PIXELS:,} pixels by its header."
    if not tf.io.gfile.stat(str(path)).length:
        return f"{path} is empty."
    return f"{path} is no readable JPEG, PNG, BMP or GIF, or is damaged."


def _decode_jpeg(contents, header, max_pixels):
    import tensorflow as tf

    height, width, _ = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64))
    with tf.control_dependencies([_check_size(height, width, max_pixels)]):
        image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = _orientation(header)
    return tf.cond(orientation == 1, lambda: image, lambda: _upright(image, orientation))


def _decode_png(contents, header, max_pixels):
    return _decode_other(contents, _number(header, 20, 4, False), _number(header, 16, 4, False), max_pixels)


def _decode_gif(contents, header, max_pixels):
    return _decode_other(_first_frame(contents), _number(header, 8, 2, True), _number(header, 6, 2, True), max_pixels)


def _first_frame(contents):
    """A GIF that ends behind its first frame: the decoder unpacks every frame, and a small file may hold thousands."""
    import tensorflow as tf

    data = tf.io.decode_raw(contents, tf.uint8)
    size = tf.size(data)

    def byte(place):
        return tf.cast(data[tf.minimum(place, size - 1)], tf.int32)

    def colours(flags):
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def is_block(place):
        return (place < size) & ((byte(place) == 0x21) | (byte(place) == 0x2C))

    def behind(place, _):
        # Before its parts an image has a descriptor, perhaps colours, and the length of codes, an extension a label.
        is_image = byte(place) == 0x2C
        part = place + tf.where(is_image, 11 + colours(byte(place + 9)), 2)
        (end,) = tf.while_loop(
            lambda at: (at < size) & (byte(at) != 0), lambda at: [at + 1 + byte(at)], [part], maximum_iterations=size
        )
        return [end + 1, is_image]

    place = 13 + colours(byte(10))
    end, _ = tf.while_loop(
        lambda at, done: is_block(at) & ~done, behind, [place, tf.constant(False)], maximum_iterations=size
    )
    return tf.strings.join([tf.strings.substr(contents, 0, end), b";"])


def _decode_other(contents, height, width, max_pixels):
    import tensorflow as tf

    with tf.control_dependencies([_check_size(height, width, max_pixels)]):
        return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _decode_bmp(contents, header, max_pixels):
    import tensorflow as tf

    # Rows from the top have a negative height.
    height = tf.bitcast(tf.cast(_number(header, 22, 4, True), tf.uint32), tf.int32)
    with tf.control_dependencies([_check_size(tf.abs(height), _number(header, 18, 4, True), max_pixels)]):
        # Bitmaps decode only to the number of channels that they have: 1, which are places in a palette, 3 or 4.
        image = tf.io.decode_bmp(contents, channels=0)
    return tf.cond(tf.shape(image)[-1] < 3, lambda: _palette_colours(header, image), lambda: image[..., :3])


def _palette_colours(header, places):
    """Places in the palette of a bitmap, (H, W, 1), to RGB; an entry is blue, green, red and a zero."""
    import tensorflow as tf

    start = 14 + _number(header, 14, 4, True)
    entries = start + 4 * tf.range(256, dtype=tf.int64)[:, None] + tf.constant([2, 1, 0], tf.int64)
    palette = tf.gather(header, tf.minimum(entries, tf.size(header, tf.int64) - 1))
    return tf.gather(palette, tf.cast(places[..., 0], tf.int32))


def _refuse(contents, header, max_pixels):
    import tensorflow as tf

    is_known = tf.debugging.Assert(False, ["The bytes are no JPEG, PNG, BMP or GIF."])
    with tf.control_dependencies([] if is_known is None else [is_known]):
        return tf.zeros([0, 0, 3], tf.uint8)


_DECODERS = (_decode_jpeg, _decode_png, _decode_gif, _decode_bmp, _refuse)


def _header(contents):
    """The first bytes as uint8, with zeros behind a short file."""
    import tensorflow as tf

    raw = tf.io.decode_raw(tf.strings.substr(contents, 0, _HEADER_BYTES), tf.uint8)
    return tf.concat([raw, tf.zeros([32], tf.uint8)], axis=0)


def _number(header, start, size, little_endian):
    """Unsigned number of `size` bytes at `start`; a Python bool or a scalar tensor tells the order of the bytes."""
    import tensorflow as tf

    places = tf.clip_by_value(start + tf.range(size, dtype=tf.int64), 0, tf.size(header, tf.int64) - 1)
    digits = tf.cast(tf.gather(header, places), tf.int64)
    powers = tf.constant([256**place for place in range(size)], tf.int64)
    return tf.reduce_sum(digits * tf.where(little_endian, powers, powers[::-1]))


def _check_size(height, width, max_pixels):
    import tensorflow as tf

    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    message = f"An image may have at most {max_pixels} pixels; its header says (height, width):"
    return tf.debugging.Assert(pixels <= max_pixels, [message, height, width]) or tf.no_op()


def _orientation(header):
    """EXIF orientation, 1 to 8, of a JPEG; 1 (upright) where it has none or one that makes no sense."""
    import tensorflow as tf

    def is_application_data(position, tiff):
        marker = _number(header, position, 2, False)
        is_segment = ((marker >= 0xFFE0) & (marker <= 0xFFEF)) | (marker == 0xFFFE)
        return (tiff < 0) & is_segment & (position < tf.size(header, tf.int64) - 32)

    def next_segment(position, tiff):
        is_exif = (_number(header, position, 2, False) == 0xFFE1) & (
            _number(header, position + 4, 6, False) == int.from_bytes(b"Exif\0\0", "big")
        )
        return position + 2 + _number(header, position + 2, 2, False), tf.where(is_exif, position + 10, tiff)

    start = tf.constant(2, tf.int64), tf.constant(-1, tf.int64)
    _, tiff = tf.while_loop(is_application_data, next_segment, start, maximum_iterations=32)
    return tf.cond(tiff > 0, lambda: _orientation_tag(header, tiff), lambda: tf.constant(1, tf.int64))


def _orientation_tag(header, tiff):
    import tensorflow as tf

    little = tf.gather(header, tiff) == ord("I")
    directory = tiff + _number(header, tiff + 4, 4, little)
    count = tf.minimum(_number(header, directory, 2, little), 64)
    # An entry has twelve bytes: the tag in the first two, a short value in the ninth and tenth.
    places = directory + 2 + 12 * tf.range(count)[:, None] + tf.constant([0, 1, 8, 9], tf.int64)
    entries = tf.cast(tf.gather(header, tf.minimum(places, tf.size(header, tf.int64) - 1)), tf.int64)
    powers = tf.constant([1, 256], tf.int64)
    pairs = tf.reshape(entries, [-1, 2, 2]) * tf.where(little, powers, powers[::-1])
    tags, values = tf.unstack(tf.reduce_sum(pairs, axis=-1), axis=1)
    value = tf.reduce_max(tf.where(tags == _ORIENTATION_TAG, values, 0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _upright(image, orientation):
    import tensorflow as tf

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    return _flip(_flip(image, mirrored, 1), upside_down, 0)


def _flip(image, is_flipped, axis):
    import tensorflow as tf

    return tf.cond(is_flipped, lambda: tf.reverse(image, [axis]), lambda: image)
