"""Metrics: pure functions of scores and explicit correspondences, in NumPy."""

from keras_itr.metrics.chance import chance_hit_rate as chance_hit_rate
from keras_itr.metrics.correlation import spearman as spearman
from keras_itr.metrics.precision import map_at_r as map_at_r
from keras_itr.metrics.precision import r_precision as r_precision
from keras_itr.metrics.ranking import hit_rate as hit_rate
from keras_itr.metrics.ranking import ranks as ranks
from keras_itr.metrics.recall import recall_at_k as recall_at_k
from keras_itr.metrics.recall import recall_from_ranks as recall_from_ranks
from keras_itr.metrics.recall import two_way_ranks as two_way_ranks
