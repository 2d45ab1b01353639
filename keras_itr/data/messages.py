"""The parts that error messages of the readers share."""

import difflib

# Beyond this many candidates the search for the nearest name takes seconds.
MANY = 5000


def place(source, where):
    """Where in a file: `"captions.tsv:12"` for a line, `"dataset.json: images[3].split"` for a JSON path."""
    return f"{source}:{where}" if isinstance(where, int) else f"{source}: {where}"


def nearest(given, choices, cutoff=0.5):
    """The choice that `given` resembles most, or None."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(given), choices, 1, cutoff) if len(choices) <= MANY else []
    return close[0] if close else None


def choose(what, given, choices):
    """The end of a message: all choices, and the one that `given` resembles.

    Args:
        what: plural noun, such as `"splits"`.
        given: the value that is not among them.
        choices: strings.

    Returns:
        A string such as `"splits are train, val; did you mean 'val'?"`.
    """
    close = nearest(given, choices)
    listed = f"{what} are {', '.join(map(str, choices)) or 'none'}"
    return f"{listed}; did you mean {close!r}?" if close else f"{listed}."
