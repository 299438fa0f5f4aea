"""Read labels, masks and weights by their static shapes, for losses, metrics and streaming priors."""

from keras_logit_adjust._labels.masks import align_weight, combine_masks, sum_by_class, sum_rows, zero_masked
from keras_logit_adjust._labels.reading import (
    Labels,
    check_logits,
    check_threshold_of,
    of_unit,
    read,
    read_ids,
    read_targets,
)
from keras_logit_adjust._labels.tensors import (
    as_labels,
    as_targets,
    at_least_float32,
    check_num_classes,
    float_dtype,
    ids_to_tensor,
    to_tensor,
    to_tensor_of_gradients,
)

__all__ = [
    "Labels",
    "align_weight",
    "as_labels",
    "as_targets",
    "at_least_float32",
    "check_logits",
    "check_num_classes",
    "check_threshold_of",
    "combine_masks",
    "float_dtype",
    "ids_to_tensor",
    "of_unit",
    "read",
    "read_ids",
    "read_targets",
    "sum_by_class",
    "sum_rows",
    "to_tensor",
    "to_tensor_of_gradients",
    "zero_masked",
]
