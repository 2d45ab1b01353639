"""Search: indexes of galleries, shortlists by a coarse score and their order by a fine one."""

import importlib

from keras_itr.search.gallery_index import GalleryIndex as GalleryIndex
from keras_itr.search.nearest import nearest as nearest
from keras_itr.search.two_stage import shortlist as shortlist
from keras_itr.search.two_stage import two_stage_order as two_stage_order

# Models are heavy, and orders, shortlists and indexes need none.
_LAZY = {
    "Found": "gallery",
    "Gallery": "gallery",
    "Ranking": "two_stage_search",
    "TwoStageSearch": "two_stage_search",
    "index_gallery": "gallery_indexing",
    "search_gallery": "gallery_report",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(f"keras_itr.search.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_LAZY]
