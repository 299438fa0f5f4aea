"""Run by `test_jax_sharded_classes.py` in a process of its own: many classes on one device and over meshes, as JSON.

XLA writes each program that it compiles into the folder of the first argument, where its exchanges between devices are
read.
"""

import contextlib
import io
import json
import pathlib
import re
import sys

import keras
import numpy as np

import keras_logit_adjust as kla
from keras_logit_adjust.layers import ManyClassDense, ManyClassModel, many_class_layout
from keras_logit_adjust.losses import (
    RivalSampler,
    linear_logit_adjusted_crossentropy,
    sampled_logit_adjusted_crossentropy,
)

# Of 2, 4 and 8 devices the last has rows that are no classes.
L, D, BATCH, CHUNK, K = 2003, 8, 16, 70, 5
COUNTS = np.arange(L, 0, -1)
HEADS = {
    "exact": {"label_smoothing": 0.1, "tau": np.linspace(0, 2, L)},
    "sampled": {"num_rivals": 40},
    "batch": {"num_rivals": "batch"},
}
# The shape of each mesh; of one axis, examples and classes are spread along it.
MESHES = {"1 x 2": (1, 2), "1 x 4": (1, 4), "1 x 8": (1, 8), "2 x 4": (2, 4), "4": (4,)}
OF_HEAD = {"exact": [*MESHES, "data parallel"], "sampled": [*MESHES], "batch": ["4"]}
rng = np.random.default_rng(0)
x = rng.normal(size=(2 * BATCH, 3)).astype("float32")
y = rng.integers(0, L, 2 * BATCH)
y[:4] = L - 1, L - 2, 0, 1


def network(**options):
    inputs = keras.Input((3,))
    head = ManyClassDense(L, COUNTS, chunk_size=CHUNK, name="head", **options)
    model = ManyClassModel(inputs, head(keras.layers.Dense(D, "tanh", name="below")(inputs)))
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9))
    return model


def distribution(shape, layout_map=None):
    devices = keras.distribution.list_devices()[: int(np.prod(shape or 2))]
    if shape is None:
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "classes")[-len(shape) :], devices)
    return keras.distribution.ModelParallel(layout_map=layout_map or many_class_layout(mesh))


def trained(model, programs):
    """What a model says, its weights as they are saved, and the exchanges of `fit` and `predict`."""
    exchanges(programs)
    found = {"fit": model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history["loss"]}
    found["exchanges of fit"] = exchanges(programs)
    if model.head.num_rivals is None:
        found["evaluate"] = model.evaluate(x, y, batch_size=BATCH, verbose=0)
        exchanges(programs)
        top = model.predictor(K).predict(x, batch_size=BATCH, verbose=0)
        found["exchanges of predict"] = exchanges(programs)
        found |= {name: values.tolist() for name, values in top.items()}
        for change in (kla.adjust, kla.fold_into_bias):
            changed = change(model, COUNTS, tau=0.5, allow_double_correction=True).predictor(K)
            found[change.__name__] = changed.predict(x, batch_size=BATCH, verbose=0)["scores"].tolist()
    file = programs / "trained.weights.h5"
    model.save_weights(file)
    return {**found, "weights": saved(file)}


def saved(file):
    """The arrays of a file of weights, by their paths."""
    import h5py

    arrays = {}
    with h5py.File(file) as opened:
        opened.visititems(lambda name, item: arrays.update({name: item[()].tolist()} if hasattr(item, "shape") else {}))
    return {name: values for name, values in arrays.items() if "optimizer" not in name}


