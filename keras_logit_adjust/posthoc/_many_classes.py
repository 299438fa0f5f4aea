"""Models of very many classes, adjusted and folded in their head: they have no logits behind the head."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras
from keras_logit_adjust.layers import ManyClassModel, ManyClassPredictor, TopClasses
from keras_logit_adjust.posthoc import _copy
from keras_logit_adjust.posthoc._graph import variables_of


def has_many_classes(model):
    """Whether `model` is a `ManyClassModel` or a predictor of one."""
    return isinstance(model, (ManyClassModel, ManyClassPredictor))


def head_of(model):
    """The `ManyClassDense` of a model that `has_many_classes`."""
    return model.head if isinstance(model, ManyClassModel) else _keras.operation_of(model.outputs[0]).head


def check_adjustable(model, output="auto", axis=None):
    """Raise if the scores of `model` are adjusted already, or are not what `output` and `axis` say."""
    if output not in ("auto", "logits"):
        raise _checks.ArgumentError(
            "output", f'Model {model.name!r} scores classes by logits: output="logits". Received: output={output!r}.'
        )
    if axis not in (None, -1):
        raise _checks.ArgumentError("axis", f"`axis` must be the axis of the classes, −1. Received: axis={axis}.")
    head = head_of(model)
    if head.adjustment is not None:
        raise ValueError(
            f"Head {head.name!r} has an adjustment already, {head.adjustment.name!r}, and takes no second one. Adjust "
            f"the model that {model.name!r} was made of, or change this one: model.head.adjustment.set(tau=…)."
        )


def adjusted(model, layer):
    """A model with the same weights whose scores pass through `layer`, a `LogitAdjustment`."""
    head = head_of(model)
    twin = _like(head, adjustment=layer)
    twin.bias = None
    for name, variable in variables_of(head):
        setattr(twin, name, variable)
    twin.lie_as(head)
    layer.build((None, head.units))
    twin.built = True
    with _keras.leaving_no_calls(model):
        return _with_head(model, twin, model.input, _features(model), name=f"{model.name}_adjusted")


def folded(model, layer):
    """A copy of `model`, and its head: the kernel and the bias give the scores that `layer` would give."""
    head = head_of(model)
    temperature = 1.0 if layer.calibration is None else layer.calibration.temperature
    _copy.check_own_head(model, head, "Use `kla.adjust`, which shares them.")
    features = _features(model)
    with _keras.leaving_no_calls(model):
        clone = _copy.clone(keras.Model(model.input, features))
    twin = _like(head, use_bias=True)
    twin.build(features.shape)
    values = {name: ops.convert_to_numpy(variable) for name, variable in variables_of(head)}
    bias = values.get("bias", np.zeros(len(values["kernel"]))).astype("float64") / temperature
    bias[: head.units] -= layer.values
    values |= {"kernel": values["kernel"] / temperature, "bias": bias}
    for name, value in values.items():
        getattr(twin, name).assign(value)
    return _with_head(model, twin, clone.input, clone.output, name=model.name), twin


def _like(head, **changes):
    """A head with the options and the prior of `head`, without weights."""
    return type(head)(**{**head.get_config(), "class_counts": head.prior, "tau": head.tau, **changes})


def _features(model):
    """The symbolic features that the head of `model` scores."""
    return _keras.node_of(model.outputs[0]).input_tensors[0]


def _with_head(model, head, inputs, features, *, name):
    """A model with another head, of the same kind as `model`: for training, or a predictor."""
    if isinstance(model, ManyClassModel):
        return ManyClassModel(inputs, head(features), name=name)
    top = _keras.operation_of(model.outputs[0])
    return ManyClassPredictor(inputs, TopClasses(head, k=top.k, name=top.name)(features), name=name)
