"""The model for a head of very many classes: a `keras.Model` that trains with the loss of its head."""

import warnings

import keras
from keras import ops

from keras_logit_adjust import _keras, _replicas
from keras_logit_adjust.layers.large import ManyClassDense
from keras_logit_adjust.layers.top_classes import ManyClassPredictor, TopClasses


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class ManyClassModel(keras.Model):
    """A `keras.Model` that ends in a `ManyClassDense` and trains with the loss of this head.

    Compile it without a loss and without metrics. It returns features, so metrics belong to `predictor`. Evaluation
    computes the exact loss, even if training draws rivals.

    Raises:
        ValueError: if the output does not come from a `ManyClassDense`; in `fit` and `evaluate`, if the model was
            compiled with a loss or metrics.

    Example:

    >>> import numpy as np
    >>> inputs = keras.Input((3,))
    >>> head = ManyClassDense(1000, class_counts=np.arange(1000, 0, -1))
    >>> model = ManyClassModel(inputs, head(keras.layers.Dense(8, "relu")(inputs)))
    >>> model.compile("adam")
    >>> _ = model.fit(np.ones((4, 3)), np.array([0, 7, 7, 999]), verbose=0)
    >>> model.predictor(k=5).predict(np.ones((4, 3)), verbose=0)["ids"].shape
    (4, 5)

    Reference: Menon et al. (2021), §5, equation 10.
    """

    @property
    def head(self):
        """The `ManyClassDense` of the model."""
        heads = [layer for layer in self.layers if isinstance(layer, ManyClassDense)]
        if len(heads) != 1:
            raise ValueError(
                f"A `ManyClassModel` must have one `ManyClassDense`, which makes its output. Received {len(heads)}."
            )
        last = _keras.operation_of(self.outputs[0]) if _keras.is_functional(self) else heads[0]
        if last is not heads[0]:
            raise ValueError(
                f"A `ManyClassModel` must end in its `ManyClassDense`. Received an output of {last.name!r}: call the "
                f"head {heads[0].name!r} last."
            )
        return heads[0]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.loss is not None:
            raise ValueError(
                f"Model {self.name!r} has the loss of its head. Received: loss={self.loss!r}: compile it without."
            )
        if training and self.head.adjustment is not None and self.head.is_plain:
            warnings.warn(
                f"Model {self.name!r} is adjusted by layer {self.head.adjustment.name!r} and trains a loss that knows "
                "no prior. It learns the prior of its training data again: the correction is lost. Train the model "
                "without the layer and adjust it again.",
                stacklevel=2,
            )
        loss = (self.head.loss if training else self.head.exact_loss)(y, y_pred, sample_weight)
        replica = _replicas.replica_context()
        for penalty in self.losses:
            loss = loss + ops.sum(penalty) / (1 if replica is None else replica.num_replicas_in_sync)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if _keras.has_compiled_metrics(self):
            raise ValueError(
                f"Model {self.name!r} gives features, of which metrics would measure nothing. Make it again, compile "
                "it without `metrics`, and give them to `model.predictor(k)`, or in `fit` to "
                "`kla.callbacks.PredictorMetrics`."
            )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def predictor(self, k):
        """A model with the same inputs and weights that gives the top `k` classes.

        Args:
            k: how many classes.

        Returns:
            A `ManyClassPredictor`, not compiled, whose output is a dict of `ids` and `scores`, `[..., k]`. The scores
            are not adjusted: after the adjusted loss their order is right for balanced classes.

        Raises:
            ValueError: for a `k` above the number of classes.
        """
        top = TopClasses(self.head, k=k)
        features = _keras.node_of(self.outputs[0]).input_tensors[0]  # another model may call the same head
        return ManyClassPredictor(self.input, top(features))
