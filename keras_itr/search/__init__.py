"""Search: indexes of galleries, shortlists by a coarse score and their order by a fine one."""

from keras_itr.search.gallery_index import GalleryIndex as GalleryIndex
from keras_itr.search.nearest import nearest as nearest
from keras_itr.search.two_stage import shortlist as shortlist
from keras_itr.search.two_stage import two_stage_order as two_stage_order

_LAZY = ("Ranking", "TwoStageSearch")


def __getattr__(name):
    # Models are heavy, and orders and shortlists need none.
    if name in _LAZY:
        from keras_itr.search import two_stage_search

        return getattr(two_stage_search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_LAZY]
