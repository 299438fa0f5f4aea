"""The package as a whole: what importing it loads, which way its imports point, what its public objects promise."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust.layers import Calibration

PACKAGE = pathlib.Path(kla.__file__).parent
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))
import draw_imports  # noqa: E402


def run_python(code, **environment):
    """Run `code` in a new interpreter and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@pytest.mark.slow
def test_importing_the_package_loads_nothing_heavy_that_keras_does_not():
    heavy = "print(sorted(m for m in ('tensorflow', 'tensorflow_datasets', 'matplotlib', 'tqdm') if m in sys.modules))"
    ours = run_python(f"import sys, keras_logit_adjust; {heavy}")
    assert ours == run_python(f"import sys, keras; {heavy}")


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow is the backend of this run")
def test_all_but_tensorflow_data_works_without_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None  # an import of it now fails
import keras, keras_logit_adjust as kla
data = kla.data.load("fashion_mnist_lt")
model = kla.models.linear_head(28 * 28, data.num_classes)
model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(data.class_counts), metrics=[kla.metrics.MacroF1(10)])
x, y = data.validation
model.fit(x.reshape(len(x), -1) / 255.0, y, verbose=0)
print(kla.priors.count_classes(y, num_classes=10).sum() == len(y))
"""
    assert run_python(code) == "True"


def test_imports_between_rooms_point_one_way_and_in_no_circle():
    assert draw_imports.faults(PACKAGE) == []
    assert draw_imports.circles(PACKAGE) == []


@pytest.mark.parametrize(
    "line, room",
    [
        ("import house.losses", "losses"),
        ("import house.losses as something", "losses"),
        ("from house.losses import _base", "losses"),
        ("from house import losses", "losses"),
        ("from ..losses import _base", "losses"),
        ("def later():\n    import house.losses", "losses"),
        ("import importlib\nimportlib.import_module('house.losses')", "losses"),
    ],
)
def test_an_arrow_upwards_is_seen_however_it_is_written(tmp_path, line, room):
    package = tmp_path / "house"
    for folder in ("priors", "losses"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "priors" / "formulas.py").write_text(f"{line}\n")
    (fault,) = draw_imports.faults(package)
    assert fault.endswith(f"priors imports {room}")


def test_a_circle_of_imports_inside_a_room_is_seen(tmp_path):
    room = tmp_path / "house" / "priors"
    room.mkdir(parents=True)
    (room / "first.py").write_text("from house.priors import second\n")
    (room / "second.py").write_text("import house.priors.first\n")
    assert draw_imports.circles(tmp_path / "house") == ["house.priors.first → house.priors.second → house.priors.first"]


CONFIGURED = [
    kla.losses.LogitAdjustedCrossentropy([5, 3, 1], tau=[1, 2, 3], label_smoothing=0.1, reduction="sum", name="a"),
    kla.losses.BinaryLogitAdjustedCrossentropy([5, 3, 1], 10, tau=2, ignore_class=-1, name="b"),
    kla.losses.PairwiseMarginCrossentropy(
        [5, 3, 1],
        class_weight=[1, 2, 3],
        label_margin=[0, 1, 2],
        rival_margin=[2, 1, 0],
        logit_scale=[1, 0.5, 2],
        label_smoothing=0.1,
        name="pairwise",
    ),
    kla.losses.AdaptiveMarginCrossentropy([5, 3, 1], max_margin=2, label_smoothing=0.1, name="adaptive"),
    kla.losses.EqualizedCrossentropy([5, 3, 1], threshold=0.2, gamma=0.5, ignore_class=-1, name="equalized"),
    kla.losses.VectorScalingCrossentropy([5, 3, 1], gamma=0.3, tau=[1, 2, 3], reduction="sum", name="scaled"),
    kla.losses.ClassBalancedCrossentropy([5, 3, 1], beta=0.9, reduction=None, name="class_balanced"),
    kla.losses.FocalCrossentropy(gamma=1, class_weight=[1, 2, 3], label_smoothing=0.1, name="focal"),
    kla.layers.LogitAdjustment([5, 3, 1], tau=0.5, target_prior=[1, 1, 2], name="c"),
    kla.layers.LogitAdjustment([5, 3, 1], calibration=Calibration(1.5, [0.5, 0, -0.5]), name="o"),
    kla.layers.LogitAdjustment([5, 3, 1], corrected_before=True, name="p"),
    Calibration(1.5, [0.5, 0, -0.5]),
    kla.layers.PriorAwareDense(3, [5, 3, 1], tau=0.5, use_bias=False, name="d"),
    kla.layers.CosineDense(3, scale=7, name="e"),
    kla.layers.ManyClassDense(3, [5, 3, 1], tau=0.5, num_rivals=2, estimator="posterior", chunk_size=2, name="q"),
    kla.layers.TopClasses(kla.layers.ManyClassDense(3, [5, 3, 1], label_smoothing=0.1, name="r"), k=2, name="s"),
    kla.layers.MinimumRiskDecision([[0, 1, 0.3], [10, 0, 0.3]], from_logits=False, name="o"),
    kla.layers.PredictionSet([-1.0, -2.5, float("-inf")], offset=[0.0, 1.0, -1.0], name="t"),
    kla.priors.StreamingPrior(3, half_life=100, smoothing=2, ignore_class=-1),
    kla.layers.StreamingPriorDense(3, kla.priors.StreamingPrior(3, half_life=100), tau=[1, 2, 3], name="n"),
    kla.metrics.BalancedAccuracy(3, k=2, ignore_class=0, class_prior=[5, 3, 1], name="f"),
    kla.metrics.PerClassAccuracy(3, ignore_class=0, name="g"),
    kla.metrics.PerClassPrecision(3, class_prior=[5, 3, 1], name="h"),
    kla.metrics.MacroF1(3, ignore_class=2, name="i"),
    kla.metrics.WorstClassAccuracy(3, ignore_class=2, name="j"),
    kla.metrics.GroupAccuracy([500, 30, 1], bounds=(5, 50), name="k"),
    kla.metrics.GroupAccuracy([500, 30, 1], groups={0: "head", 2: "tail"}, k=2),
    kla.metrics.MultiLabelBalancedAccuracy(3, threshold=[0, 0.5, 1], ignore_class=-1, name="u"),
    kla.metrics.PerLabelBalancedAccuracy(3, threshold=0.5, ignore_class=-1, name="v"),
    kla.metrics.MultiLabelMacroF1(1, threshold=-1, name="w"),
    kla.metrics.MultiLabelGroupAccuracy(
        [5, 0], threshold=0, bounds=(1, 4), inclusive=False, groups=["a", None], name="x"
    ),
    kla.metrics.PropensityScoredPrecision([50, 3, 0], 60, k=2, a=0.6, b=2.6, ignore_class=-2, name="t"),
]


@pytest.mark.parametrize("instance", CONFIGURED, ids=lambda instance: type(instance).__name__)
def test_a_config_of_plain_values_rebuilds_every_object(instance):
    config = keras.saving.serialize_keras_object(instance)
    rebuilt = keras.saving.deserialize_keras_object(config)
    assert type(rebuilt) is type(instance)
    assert rebuilt.get_config() == instance.get_config()
    keras.tree.map_structure(lambda leaf: _assert_plain(leaf), instance.get_config())


def test_files_name_every_object_by_package_and_class():
    rooms = (kla.layers, kla.losses, kla.metrics, kla.models, kla.priors)
    kinds = {kind for room in rooms for kind in vars(room).values() if isinstance(kind, type)}
    kinds = {kind for kind in kinds if hasattr(kind, "get_config") and kind.__module__.startswith(kla.__name__)}
    assert {type(instance) for instance in CONFIGURED} <= kinds
    assert {keras.saving.get_registered_name(kind) for kind in kinds} == {f"{kla.__name__}>{k.__name__}" for k in kinds}


def test_values_that_functions_return_cannot_be_set():
    rooms = [value for value in vars(kla).values() if hasattr(value, "__path__")]
    kinds = [kind for room in rooms for kind in vars(room).values() if isinstance(kind, type)]
    frozen = {kind.__name__: kind.__dataclass_params__.frozen for kind in kinds if dataclasses.is_dataclass(kind)}
    assert {"BestTau", "Prior", "TunedTau", "Calibration"} <= set(frozen)
    assert all(frozen.values()), frozen


_LOSS = {"label_smoothing": 0, "ignore_class": None, "reduction": "sum_over_batch_size"}
_HEAD = {"tau": 1, "target_prior": None}
_STREAM = kla.priors.StreamingPrior(3)
# Class, required arguments, and what the documentation says of the others where nobody names them.
DEFAULTS = [
    (kla.losses.LogitAdjustedCrossentropy, ([5, 3, 1],), {"tau": 1, **_LOSS}),
    (kla.losses.BinaryLogitAdjustedCrossentropy, ([5, 3, 1], 10), {"tau": 1, **_LOSS}),
    (kla.losses.PairwiseMarginCrossentropy, ([5, 3, 1],), {"class_weight": [1] * 3, "logit_scale": [1] * 3, **_LOSS}),
    (kla.losses.PairwiseMarginCrossentropy, ([5, 3, 1],), {"label_margin": [0] * 3, "rival_margin": [0] * 3, **_LOSS}),
    (kla.losses.AdaptiveMarginCrossentropy, ([5, 3, 1],), {"max_margin": 15, **_LOSS}),
    (kla.losses.EqualizedCrossentropy, ([5, 3, 1],), {"threshold": 0.3 / 3, "gamma": 0.95, "form": "threshold"}),
    (kla.losses.VectorScalingCrossentropy, ([5, 3, 1],), {"gamma": 0.1, "tau": 1, **_LOSS}),
    (kla.losses.ClassBalancedCrossentropy, ([5, 3, 1],), {"beta": 0.9999, **_LOSS}),
    (kla.losses.FocalCrossentropy, (), {"gamma": 2, "class_weight": None, **_LOSS}),
    (kla.layers.LogitAdjustment, ([5, 3, 1],), {"corrected_before": False, **_HEAD}),
    (kla.layers.PriorAwareDense, (3, [5, 3, 1]), _HEAD),
    (kla.layers.StreamingPriorDense, (3, _STREAM), _HEAD),
    (kla.layers.ManyClassDense, (3, [5, 3, 1]), {"estimator": "partition", "chunk_size": 2048, "seed": 0, "tau": 1}),
    (kla.layers.CosineDense, (3,), {"scale": 30, "kernel_initializer": "glorot_uniform"}),
    (kla.layers.MinimumRiskDecision, ([[0, 1], [10, 0]],), {"from_logits": True}),
    (kla.layers.PredictionSet, ([-1, -2],), {"offset": [0, 0]}),
    (kla.layers.Calibration, (), {"temperature": 1, "bias": None}),
    (kla.priors.StreamingPrior, (3,), {"half_life": None, "smoothing": 1, "ignore_class": None}),
    (kla.metrics.BalancedAccuracy, (3,), {"k": 1, "ignore_class": None, "class_prior": None}),
    (kla.metrics.PerClassAccuracy, (3,), {"ignore_class": None}),
    (kla.metrics.PerClassPrecision, (3,), {"ignore_class": None, "class_prior": None}),
    (kla.metrics.MacroF1, (3,), {"ignore_class": None, "class_prior": None}),
    (kla.metrics.WorstClassAccuracy, (3,), {"ignore_class": None}),
    (kla.metrics.GroupAccuracy, ([500, 30, 1],), {"bounds": (20, 100), "groups": None, "class_prior": None, "k": 1}),
    (kla.metrics.PropensityScoredPrecision, ([50, 3, 0], 60), {"k": 1, "a": 0.55, "b": 1.5, "ignore_class": -1}),
]
every_class = pytest.mark.parametrize(
    ("kind", "required", "named"), DEFAULTS, ids=lambda value: getattr(value, "__name__", "")
)


@every_class
def test_what_is_not_named_is_what_the_documentation_says(kind, required, named):
    default, explicit = kind(*required).get_config(), kind(*required, **named).get_config()
    if issubclass(kind, keras.layers.Layer):  # Keras numbers their names
        del default["name"], explicit["name"]
    assert default == explicit


@every_class
def test_an_object_without_a_name_is_called_as_its_class(kind, required, named):
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    name = kind(*required).get_config().get("name", words)  # a calibration has none
    assert re.fullmatch(rf"{words}(_\d+)?", name)


def _assert_plain(leaf):
    assert leaf is None or type(leaf) in (bool, int, float, str), type(leaf)


@pytest.mark.slow
def test_without_matplotlib_only_figures_fail_and_say_what_is_missing():
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "matplotlib" else find_spec(name, *args)
sys.modules["matplotlib"] = None
import keras_logit_adjust as kla
from keras_logit_adjust import __main__
try:
    kla.plots
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(code) == 'Figures need matplotlib. pip install "keras_logit_adjust[plots]"'
