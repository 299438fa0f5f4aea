"""What Keras does not promise stands in two files, `_keras.py` and `tf_distribute/_keras.py`, and in no other."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_logit_adjust as kla

PACKAGE = pathlib.Path(kla.__file__).parent
HOMES = (PACKAGE / "_keras.py", PACKAGE / "tf_distribute" / "_keras.py")
PRIVATE = re.compile(r"_[a-zA-Z]\w*")
BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def of_keras():
    """The private names that objects of Keras's have."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse", metrics=["accuracy"])
    made = [keras.metrics.BinaryAccuracy(), keras.losses.MeanSquaredError(), keras.callbacks.EarlyStopping()]
    made += [inputs, model, keras.Sequential([inputs]), model.layers[1], model.layers[1].kernel, model.optimizer]
    return {name for thing in [*made, *model.metrics] for name in dir(thing) if PRIVATE.fullmatch(name)}


def is_private(name):
    return isinstance(name, str) and PRIVATE.fullmatch(name) is not None


def name_in(node):
    return node.id if isinstance(node, ast.Name) else ""


def defined_in(tree):
    """The names that a file gives to things of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and name_in(node.value) == "self":
            yield node.attr


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def attributes(tree):
    """`(line, name, whether of self)`, those too that `getattr` and the like take by their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr, name_in(node.value) in ("self", "cls")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
            yield from ((node.lineno, arg.value, False) for arg in node.args if isinstance(arg, ast.Constant))


def texts(tree):
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in parts:
            yield node.lineno, node.value


def members(tree):
    """`(line, name)` of what the bodies of classes define."""
    for owner in ast.walk(tree):
        for node in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(node, ast.FunctionDef):
                yield node.lineno, node.name
            elif isinstance(node, ast.Assign):
                yield from ((node.lineno, target.id) for target in node.targets if isinstance(target, ast.Name))


TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
OWN = {name for path, tree in TREES.items() if path not in HOMES for name in defined_in(tree)}
OWN |= {path.stem for path in TREES}
AT_HOME = {
    name
    for path in HOMES
    for _, name in [
        *texts(TREES[path]),
        *members(TREES[path]),
        *((at, name) for at, name, _ in attributes(TREES[path])),
    ]
    if is_private(name)
}
KERAS = of_keras() | AT_HOME


def faults(tree):
    """What a file must not use, as "line: name".

    An underscored name that nothing in the package defines is foreign; one that Keras has too is ours only on `self`.
    """
    found = {(line, name) for line, name in imports(tree) if name.startswith(("keras.src", "tensorflow.python"))}
    for line, name, of_self in attributes(tree):
        if is_private(name) and not (name in OWN and (of_self or name not in KERAS)):
            found.add((line, name))
    found |= {(line, name) for line, name in texts(tree) if name in AT_HOME}
    found |= {(line, name) for line, name in members(tree) if name in AT_HOME}
    return [f"{line}: {name}" for line, name in sorted(found)]


@pytest.mark.parametrize(
    "path", [path for path in TREES if path not in HOMES], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_other_file_takes_what_keras_does_not_promise(path):
    assert faults(TREES[path]) == []


@pytest.mark.parametrize(
    "line",
    [
        "nodes = layer._inbound_nodes",
        "nodes = self._inbound_nodes",
        "layers = self.model._flatten_layers()",
        "losses = model._losses",  # our callbacks have a `_losses` too, on `self`
        "nodes = getattr(layer, '_inbound_nodes', ())",
        "made = hasattr(tensor, '_never_heard_of')",
        "kernel = names.index('_kernel')",
        "from keras.src import backend",
        "from keras.src.utils.io_utils import print_msg",
        "import keras.src.backend",
        "def later():\n    from tensorflow.python.ops import control_flow_util",
        "class Up(keras.metrics.Metric):\n    _direction = 'up'",
    ],
)
def test_a_name_that_keras_does_not_promise_is_seen_however_it_is_taken(line):
    assert len(faults(ast.parse(line))) == 1


@pytest.mark.parametrize("line", ["self._losses = []", "__version__", "_checks.check_integer(1)", "f'{name}_kernel'"])
def test_names_of_our_own_are_let_through(line):
    assert faults(ast.parse(line)) == []


PRIVATE_IMPORTS = sorted(
    name for path in HOMES for _, name in imports(TREES[path]) if name.startswith(("keras.src", "tensorflow.python"))
)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="some of the names are those of TensorFlow's models"
)
def test_keras_still_has_every_private_name_that_is_used():
    """A new Keras that dropped a name fails here, and the message has the name."""
    import tensorflow as tf

    logits = keras.ops.ones((1, 2))
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    specs = strategy.experimental_distribute_dataset(tf.data.Dataset.range(4).batch(2)).element_spec
    made = [keras.activations.softmax(logits), specs, sys, keras.optimizers.SGD()]
    known = of_keras() | {name for thing in made for name in dir(thing)}
    assert AT_HOME - OWN - known == set()


@pytest.mark.parametrize("name", PRIVATE_IMPORTS)
def test_keras_still_has_every_file_that_is_imported(name):
    module, of_module = name.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), of_module)


@pytest.mark.slow
def test_the_package_is_imported_where_keras_has_moved_its_files():
    code = """
import sys
import keras
for name in [name for name in sys.modules if name.startswith("keras.src.")]:
    sys.modules[name] = None  # an import of it now fails
import keras_logit_adjust as kla
print(kla.losses.__name__, kla.metrics.__name__, kla.layers.__name__)
try:
    kla._keras.mask_of(0)
except ImportError:
    print("seen")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == "seen"
