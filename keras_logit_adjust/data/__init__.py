"""Long-tailed data: profiles, subsets, samplers and ready data sets."""

from keras_logit_adjust.data.counts_file import read_class_counts
from keras_logit_adjust.data.datasets import LongTailDataset, load
from keras_logit_adjust.data.multi_label import MultiLabelSampler, subsample_multi_label
from keras_logit_adjust.data.profiles import long_tail_counts, subsample, zipf_counts
from keras_logit_adjust.data.sampling import LongTailSampler
from keras_logit_adjust.data.streams import RebalancedStream, rebalance, subsample_stream

__all__ = [
    "LongTailDataset",
    "LongTailSampler",
    "MultiLabelSampler",
    "RebalancedStream",
    "load",
    "long_tail_counts",
    "read_class_counts",
    "rebalance",
    "subsample",
    "subsample_multi_label",
    "subsample_stream",
    "zipf_counts",
]
