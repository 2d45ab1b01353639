import difflib

from keras_itr.preprocessing.tensors import to_strings

# White space of any script. RE2's own \s is ASCII only.
WHITE_SPACE = r"\s\v\x1c-\x1f\x{85}\p{Z}"
_CUSA_MAX_WORDS = 64


def clean_caption(texts, style):
    """Normalises raw captions, the step before a tokenizer, in core TensorFlow string operations.

    - `"cusa"`, as the official code of CUSA (Huang et al., AAAI 2024): lower case; `. , ' ! ? " ( ) * # : ; ~ - /`
      become spaces; `<person>` becomes `person`; runs of white space become one space; the ends are stripped; the first
      64 words stay. A single tab inside a caption survives and ends no word.
    - `"words"`, our choice: lower case; letters, marks and digits of any script stay, and all else becomes a space; an
      apostrophe stays inside a word, and the English endings are words of their own, as in Penn Treebank tokenizing:
      `it's` -> `it 's`, `don't` -> `do n't`; one space between words.
    - `"none"`: nothing changes.

    Args:
        texts: `str`, `bytes`, list or array of them, or string `tf.Tensor` of any shape.
        style: One of `"cusa"`, `"words"`, `"none"`.

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


def _clean_cusa(texts):
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


def _clean_words(texts):
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


_STYLES = {"cusa": _clean_cusa, "words": _clean_words, "none": lambda texts: texts}
