"""The decision of least expected cost, as a layer behind calibrated logits."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _keras, _labels, _precision
from keras_logit_adjust.layers.adjustment import add_constant


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MinimumRiskDecision(keras.layers.Layer):
    """The decision of least expected cost, `argmin_d Σ_y P(y|x)·C[y, d]`, as scores `−Σ_y P(y|x)·C[y, d]`.

    A matrix gives the cost of each decision for each true class. Decisions may differ from the classes, such as "ask a
    person". The argmax of the scores is the decision. Put the layer behind calibrated logits that are right for the
    class mix of the deployment, `kla.adjust(model, class_counts, target_prior=…, calibration=…)`. Do not use costs
    together with a balanced prior: they would correct twice.

    Args:
        costs: `[L, D]` the cost of decision d where the class is y.
        from_logits: whether the input is logits; False for probabilities.
        **kwargs: as in `keras.layers.Layer`.

    Input: `[..., L]`; or `[..., 1]` of one sigmoid unit, where `L = 2` and negatives come first. Output: float32
    scores `[..., D]`, the expected costs with a minus.

    Raises:
        ValueError: for costs that are not a finite matrix with a row for each class.

    Example:

    >>> import numpy as np
    >>> layer = MinimumRiskDecision([[0.0, 1.0, 0.3], [10.0, 0.0, 0.3]])  # classes well, ill; the last decision: look
    >>> layer(np.log([[0.99, 0.01], [0.9, 0.1]])).__array__().round(3).tolist()
    [[-0.1, -0.99, -0.3], [-1.0, -0.9, -0.3]]

    Reference: Elkan (2001), the foundations of cost-sensitive learning, equation 1.
    """

    def __init__(self, costs, *, from_logits=True, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.costs = _as_cost_matrix(costs)
        self.from_logits = _checks.check_bool(from_logits, "from_logits")
        self.supports_masking = True

    def build(self, input_shape):
        if (len(self.costs), input_shape[-1]) != (2, 1):
            _checks.check_length(self.costs[:, 0], input_shape[-1], "costs", "the input")
        self.matrix = add_constant(self, "costs", self.costs)

    def call(self, inputs):
        outputs = _labels.at_least_float32(inputs)
        if outputs.shape[-1] == 1:
            yes, no = (ops.sigmoid(outputs), ops.sigmoid(-outputs)) if self.from_logits else (outputs, 1.0 - outputs)
            probabilities = ops.concatenate([no, yes], axis=-1)
        else:
            probabilities = ops.softmax(outputs) if self.from_logits else outputs
        return -_precision.matmul(probabilities, ops.cast(ops.convert_to_tensor(self.matrix), probabilities.dtype))

    def compute_output_spec(self, inputs):
        made_by = _keras.operation_of(inputs)
        activation = getattr(made_by, "activation", None)
        activation = keras.activations.softmax if isinstance(made_by, keras.layers.Softmax) else activation
        if self.from_logits and activation in (keras.activations.softmax, keras.activations.sigmoid):
            raise ValueError(
                f"`MinimumRiskDecision` takes logits. Received the {activation.__name__} of layer {made_by.name!r}: "
                "say from_logits=False."
            )
        return keras.KerasTensor((*inputs.shape[:-1], self.costs.shape[1]), dtype=_labels.float_dtype(inputs))

    def get_config(self):
        return {**super().get_config(), "costs": self.costs.tolist(), "from_logits": self.from_logits}


def _as_cost_matrix(costs):
    matrix = _arrays.as_array(costs, "costs", "a finite matrix [L, D]").astype("float64")
    if not np.isfinite(matrix).all():
        raise ValueError("`costs` must be a finite matrix [L, D]. Received NaN or infinite numbers.")
    _checks.refuse_beyond_float32(matrix, "costs")
    if matrix.ndim != 2 or matrix.shape[0] < 2 or matrix.shape[1] < 2:
        raise ValueError(
            "`costs` must be a finite matrix [L, D], L ≥ 2 classes by D ≥ 2 decisions. "
            f"Received shape {matrix.shape}: for one cost a class, kla.tune_offsets(…, objective=costs)."
        )
    return matrix
