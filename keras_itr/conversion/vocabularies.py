"""Word pieces, merges and lengths of captions, from the files of a tokenizer beside the weights."""

import pathlib

from keras_itr.conversion.checkpoint import refuse_pointer

VOCABULARY, MERGES, WHOLE = "vocab.txt", "merges.txt", "tokenizer.json"
# Start, one word, end.
SHORTEST = 3


def word_pieces(checkpoint, count, vocabulary=None):
    """`(pieces, file)`: word pieces in the order of their ids.

    Args:
        checkpoint: a `Checkpoint`.
        count: int, ids of the model, for the message.
        vocabulary: path of a `vocab.txt`; None takes the one beside the weights, else `tokenizer.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read as one.
    """
    path = pathlib.Path(vocabulary or checkpoint.directory / VOCABULARY)
    if vocabulary or path.is_file():
        return _lines(path, f"name the {VOCABULARY} of {count} pieces as vocabulary"), path
    model = _model(checkpoint, "WordPiece")
    if model is None:
        raise FileNotFoundError(
            f"{path}: no such file, and no {WHOLE}; name the {VOCABULARY} of {count} pieces as vocabulary."
        )
    return _pieces(checkpoint, model), checkpoint.directory / WHOLE


def merges(checkpoint, vocabulary=None):
    """`(merges, file, pieces)`: byte pairs such as `"i n"` by falling priority; three times None if there are none.

    `pieces` are those of `tokenizer.json` in the order of their ids, None for a `merges.txt`, which has none.
    """
    path = pathlib.Path(vocabulary or checkpoint.directory / MERGES)
    if vocabulary or path.is_file():
        lines = _lines(path, f"name the {MERGES} as vocabulary")
        return [line for line in lines if line and not line.startswith("#version")], path, None
    model = _model(checkpoint, "BPE")
    if model is None:
        return None, None, None
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or []]
    return pairs, checkpoint.directory / WHOLE, _pieces(checkpoint, model)


def lowercase(checkpoint):
    """Whether captions are put in lower case: `tokenizer_config.json` says, else the normalizer, else True."""
    stated = (checkpoint.json("tokenizer_config.json") or {}).get("do_lower_case")
    normalizer = (checkpoint.json(WHOLE) or {}).get("normalizer") or {}
    return normalizer.get("lowercase", True) if stated is None else bool(stated)


def caption_length(checkpoint, given, positions, default=None, spare=0):
    """Tokens read of a caption: `given`, else `default`, else what the files say, else all positions.

    Args:
        checkpoint: a `Checkpoint`.
        given: int or None, what the user wants.
        positions: int, those that the model has.
        default: int or None, cut to the positions.
        spare: int, by how much the files may exceed the positions: some count those of the padding too.

    Raises:
        ValueError: if `given` or what a file says does not fit.
    """
    if given is not None:
        if not isinstance(given, int) or not SHORTEST <= given <= positions:
            raise ValueError(
                f"sequence_length is at most {positions}, the positions of {checkpoint.source}, and at least "
                f"{SHORTEST} (start, one word, end); received {given!r}."
            )
        return given
    if default is not None:
        return min(default, positions)
    stated = (checkpoint.json("sentence_bert_config.json") or {}).get("max_seq_length")
    if stated is None:
        # Libraries write 1e30 for "no limit".
        stated = (checkpoint.json("tokenizer_config.json") or {}).get("model_max_length")
        usable = isinstance(stated, (int, float)) and stated >= SHORTEST
        return int(min(stated, positions)) if usable else positions
    if not isinstance(stated, int) or not SHORTEST <= stated <= positions + spare:
        raise ValueError(
            f"{checkpoint.directory / 'sentence_bert_config.json'}: max_seq_length must be between {SHORTEST} and the "
            f"model's {positions} positions, and is {stated!r}; name a sequence_length."
        )
    return min(stated, positions)


def _lines(path, remedy):
    """The lines of a text file, of Windows too, with the mark that some editors put before them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}.")
    refuse_pointer(path)
    try:
        # White space of any other script is part of a piece.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8; {remedy}.") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _model(checkpoint, kind):
    """The `model` of `tokenizer.json`, None if there is no such file."""
    whole = checkpoint.json(WHOLE)
    if whole is None:
        return None
    model = whole.get("model")
    # Old files do not name the kind.
    found = model.get("type", kind) if isinstance(model, dict) else None
    if found != kind or not isinstance(model.get("vocab"), dict):
        raise ValueError(
            f"{checkpoint.directory / WHOLE}: its model must be {kind} with a vocab of pieces and ids, and is {found}."
        )
    return model


def _pieces(checkpoint, model):
    """The pieces by their ids, those added after training too."""
    whole = checkpoint.json(WHOLE)
    ids = {piece: number for piece, number in model["vocab"].items()}
    ids.update({added["content"]: added["id"] for added in whole.get("added_tokens") or []})
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise ValueError(f"{checkpoint.directory / WHOLE}: the ids of its pieces must be 0, 1, 2 and so on, each once.")
    return pieces
