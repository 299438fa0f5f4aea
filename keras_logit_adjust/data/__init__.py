"""Long-tailed data: profiles, subsets and ready data sets."""

from keras_logit_adjust.data.datasets import LongTailDataset, load
from keras_logit_adjust.data.profiles import long_tail_counts, subsample

__all__ = ["LongTailDataset", "load", "long_tail_counts", "subsample"]
