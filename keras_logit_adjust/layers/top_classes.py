"""The top k classes of a head of very many classes: a layer, and a model whose metrics read ids."""

import keras
from keras import ops

from keras_logit_adjust import _checks, _top_ids


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class TopClasses(keras.layers.Layer):
    """The ids and scores of the top `k` classes of a `ManyClassDense`, by chunks. It shares the head's weights.

    Args:
        head: a `ManyClassDense`.
        k: how many classes, at most its `units`.
        **kwargs: as in `keras.layers.Layer`.

    Output: a dict of `ids`, int32 `[..., k]`, and `scores`, float32 `[..., k]`, the largest first.

    Raises:
        ValueError: for a `k` above the number of classes.

    Example:

    >>> import numpy as np
    >>> from keras_logit_adjust.layers import ManyClassDense
    >>> head = ManyClassDense(3, class_counts=[3, 2, 1])
    >>> _ = head(np.ones((1, 2)))
    >>> head.set_weights([np.array([[0, 0], [2, 2], [1, 1]]), np.zeros(3), np.zeros(3)])
    >>> TopClasses(head, k=2)(np.ones((1, 2)))["ids"].__array__().tolist()
    [[1, 2]]
    """

    def __init__(self, head, *, k, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.head, self.k = head, _checks.check_integer(k, "k", 1, head.units)

    def build(self, input_shape):
        if not self.head.built:
            self.head.build(input_shape)

    def call(self, inputs):
        ids, scores = self.head.top_k(inputs, k=self.k)
        return {"ids": ids, "scores": scores}

    def compute_output_spec(self, inputs):
        shape = (*inputs.shape[:-1], self.k)
        return {
            "ids": keras.KerasTensor(shape, dtype="int32"),
            "scores": keras.KerasTensor(shape, dtype="float32"),
        }

    def compute_mask(self, inputs, previous_mask=None):
        return {"ids": previous_mask, "scores": previous_mask}

    def get_config(self):
        head = keras.saving.serialize_keras_object(self.head)
        return {**super().get_config(), "head": head, "k": self.k}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "head": keras.saving.deserialize_keras_object(config["head"])})


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class ManyClassPredictor(keras.Model):
    """A Functional model that ends in a `TopClasses`. Its metrics see ids and scores as one prediction.

    `ManyClassModel.predictor` makes it. Compile it without a loss, and with metrics that take the ids of the best
    classes. Metrics of `kla.metrics` do. A `keras.Metric` of your own finds ids and scores as `y_pred.ids` and
    `y_pred.scores`.

    Raises:
        ValueError: in evaluation, for a loss: the top classes have no gradient, and the loss belongs to the
            `ManyClassModel`.

    Example:

    >>> import numpy as np, keras_logit_adjust as kla
    >>> inputs = keras.Input((3,))
    >>> model = kla.layers.ManyClassModel(inputs, kla.layers.ManyClassDense(1000, np.arange(1000, 0, -1))(inputs))
    >>> predictor = model.predictor(k=5)
    >>> predictor.compile(metrics=[kla.metrics.BalancedAccuracy(1000, k=5)])
    >>> found = predictor.evaluate(np.ones((4, 3)), np.array([0, 7, 7, 999]), verbose=0, return_dict=True)
    >>> 0 <= found["top_5_balanced_accuracy"] <= 1
    True
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.loss is not None:
            raise ValueError(
                f"Model {self.name!r} gives the top classes, of which no loss is computed. Compile it with metrics "
                "alone, and evaluate the loss of the `ManyClassModel` that it comes from."
            )
        return ops.zeros(())

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, _top_ids.TopIds(**y_pred), sample_weight)
