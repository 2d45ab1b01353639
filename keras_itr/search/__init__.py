"""Search: shortlists by a coarse score and their order by a fine one."""

from keras_itr.search.reranking import shortlist_scores as shortlist_scores
from keras_itr.search.two_stage import shortlist as shortlist
from keras_itr.search.two_stage import two_stage_order as two_stage_order
