"""Adjusted tasks of KerasHub, which stay tasks of their class: they take strings and raw images."""

import functools
import warnings

import keras

from keras_logit_adjust.posthoc import _graph, _hub


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class AdjustedTask:
    """A task of KerasHub with adjusted logits. `kla.adjust` returns it for a task, mixed into the task's class.

    Attributes:
        task: the task without the adjustment, of the same layers and not compiled.
        adjustment: the `kla.layers.LogitAdjustment`.
    """

    def get_config(self):
        return {
            "task": keras.saving.serialize_keras_object(self.task),
            "adjustment": keras.saving.serialize_keras_object(self.adjustment),
        }

    @classmethod
    def from_config(cls, config):
        task, layer = (keras.saving.deserialize_keras_object(config[key]) for key in ("task", "adjustment"))
        return adjusted(task, _graph.find_head(task), layer)

    def save_to_preset(self, *args, **kwargs):
        """Refused: KerasHub loads a preset as one of its own classes, which have no adjustment."""
        raise ValueError(
            f"A preset has no place for an adjustment. Fold the task that {self.name!r} was made of, and save that: "
            "kla.fold_into_bias(task, class_counts).save_to_preset(folder). Or keep the layer: "
            'adjusted.save("model.keras").'
        )


def adjusted(task, head, layer):
    """The task whose logits pass through `layer`; it is also of the class of `task`."""
    graph = _graph.rebuild(task, head, lambda logits: _graph.activated(layer(logits), head.output, head.axis))
    # Not the given task: the state of its optimizer would be saved too.
    plain = _hub.as_task(keras.Model(task.input, task.output, name=task.name), like=task)
    return _hub.as_task(graph, like=task, kind=_kind_of(type(task)), task=plain, adjustment=layer)


@functools.cache
def _kind_of(kind):
    """The class of adjusted tasks of class `kind`."""
    made = type(f"Adjusted{kind.__name__}", (AdjustedTask, kind), {"__module__": __name__})
    # Saved under the name of `AdjustedTask`, which loads all of them. The class itself is not registered: KerasHub
    # searches the registered classes for the class that loads a preset.
    for part in (made, AdjustedTask):
        keras.saving.register_keras_serializable(package="keras_logit_adjust", name="AdjustedTask")(part)
    return made


def check_copyable(model, layer, *, use_bias, way_out):
    """Raise if KerasHub could not load a task with a copy of the head `layer`, with or without a bias."""
    if isinstance(model, AdjustedTask):
        raise ValueError(
            f"Task {model.name!r} is adjusted by a layer, and KerasHub would not load it with another head. Give the "
            "task without the layer: adjusted.task."
        )
    if _hub.is_task(model) and (layer.bias is not None) != use_bias:
        has, makes = ("no bias", "with") if use_bias else ("a bias", "without")
        raise ValueError(
            f"Head {layer.name!r} of a {type(model).__name__} has {has}, and KerasHub would not load one {makes} it. "
            f"{way_out}"
        )


def warn_of_lost_precision(model, layer):
    """Warn if a head is float32 and KerasHub would load it in the half precision of its backbone."""
    if _hub.is_task(model) and layer.compute_dtype != model.backbone.compute_dtype:
        warnings.warn(
            f"Head {layer.name!r} of {model.name!r} is {layer.compute_dtype}, and its backbone "
            f"{model.backbone.compute_dtype}. KerasHub does not save the dtype of the head: after loading, the prior "
            "of a folded task is rounded. Use `kla.adjust`, whose layer stays float32.",
            stacklevel=3,
        )
