"""Several outputs of a model, each with its own counts.

Counts by output are a dict with the names of outputs as keys, or a list with one entry for each output. Each output is
adjusted or folded as a separate model of the same layers. Then the outputs are put back into the original structure.
"""

import numbers
import re
from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks, _keras, priors
from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.losses import _marks
from keras_logit_adjust.posthoc import _graph, _guard, _kind


def are_by_output(model, class_counts):
    """Whether `class_counts` are for several outputs: a dict whose values, or a list whose entries, are counts."""
    if isinstance(class_counts, Mapping):
        return bool(class_counts) and not any(map(_is_number, class_counts.values()))
    if not isinstance(class_counts, (list, tuple)) or not _has_several(model):
        return False
    return not any(map(_is_number, class_counts))


def _has_several(model):
    return _graph.is_graph(model) and len(getattr(model, "outputs", None) or ()) > 1


def _is_number(value):
    return isinstance(value, (numbers.Number, str)) or getattr(value, "shape", None) == ()


def adjusted(adjust, model, class_counts, options):
    """`model` with every output adjusted that `class_counts` name; `adjust` adjusts a model of one output."""
    _graph.require_keras_model(model)
    if not _graph.is_graph(model):
        return _adjusted_subclass(adjust, model, class_counts, options)
    outputs = _Outputs(model)
    changed = {}
    with _keras.leaving_no_calls(model):
        for place, own in _requests(class_counts, options, outputs.place).items():
            changed[place] = _tensor_of(adjust(outputs.single(place), **own), outputs.tensors[place])
        _rename(outputs, changed)
    return outputs.replaced(changed)


def folded(head_of, fold, model, class_counts, options):
    """A copy of `model` with changed heads, for every output that `class_counts` name.

    `head_of` finds the head of a model of one output; `fold` copies a model with one head changed.
    """
    allow = options.pop("allow_double_correction")
    requests = _requests(class_counts, options, _Outputs(model).place)
    defaults = {"tau": 1.0, "target_prior": None, "num_examples": None, "calibration": None}
    for place, own in requests.items():
        target = {name: own.get(name) for name in ("class_counts", "num_examples", "target_prior")}
        single, adds_target = _Outputs(model).single(place), _guard.adds_target_alone(**target)
        _guard.check_not_adjusted(single, allow or adds_target)
        own["corrected_before"] = _guard.hides_its_prior(single, adds_target=adds_target)
        own["loss"] = _kind.loss_of(single)  # a copy of the model is not compiled
    for place, own in requests.items():
        model = fold(model, head_of(_Outputs(model).single(place), "auto"), **{**defaults, **own})
    return model


def names_of(model):
    """The names of the outputs of a graph with several outputs; an empty list for any other model."""
    if not _has_several(model):
        return []
    outputs = _Outputs(model)
    return list(outputs.tensors if outputs.is_dict else outputs.names)


def one_of(model, output_name):
    """A graph with the one output called `output_name`, compiled with the settings of the whole for this output."""
    _graph.require_keras_model(model)
    if not _graph.is_graph(model):
        raise _checks.ArgumentError(
            "output_name",
            f"`output_name` is for Functional models. Received: {output_name!r} of the subclassed {model.name!r}.",
        )
    outputs = _Outputs(model)
    return outputs.single(outputs.place(output_name, "output_name"))


class _Outputs:
    """The outputs of a graph by place: the key in a dict, or the position in a list.

    Attributes:
        tensors: `{place: symbolic output}`.
        names: `{name of the output's layer: place}` for the outputs of a list.
    """

    def __init__(self, model):
        if isinstance(model, keras.Sequential):
            _graph.require_model(model)  # raises if it is not built
        self.model, structure = model, _graph.structure_of(model, "output")
        self.is_dict = isinstance(structure, Mapping)
        self._structure = structure
        if isinstance(structure, (list, tuple)):
            self.tensors = dict(enumerate(structure))
        else:
            self.tensors = dict(structure) if self.is_dict else {0: structure}
        if any(keras.tree.is_nested(tensor) for tensor in self.tensors.values()):
            raise ValueError(
                "Outputs by name must be one dict, or one list, of tensors. "
                f"Model {model.name!r} gives {keras.tree.map_structure(lambda tensor: '…', structure)}: build it with "
                "keras.Model(model.input, {…})."
            )
        self.names = {} if self.is_dict else {name: place for place, name in enumerate(model.output_names)}
        if len(self.names) < len(self.tensors) and not self.is_dict:  # one layer gives two outputs
            self.names = {f"output_{place}": place for place in self.tensors}

    def place(self, key, argument):
        """The place of the output that `key` names."""
        key = self.names.get(key, key)
        if key not in self.tensors:
            names = list(self.tensors) if self.is_dict else list(self.names)
            raise _no_output(argument, key, self.model, names)
        return key

    def word(self, place):
        """The name of an output, as a part of the name of a layer."""
        return _word(place if self.is_dict else list(self.names)[place])

    def single(self, place):
        """The model of one output, compiled with the loss of this output."""
        tensor = self.tensors[place]
        single = keras.Model(
            _graph.structure_of(self.model, "input"), tensor, name=f"{self.model.name}_{self.word(place)}"
        )
        for output, loss in _marks.compiled_pairs(self.model):
            if output is tensor and loss is not None:
                single.compile(optimizer=None, loss=loss)
        return single

    def replaced(self, changed):
        """The model with the outputs `changed`, `{place: symbolic tensor}`; the others stay the same."""
        tensors = {**self.tensors, **changed}
        outputs = tensors
        if not self.is_dict:
            is_list = isinstance(self._structure, (list, tuple))
            outputs = like(self._structure, tensors.values()) if is_list else tensors[0]
        return keras.Model(_graph.structure_of(self.model, "input"), outputs, name=f"{self.model.name}_adjusted")


