"""The pooling that a sentence encoder's own files ask for."""

_POOLINGS = {"cls": "first", "max": "max", "mean": "mean"}
_OLD = "pooling_mode_"


def asked_pooling(config, where):
    """The pooling that `1_Pooling/config.json` of sentence-transformers asks for, as `BertTextTower` calls it.

    Args:
        config: dict of the file: `{"pooling_mode": "cls"}`, since version 6 of the library; before it one
            `{"pooling_mode_cls_token": true}` for each.
        where: string, names the file in the message.

    Returns:
        `"first"`, `"max"` or `"mean"`.

    Raises:
        ValueError: for several, none, or one that is not known here: other vectors would come of a guess.

    Example:

    ```python
    from keras_itr.sentence_pooling import asked_pooling

    asked_pooling({"embedding_dimension": 384, "pooling_mode": "cls"}, "1_Pooling/config.json")  # "first"
    ```
    """
    modes = _modes(config)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(
            f"{where} asks for {' and '.join(map(str, modes)) or 'no pooling at all'}; the pooling must be one of "
            f"{', '.join(_POOLINGS)}, and one alone."
        )
    return _POOLINGS[modes[0]]


def _modes(config):
    asked = config.get("pooling_mode")
    if asked is None:
        names = [key.removeprefix(_OLD) for key, on in config.items() if key.startswith(_OLD) and on]
        return [name.removesuffix("_tokens").removesuffix("_token") for name in names]
    return asked.split("+") if isinstance(asked, str) else list(asked) if isinstance(asked, (list, tuple)) else [asked]
