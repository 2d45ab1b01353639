from keras_itr.losses.aai import image_text_contrastive as image_text_contrastive
from keras_itr.losses.aai import image_text_matching as image_text_matching
from keras_itr.losses.aai import intra_modal_separability as intra_modal_separability
from keras_itr.losses.asymmetry_sensitive import (
    asymmetry_sensitive_contrastive as asymmetry_sensitive_contrastive,
)
from keras_itr.losses.coder import batch_diversity_contrastive as batch_diversity_contrastive
from keras_itr.losses.coder import diversity_sensitive_contrastive as diversity_sensitive_contrastive
from keras_itr.losses.coder import negative_weights as negative_weights
from keras_itr.losses.coder import pseudo_label_prediction as pseudo_label_prediction
from keras_itr.losses.consistent_multimodal import (
    consistent_multimodal_contrastive as consistent_multimodal_contrastive,
)
from keras_itr.losses.contrastive import contrastive as contrastive
from keras_itr.losses.contrastive import symmetric_contrastive as symmetric_contrastive
from keras_itr.losses.hard_negative_triplet import hard_negative_triplet as hard_negative_triplet
from keras_itr.losses.local_mutual_information import local_mutual_information as local_mutual_information
from keras_itr.losses.pairs import same_image_pairs as same_image_pairs
from keras_itr.losses.pairs import same_image_targets as same_image_targets
from keras_itr.losses.soft_label_alignment import (
    cross_modal_soft_label_alignment as cross_modal_soft_label_alignment,
)
from keras_itr.losses.soft_label_alignment import soft_label_alignment as soft_label_alignment
from keras_itr.losses.soft_label_alignment import uni_modal_soft_label_alignment as uni_modal_soft_label_alignment
