"""What is measured on a part of a gallery."""

import numpy as np


def evenly(count, sample):
    """Rising int places of at most `sample` out of `count`, over the whole length: photos of one folder are alike.

    Example:

    ```python
    from keras_itr.search.sampling import evenly

    evenly(10, 3)  # [0, 4, 9]
    ```
    """
    return np.unique(np.linspace(0, count - 1, min(count, sample)).astype(np.int64))


def share_found(found, best, itself, k):
    """How many of the best rows were found, in percent, on average.

    Args:
        found: int `(Q, K)`, rows that a search found.
        best: int `(Q, K)`, those it should have found, best first.
        itself: int `(Q,)`, a row that counts for neither, or -1.
        k: int, how many of the best count.

    Returns:
        float, with two digits.

    Example:

    ```python
    import numpy as np
    from keras_itr.search.sampling import share_found

    share_found(np.array([[0, 7, 3]]), np.array([[0, 3, 5]]), np.array([0]), k=2)  # 50.0
    ```
    """
    shares = []
    for there, wanted, own in zip(found.tolist(), best.tolist(), itself.tolist(), strict=True):
        wanted = [row for row in wanted if row != own][:k]
        shares.append(len(set(wanted) & set(there)) / k)
    return round(100 * float(np.mean(shares)), 2)
