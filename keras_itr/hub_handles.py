"""Handles of model hubs: what they are, and whether their hub can be reached, within two seconds."""

import threading
import urllib.error
import urllib.request
from pathlib import Path

HUBS = {"hf://": "huggingface.co", "kaggle://": "www.kaggle.com", "modelscope://": "www.modelscope.cn"}
_SECONDS = 1.5


def is_handle(source):
    """bool: whether a string names something on a hub, such as `"hf://user/model"`."""
    return source.startswith(tuple(HUBS))


def local_source(handle):
    """What to load a handle from: the handle itself if its hub answers, else the copy in the hub's cache.

    The libraries of the hubs try again and again before they give up; here one short request decides.

    Args:
        handle: string such as `"hf://user/model"` or `"kaggle://user/model/keras/variation/1"`.

    Returns:
        string: the handle, or a directory.

    Raises:
        ConnectionError: if the hub does not answer and there is no copy; says so in plain words.

    Example:

    ```python
    from keras_itr.hub_handles import local_source

    local_source("hf://user/model")
    ```
    """
    if hub_answers(handle):
        return handle
    copy = _cached(handle)
    if copy is None:
        raise ConnectionError(
            f"{handle}: {_hub(handle)} cannot be reached from here, and no copy of it is at hand. Check the network, "
            "or fetch the folder elsewhere, copy it here and pass its path."
        )
    return copy


def hub_answers(handle):
    """bool: whether the hub of a handle answers a short request."""
    # In a thread: looking up a name has no time limit of its own.
    answered = threading.Event()
    thread = threading.Thread(target=_request, args=(_hub(handle), answered), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answered.is_set()


def _hub(handle):
    return next(hub for prefix, hub in HUBS.items() if handle.startswith(prefix))


def _request(hub, answered):
    try:
        urllib.request.urlopen(urllib.request.Request(f"https://{hub}", method="HEAD"), timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # An answer, even so.
    except (OSError, ValueError):
        return
    answered.set()


def _cached(handle):
    """The directory of a handle's files in the cache of Hugging Face, if it is there."""
    if not handle.startswith("hf://"):
        return None
    import huggingface_hub

    try:
        folder = huggingface_hub.try_to_load_from_cache(handle.removeprefix("hf://"), "config.json")
    except ValueError:  # No name of a repository.
        return None
    return str(Path(folder).parent) if isinstance(folder, str) else None
