"""Tasks of KerasHub, which is not imported here: a user who has one of its models has already imported it.

A task is a Functional model of a backbone and a head, with a preprocessor outside its graph. A model made from the
graph alone would take token ids or scaled images instead of strings or raw images.
"""

import sys

import keras

# The kinds of tasks that score classes, in `keras_hub.models`.
KINDS = ("ImageClassifier", "TextClassifier", "ImageSegmenter")
# Attributes that `compile` sets. A new task is not compiled, so they are left out.
_COMPILED = ("optimizer", "stop_training")


def models():
    """`keras_hub.models`, or None if KerasHub was not imported."""
    return getattr(sys.modules.get("keras_hub"), "models", None)


def is_task(model):
    """Whether `model` is a task of KerasHub."""
    return models() is not None and isinstance(model, models().Task)


def is_backbone(layer):
    """Whether `layer` is a backbone of KerasHub."""
    return models() is not None and isinstance(layer, models().Backbone)


def check_task(model):
    """Raise if `model` is a task of KerasHub that does not score classes."""
    if not is_task(model):
        return
    scores = isinstance(model, tuple(getattr(models(), kind) for kind in KINDS))
    if not scores or len(model.outputs) != 1:
        raise ValueError(
            f"A KerasHub task must score classes: {', '.join(KINDS)}, with one output. Received "
            f"{model.name!r}, a {type(model).__name__}. If one of its outputs is logits or probabilities of classes, "
            "adjust its graph, which takes preprocessed inputs: "
            "kla.adjust(keras.Model(task.input, task.outputs[i]), …)."
        )


def check_read(model):
    """Raise if `model` is a task whose logits were not found: adjusting its output would lose the preprocessor."""
    if is_task(model):
        raise ValueError(
            f"The logits of {model.name!r}, a {type(model).__name__} of KerasHub, were not found. Build the task with "
            'activation=None, "softmax" or "sigmoid". Or adjust its graph, which takes preprocessed inputs: '
            "kla.adjust(keras.Model(task.input, task.output), …, output=…)."
        )


def as_task(graph, *, like, kind=None, replaced=None, compile=False, **attributes):
    """The Functional model `graph` as a task of the class of `like`, with its backbone and preprocessor.

    The constructors of KerasHub make the head of a backbone again, and their configs lack some of their arguments. So
    the attributes of `like` are copied as they are.

    Args:
        graph: the Functional model that becomes the task.
        like: the task.
        kind: the class, a subclass of the class of `like`.
        replaced: new values for attributes of `like`; the keys are the ids of the old values.
        compile: whether it is compiled with KerasHub's defaults. KerasHub compiles a task when it loads it, which fails
            if the saved task had no optimizer.
        **attributes: more attributes.
    """
    kind = type(like) if kind is None else kind
    task = kind.__new__(kind)
    # Set before the constructor of a task runs, as KerasHub does.
    task.backbone, task.preprocessor = like.backbone, like.preprocessor
    for name, value in vars(like).items():
        if not (name.startswith("_") or name in _COMPILED or hasattr(graph, name)):
            setattr(task, name, (replaced or {}).get(id(value), value))
    for name, value in attributes.items():
        setattr(task, name, value)
    models().Task.__init__(task, inputs=graph.input, outputs=graph.output, name=graph.name, compile=compile)
    return task


def preprocessed(task, x):
    """The input of the graph of a task, for a batch that `predict` accepts."""
    if getattr(getattr(x, "dtype", None), "kind", None) in ("U", "S", "O"):
        x = x.tolist()  # some tokenizers accept only a list of strings
    x, _, _ = keras.utils.unpack_x_y_sample_weight(task.preprocess_samples(x))
    return keras.tree.map_structure(keras.ops.convert_to_tensor, x)