def _no_output(argument, key, model, names):
    return _checks.ArgumentError(
        argument, f"`{argument}` must name outputs of model {model.name!r}, {names}. Received: {_checks.shown(key)}"
    )


def _requests(class_counts, options, place):
    """`{place: the arguments for it}` for every output that is adjusted."""
    entries = class_counts if isinstance(class_counts, Mapping) else dict(enumerate(class_counts))
    requests = {}
    for key, counts in entries.items():
        where = place(key, "class_counts")
        if where in requests:
            raise _checks.ArgumentError(
                "class_counts", f"`class_counts` must name each output once. Received twice: {_checks.shown(key)}"
            )
        requests[where] = {"class_counts": counts}
    requests = {where: own for where, own in requests.items() if own["class_counts"] is not None}
    if not requests:
        raise _checks.ArgumentError(
            "class_counts", "`class_counts` must have counts for at least one output. Received only None."
        )
    for name, value in options.items():
        if not isinstance(value, Mapping):
            for own in requests.values():
                own[name] = value
            continue
        for key, part in value.items():
            if (where := place(key, name)) not in requests:
                raise _checks.ArgumentError(
                    name,
                    f"`{name}` must be for outputs that `class_counts` has, {list(requests)}. Received: "
                    f"{_checks.shown(key)}",
                )
            requests[where][name] = part
    return requests


def _tensor_of(result, tensor):
    """The symbolic output of an adjusted model; `tensor` is the output of the model before it."""
    if not hasattr(result, "adjustment"):
        return result.outputs[0]
    # The adjustment is applied here: a call of the adjusted model would compute the whole model twice.
    logits = result.adjustment(_graph.logits_of(tensor, result.output_kind))
    return _graph.activated(logits, result.output_kind, result.adjustment.axis)


def _rename(outputs, changed):
    """Rename the new layers of the outputs `changed`, so that every name in the whole model is unique."""
    known, inputs = _keras.operations_of(outputs.model), _graph.structure_of(outputs.model, "input")
    used = {
        place: _keras.operations_of(keras.Model(inputs, tensor))
        for place, tensor in {**outputs.tensors, **changed}.items()
    }
    taken = {operation.name for own in used.values() for operation in own & known}
    for place in changed:
        for operation in sorted(used[place] - known, key=lambda operation: operation.name):
            is_added = isinstance(operation, LogitAdjustment) or operation.name.startswith("adjusted_")
            if is_added or operation.name in taken:
                operation.name = f"{operation.name}_{outputs.word(place)}"
            while operation.name in taken:
                operation.name += "_again"
            taken.add(operation.name)


def _word(place):
    """`place` without the characters that the name of a layer must not have."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", str(place))


def _adjusted_subclass(adjust, model, class_counts, options):
    requests = _requests(class_counts, options, lambda key, argument: key)
    for place, own in requests.items():
        prior = priors.as_prior(own["class_counts"], own.get("num_examples"))
        _kind.check(prior, own.get("output"), width=None, loss=_kind.loss_of(model, place))
    parts = {place: adjust(model, **own) for place, own in requests.items()}
    for place, part in parts.items():
        part.adjustment.name = f"{part.adjustment.name}_{_word(place)}"
    return AdjustedOutputs(
        model,
        [part.adjustment for part in parts.values()],
        places=list(parts),
        outputs=[part.output_kind for part in parts.values()],
        name=f"{model.name}_adjusted",
    )


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class AdjustedOutputs(keras.Model):
    """The result of `kla.adjust` for a subclassed model with several outputs: some outputs are adjusted.

    Args:
        model: the adjusted model, shared and not copied.
        adjustments: a `kla.layers.LogitAdjustment` for each adjusted output.
        places: the key of each adjusted output in the dict, or its position in the list, that `model` gives.
        outputs: the kind of each adjusted output of `model`: "logits", "softmax" or "sigmoid".
        **kwargs: as in `keras.Model`.

    Reference: Menon et al. (2021), §4, equation 9.
    """

    def __init__(self, model, adjustments, *, places, outputs, **kwargs):
        super().__init__(**kwargs)
        self.model, self.adjustments = model, adjustments
        self.places, self.output_kinds = list(places), list(outputs)

    def call(self, inputs, training=None):
        # Keras passes `training` to nested calls, but JAX's stateless call does not.
        outputs = self.model(inputs, training=training)
        is_dict = isinstance(outputs, Mapping)
        is_list = isinstance(outputs, (list, tuple))
        tensors = dict(outputs) if is_dict else dict(enumerate(outputs if is_list else [outputs]))
        for place, adjustment, kind in zip(self.places, self.adjustments, self.output_kinds, strict=True):
            if place not in tensors:
                raise _no_output("class_counts", place, self.model, list(tensors))
            logits = adjustment(_graph.logits_of(tensors[place], kind), training=training)
            tensors[place] = _graph.activated(logits, kind, adjustment.axis)
        return like(outputs, tensors.values()) if is_list else tensors if is_dict else tensors[0]

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "adjustments": [keras.saving.serialize_keras_object(layer) for layer in self.adjustments],
            "places": self.places,
            "outputs": self.output_kinds,
        }

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config["model"])
        adjustments = [keras.saving.deserialize_keras_object(layer) for layer in config["adjustments"]]
        return cls(**{**config, "model": model, "adjustments": adjustments})


def like(sequence, entries):
    """A list, tuple or named tuple of `entries`, of the type of `sequence`."""
    is_named = isinstance(sequence, tuple) and type(sequence) is not tuple
    return type(sequence)(*entries) if is_named else type(sequence)(entries)
