import difflib

from keras_itr.preprocessing.tensors import to_strings

# White space of any script. RE2's own \s is ASCII only.
WHITE_SPACE = r"\s\v\x1c-\x1f\x{85}\p{Z}"
_CUSA_MAX_WORDS = 64
_ASCL_MAX_WORDS = 60


def clean_caption(texts, style):
    """Normalises raw captions, the step before a tokenizer, in core TensorFlow string operations.

    - `"cusa"`, as the official code of CUSA (Huang et al., AAAI 2024): lower case; `. , ' ! ? " ( ) * # : ; ~ - /`
      become spaces; `<person>` becomes `person`; runs of white space become one space; the ends are stripped; the first
      64 words stay. A single tab inside a caption survives and ends no word.
    - `"ascl"`, as the operators of AsCL's first author (see `keras_itr.data.AsymmetryPositives`): lower case;
      `, . ' ! ? " ( ) * # : ; ~` vanish, so that `man's` becomes `mans`; `- /` and white space become one space;
      `<person>` becomes `person`; the first 60 words stay.
    - `"words"`, our choice: lower case; letters, marks and digits of any script stay, and all else becomes a space; an
      apostrophe stays inside a word, and the English endings are words of their own, as in Penn Treebank tokenizing:
      `it's` -> `it 's`, `don't` -> `do n't`; one space between words.
    - `"none"`: nothing changes.

    Args:
        texts: `str`, `bytes`, list or array of them, or string `tf.Tensor` of any shape.
        style: One of `"cusa"`, `"ascl"`, `"words"`, `"none"`; each is a function of this module, `clean_cusa`,
            `clean_ascl`, `clean_words`, of a string tensor.

    Returns:
        `str` for one `str` or `bytes`, a (nested) list of `str` for a list or NumPy array, and a string
        `tf.Tensor` of the same shape for a `tf.Tensor`, eager or inside a graph.

    Raises:
        ValueError: Unknown `style`.
        TypeError: `texts` are not strings.

    Example:

    ```python
    from keras_itr.preprocessing import clean_caption

    clean_caption("Two dogs -- one black -- run/jump!", "cusa")  # "two dogs one black run jump"
    clean_caption(["A man's hat isn't red."], "words")  # ["a man 's hat is n't red"]
    ```
    """
    import tensorflow as tf

    check_style(style)
    with tf.device("CPU:0"):
        cleaned = _STYLES[style](to_strings(texts))
    return cleaned if tf.is_tensor(texts) else _to_python(cleaned.numpy())


def check_style(style):
    """Raises ValueError, with the nearest valid name, unless `style` is one of `clean_caption`'s."""
    if style not in _STYLES:
        nearest = difflib.get_close_matches(str(style), _STYLES, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown cleaning style {style!r}; choose one of {list(_STYLES)}. Did you mean {nearest!r}?")


def _to_python(cleaned):
    if isinstance(cleaned, bytes):
        return cleaned.decode("utf-8", "replace")
    return [_to_python(item) for item in cleaned]


def replace_all(texts, *rules):
    """Pairs of a pattern and its replacement, applied to a string tensor in order."""
    import tensorflow as tf

    for pattern, replacement in rules:
        texts = tf.strings.regex_replace(texts, pattern, replacement)
    return texts


def clean_cusa(texts):
    """Style `"cusa"` of `clean_caption`: string tensor to string tensor of the same shape."""
    import tensorflow as tf

    return replace_all(
        tf.strings.lower(texts, encoding="utf-8"),
        (r"[.,'!?\"()*#:;~/-]", " "),
        (r"<person>", "person"),
        (f"[{WHITE_SPACE}]{{2,}}", " "),
        (r"\n+\z", ""),
        (r"\A +| +\z", ""),
        (rf"(?s)\A((?:[^ ]+ ){{{_CUSA_MAX_WORDS - 1}}}[^ ]+) .*\z", r"\1"),
    )


def clean_ascl(texts, max_words=_ASCL_MAX_WORDS):
    """Style `"ascl"` of `clean_caption`: string tensor to string tensor of the same shape."""
    import tensorflow as tf

    # Close to `clean_cusa`, which makes a blank of each of these marks, keeps 64 words, and keeps a single tab.
    cleaned = replace_all(
        tf.strings.lower(texts, encoding="utf-8"),
        (r"[,.'!?\"()*#:;~]", ""),
        (r"<person>", "person"),
        (f"[-/{WHITE_SPACE}]+", " "),
    )
    return first_words(cleaned, max_words)


def first_words(texts, counts):
    """The first words of every text with one blank between them; `counts` is one number, or one for each text."""
    import tensorflow as tf

    words = tf.strings.split(tf.reshape(texts, [-1])).to_tensor("")
    length = tf.shape(words)[1]
    kept = tf.where(tf.sequence_mask(tf.broadcast_to(counts, tf.shape(words)[:1]), length), words, "")
    # What was left out, and what fills a row, is blanks at the end.
    joined = tf.strings.strip(tf.strings.reduce_join(kept, axis=1, separator=" "))
    return tf.ensure_shape(tf.reshape(joined, tf.shape(texts)), texts.shape)


def clean_words(texts):
    """Style `"words"` of `clean_caption`: string tensor to string tensor of the same shape."""
    import tensorflow as tf

    return replace_all(
        tf.strings.lower(texts, encoding="utf-8"),
        ("\u2019", "'"),
        (r"[^\p{L}\p{M}\p{N}']+", " "),
        # "man 's", as in captions that were tokenized before, is "man's".
        (r" '(s|re|ve|ll|d|m)( |\z)", r"'\1\2"),
        (r"'+( |\z)", r"\1"),
        (r"(\A| )'+", r"\1"),
        (r"n't( |\z)", r" n't\1"),
        (r"'(s|re|ve|ll|d|m)( |\z)", r" '\1\2"),
        (r" +", " "),
        (r"\A | \z", ""),
    )


_STYLES = {"cusa": clean_cusa, "ascl": clean_ascl, "words": clean_words, "none": lambda texts: texts}