def exchanges(programs):
    """The exchanges in all programs since the last call: their kinds and the numbers of elements of their results."""
    found = []
    for file in sorted(programs.glob("*after_optimizations.txt")):
        for line in file.read_text().splitlines():
            match = re.search(r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)(-start)?\(", line)
            if match:
                shapes = re.findall(r"\w+\[([\d,]*)\]", match.group(1))
                found.append([match.group(2), [[int(n) for n in shape.split(",") if n] for shape in shapes]])
        file.unlink()
    return found


def placed(model):
    """How many rows of kernel and bias, and of what the optimizer keeps of them, each device has."""
    variables = [model.head.kernel, model.head.bias]
    kept = [v for v in model.optimizer.variables if "class_kernel" in v.path or "class_bias" in v.path]
    return {v.path: sorted({shard.data.shape[0] for shard in v.value.addressable_shards}) for v in variables + kept}


def functions(devices):
    """Values and gradients of the losses as functions, with the layout of a kernel `[D, L]` and without: pairs."""
    import jax

    layout = keras.distribution.TensorLayout(
        (None, "classes"), keras.distribution.DeviceMesh((4,), ("classes",), devices[:4])
    )
    number = 2000
    features, kernel, bias = (
        rng.normal(size=shape).astype("float32") for shape in ((BATCH, D), (D, number), (number,))
    )
    args, ids = (np.log(COUNTS[:number] / COUNTS[:number].sum()),), y[:BATCH] % number
    rivals = RivalSampler(COUNTS[:number], num_rivals=40, replacement=True).draw(0)
    losses = {
        "exact": (linear_logit_adjusted_crossentropy, {"chunk_size": 70, "label_smoothing": 0.1}),
        "posterior": (sampled_logit_adjusted_crossentropy, {"rivals": rivals, "estimator": "posterior"}),
    }
    found = {}
    for name, (loss, options) in losses.items():
        found[name] = []
        for kernel_layout in (layout, None):

            def total(*head):
                return loss(ids, *head, *args, kernel_layout=kernel_layout, **options).sum()  # noqa: B023 - called here

            made = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(features, kernel, bias)
            found[name].append([np.asarray(part).tolist() for part in jax.tree.leaves(made)])
    return found


def refusals(devices):
    """What is said where the kernel is not, or would not be, where it is meant to be."""
    other = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((1, 2), ("batch", "classes"), devices[:2]))
    other["head/kernel"] = ("classes", None)

    class Whole(keras.distribution.ModelParallel):
        """A distribution that leaves each variable whole on each device, whatever its layout map says."""

        def get_variable_layout(self, variable):
            return keras.distribution.TensorLayout([None] * len(variable.shape), self.device_mesh)

    def built_before():
        keras.distribution.set_distribution(None)
        model = network()
        keras.distribution.set_distribution(distribution((1, 2)))
        model.fit(x, y, verbose=0)

    def built_with(made):
        keras.distribution.set_distribution(made)
        network()

    def not_divided():
        layout = keras.distribution.TensorLayout(("classes", None), other.device_mesh)
        linear_logit_adjusted_crossentropy(
            y, np.zeros((2 * BATCH, D)), np.zeros((L, D)), None, np.zeros(L), class_axis=0, kernel_layout=layout
        )

    ways = {
        "built before": built_before,
        "no key": lambda: built_with(distribution((1, 2), other)),
        "not as its layout says": lambda: built_with(Whole(layout_map=many_class_layout(other.device_mesh))),
        "no such axis": lambda: many_class_layout(other.device_mesh, axis="model"),
        "no layout": lambda: linear_logit_adjusted_crossentropy(
            y, np.zeros((2 * BATCH, D)), np.zeros((L, D)), None, np.zeros(L), class_axis=0, kernel_layout=("classes",)
        ),
        "not divided": not_divided,
    }
    return {name: refusal(way) for name, way in ways.items()}


def example_of_page():
    """What the example of the guide prints."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "many_classes.md"
    code = page.read_text().split("```py\n")[1].split("```")[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), {})
    return printed.getvalue()


def refusal(way):
    try:
        way()
    except ValueError as error:
        return str(error)
    return None


def main(folder):
    import jax  # not where scripts are collected for their doctests, without JAX

    jax.config.update("jax_num_cpu_devices", 8)
    devices, programs = keras.distribution.list_devices(), pathlib.Path(folder)
    assert len(devices) == 8, devices
    found = {name: {} for name in HEADS}
    for name, options in HEADS.items():
        keras.distribution.set_distribution(None)
        keras.utils.set_random_seed(0)
        model = network(**options)
        first = programs / f"{name}.weights.h5"
        model.save_weights(first)
        found[name]["one"] = trained(model, programs)
        for mesh in OF_HEAD[name]:
            keras.distribution.set_distribution(distribution(MESHES.get(mesh)))
            model = network(**options)
            model.load_weights(first)
            found[name][mesh] = {**trained(model, programs), "placed": placed(model)}
    keras.distribution.set_distribution(None)
    print(
        json.dumps(
            {"found": found, "functions": functions(devices), "refused": refusals(devices), "page": example_of_page()}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
