"""What error messages across the package share."""


def one_line(error, limit=240):
    """An error's message on one line: what a library spreads over several is joined, and cut at `limit` characters.

    Args:
        error: an exception.
        limit: int, characters kept.

    Returns:
        string; the name of the exception if it has no message.

    Example:

    ```python
    from keras_itr.messages import one_line

    one_line(ValueError("first\\n  second"))  # "first second"
    ```
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit].rstrip()} ..."
