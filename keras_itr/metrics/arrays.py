"""Conversion and checks shared by the metrics: plain NumPy in, plain NumPy out."""

import numpy as np


def to_numpy(values):
    """NumPy array of a NumPy array, a list, or a tensor of any backend."""
    if isinstance(values, np.ndarray | np.generic | list | tuple):
        return np.asarray(values)
    import keras  # Only tensors need it.

    return np.asarray(keras.ops.convert_to_numpy(values))


def to_floats(values):
    """float32 and float64 stay as they are; half precision becomes float32, integers float64: all exact."""
    values = to_numpy(values)
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float64 if values.dtype.kind in "iub" else np.float32)


def check_scores(scores, positives):
    """Scores as floats and positives as booleans, both `(Q, G)`; anything else is an error."""
    scores, positives = to_floats(scores), to_numpy(positives)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(
            f"scores must be a matrix (queries, gallery) with at least one row and column, got shape {scores.shape}."
        )
    if positives.shape != scores.shape:
        raise ValueError(
            f"positives must have the shape of scores, {scores.shape}, got {positives.shape}; "
            "mark every gallery item of every query True or False."
        )
    if positives.dtype != np.bool_:
        raise ValueError(f"positives must be boolean, got {positives.dtype}; compare labels, or use astype(bool).")
    return scores, positives


def check_no_nan(scores, first_query=0):
    """Every comparison with NaN is False, so that an unchecked NaN would count as a perfect rank."""
    # The maximum of a row carries its NaN, at the cost of one pass and no mask.
    bad = np.isnan(scores.max(axis=1))
    if bad.any():
        raise ValueError(
            f"scores must not contain NaN, but those of query {first_query + int(np.argmax(bad))} do; "
            "the model has diverged or its inputs hold NaN."
        )


def check_cutoff(k, name="k"):
    """`k` as an int of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {k!r}.")
    return int(k)
