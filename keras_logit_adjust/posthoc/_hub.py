"""Tasks of KerasHub, which is not imported here: who has one of its models has imported it.

A task is a Functional model of a backbone and a head, with a preprocessor outside its graph. A model made of its graph
alone would take token ids or scaled images in place of strings or raw images.
"""

import sys

import keras

# The kinds of tasks that score classes, in `keras_hub.models`.
KINDS = ("ImageClassifier", "TextClassifier", "ImageSegmenter")
# What `compile` sets on a model that has none of it before: a new task is not compiled.
_COMPILED = ("optimizer", "stop_training")


def models():
    """`keras_hub.models`, None where KerasHub was not imported."""
    return getattr(sys.modules.get("keras_hub"), "models", None)


def is_task(model):
    """Whether `model` is a task of KerasHub."""
    return models() is not None and isinstance(model, models().Task)


def is_backbone(layer):
    """Whether `layer` is a backbone of KerasHub."""
    return models() is not None and isinstance(layer, models().Backbone)


def check_task(model):
    """Raise where `model` is a task of KerasHub that does not score classes."""
    if not is_task(model):
        return
    scores = isinstance(model, tuple(getattr(models(), kind) for kind in KINDS))
    if not scores or len(model.outputs) != 1:
        raise ValueError(
            f"Of KerasHub's tasks those that score classes are adjusted, {', '.join(KINDS)} with one output. Received "
            f"{model.name!r}, a {type(model).__name__}. If one of its outputs is logits or probabilities of classes, "
            "adjust its graph, which takes preprocessed inputs: "
            "kla.adjust(keras.Model(task.input, task.outputs[i]), …)."
        )


def check_read(model):
    """Raise where `model` is a task whose logits were not found: behind its output alone its preprocessor is lost."""
    if is_task(model):
        raise ValueError(
            f"The logits of {model.name!r}, a {type(model).__name__} of KerasHub, were not found. Build the task with "
            'activation=None, "softmax" or "sigmoid". Or adjust its graph, which takes preprocessed inputs: '
            "kla.adjust(keras.Model(task.input, task.output), …, output=…)."
        )


def as_task(graph, *, like, kind=None, replaced=None, compile=False, **attributes):
    """The Functional model `graph` as a task of the class of `like`, with its backbone and preprocessor.

    KerasHub's own constructors make a backbone's head anew, and their configs leave out some of their arguments. So
    what `like` has of its own is handed on as it is.

    Args:
        graph: the Functional model that the task shall be.
        like: the task.
        kind: the class, a subclass of that of `like`.
        replaced: other values for attributes of `like`, by the ids of their own.
        compile: whether it is compiled with KerasHub's defaults. KerasHub loads a task compiled, which fails where the
            one that was saved had no optimizer.
        **attributes: more of them.
    """
    kind = type(like) if kind is None else kind
    task = kind.__new__(kind)
    # Set before the constructor of a task runs, as in KerasHub's own.
    task.backbone, task.preprocessor = like.backbone, like.preprocessor
    for name, value in vars(like).items():
        if not (name.startswith("_") or name in _COMPILED or hasattr(graph, name)):
            setattr(task, name, (replaced or {}).get(id(value), value))
    for name, value in attributes.items():
        setattr(task, name, value)
    models().Task.__init__(task, inputs=graph.input, outputs=graph.output, name=graph.name, compile=compile)
    return task


def preprocessed(task, x):
    """What the graph of a task takes, for a batch of what `predict` takes."""
    if getattr(getattr(x, "dtype", None), "kind", None) in ("U", "S", "O"):
        x = x.tolist()  # some tokenizers take a list of strings only
    x, _, _ = keras.utils.unpack_x_y_sample_weight(task.preprocess_samples(x))
    return keras.tree.map_structure(keras.ops.convert_to_tensor, x)
