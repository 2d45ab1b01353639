"""Evaluation: the field's protocols over a model and a table, and their reports."""

from keras_itr.evaluation.blocks import embedding_ranks as embedding_ranks
from keras_itr.evaluation.blocks import embedding_recall as embedding_recall
from keras_itr.evaluation.protocols import check_protocol as check_protocol
from keras_itr.evaluation.protocols import evaluate as evaluate
from keras_itr.evaluation.reports import report as report
from keras_itr.evaluation.reports import save_report as save_report
from keras_itr.evaluation.sweep import plot_sweep as plot_sweep
from keras_itr.evaluation.sweep import sweep_k as sweep_k
from keras_itr.evaluation.sweep import sweep_report as sweep_report
from keras_itr.evaluation.two_stage import ranking_recall as ranking_recall
from keras_itr.evaluation.two_stage import two_stage_recall as two_stage_recall
from keras_itr.evaluation.uni_modal import uni_modal_recall as uni_modal_recall
