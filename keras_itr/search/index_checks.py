"""What may be added to an index, and asked of it."""

import numpy as np


def checked_ids(ids, known=()):
    """Ids as a list of Python ints or of strings.

    Args:
        ids: sequence of ints or of strings.
        known: ids that are there, whose kind they must have.

    Raises:
        ValueError: for a string or number by itself, ids that are neither, both, or given twice.
    """
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__len__") or np.ndim(ids) == 0:
        raise ValueError(f"ids must be a sequence of ints or of strings, got {ids!r}.")
    ids = (
        ids.tolist()
        if isinstance(ids, np.ndarray)
        else [getattr(item, "item", lambda item=item: item)() for item in ids]
    )
    ids = [str(item) if isinstance(item, str) else item for item in ids]
    kinds = {type(item) for item in [*ids, *known]}
    if not kinds <= {int} and not kinds <= {str}:
        raise ValueError(
            f"ids must be all ints or all strings, got {', '.join(sorted(kind.__name__ for kind in kinds))}."
        )
    if len(set(ids)) < len(ids):
        seen = set()
        twice = next(item for item in ids if item in seen or seen.add(item))
        raise ValueError(f"id {twice!r} is given twice.")
    return ids


def checked_vectors(vectors, dim, dtype, ids):
    """Vectors as a float32 array `(N, D)`, one for each id.

    Args:
        vectors: numbers `(N, D)`.
        dim: int, the width they must have, or None.
        dtype: string, the type they will be stored in.
        ids: list.

    Raises:
        ValueError: for another shape, or names the first id whose vector that type cannot hold.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise ValueError(f"vectors must be numbers ({len(ids)}, D), got {vectors.dtype} {vectors.shape}.")
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(f"vectors must be {dim} wide, as those of the index, got {vectors.shape}.")
    with np.errstate(over="ignore"):
        finite = np.isfinite(vectors.astype(dtype, copy=False)).all(axis=1)
    if not finite.all():
        raise ValueError(f"the vector of id {ids[int(np.argmin(finite))]!r} holds a number that {dtype} cannot hold.")
    return vectors.astype("float32", copy=False)


def checked_queries(queries, dim):
    """Queries as a float32 array `(Q, D)`; likewise, and `dim` may be None."""
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.dtype.kind not in "fiu" or (dim is not None and queries.shape[1] != dim):
        raise ValueError(f"queries must be numbers (Q, {dim or 'D'}), got {queries.dtype} {queries.shape}.")
    queries = queries.astype("float32", copy=False)
    if not np.isfinite(queries).all():
        raise ValueError(f"query {int(np.argmin(np.isfinite(queries).all(axis=1)))} holds NaN or infinity.")
    return queries
