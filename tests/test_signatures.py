"""What is public is listed, documented, and takes everything after its first arguments by keyword."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import keras_logit_adjust as kla

PACKAGE = pathlib.Path(kla.__file__).parent
ROOMS = [module.name for module in pkgutil.iter_modules(kla.__path__) if not module.name.startswith("_")]
WITHOUT_NAMES = {"cli"}  # used from the command line alone
WITHOUT_CLASS = {"linear_logit_adjusted_crossentropy", "sampled_logit_adjusted_crossentropy"}  # they take a kernel

# What may stand together before the keywords; otherwise one argument alone, or all up to `class_counts`.
PAIRS = {
    ("y_true", "y_pred"),
    ("y_true", "logits"),
    ("logits", "y_true"),
    ("probabilities", "y_true"),
    ("positive_counts", "num_examples"),
    ("labels_or_dataset", "num_classes"),
    ("input_shape", "num_classes"),
    ("num_features", "num_classes"),
    ("model", "x"),
    ("x", "y"),
    ("model", "path"),
    ("model", "dataset"),
    ("sampler", "path"),
    ("path", "labels"),
    ("state", "labels"),
    ("num_shards", "index"),
    ("step", "steps"),
    ("counts", "recalls"),
    ("counts", "shares"),
    ("counts", "norms"),
    ("sizes", "errors"),
    ("groups", "buckets"),
    ("points", "labels", "scores"),
    ("pictures", "titles"),
    ("labels", "batch_size"),
    ("targets", "batch_size"),
    ("targets", "positive_counts"),
    ("units", "streaming_prior"),
    ("y_true", "y_pred", "log_prior"),
    ("y_true", "y_pred", "log_odds"),
    ("y_true", "features"),
    ("y_true", "features", "kernel", "bias", "log_prior"),
    ("model", "adjustment"),
    ("model", "adjustments"),
    ("class_counts", "num_examples"),
    ("tau", "measure"),
    ("intervals", "value"),
    ("paths", "prior"),
    ("step", "steps", "pieces"),
}


def names_of(room):
    """`(name, value)` of what the room makes public."""
    module = importlib.import_module(f"keras_logit_adjust.{room}" if room else "keras_logit_adjust")
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return [(name, getattr(module, name)) for name in names]


def members_of(cls):
    """`(name, member)` of the public methods and properties that the package gives a class, Keras's own left out."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("keras_logit_adjust")]
    others = [base for base in cls.__mro__ if base not in ours]
    members = {name: member for base in reversed(ours) for name, member in vars(base).items()}
    fields = getattr(cls, "__dataclass_fields__", {})  # the default of one may be a function
    return [
        (name, getattr(member, "__func__", member))
        for name, member in members.items()
        if isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
        if not name.startswith("_") and name not in fields and not any(hasattr(base, name) for base in others)
    ]


def public_values():
    """`(name, value)` of every public function, class, method and property; a value of two rooms once."""
    found = {}
    for room in [None, *ROOMS]:
        for name, value in [] if room in WITHOUT_NAMES else names_of(room):
            if inspect.isclass(value) or inspect.isfunction(value):
                found[value] = f"{value.__module__.split('.')[1]}.{name}"
    for value, name in list(found.items()):
        if inspect.isclass(value):
            found |= {member: f"{name}.{inner}" for inner, member in members_of(value) if member not in found}
    return [pytest.param(value, id=name) for value, name in found.items()]


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in WITHOUT_NAMES])
def test_a_room_is_documented_and_lists_its_names(room):
    module = importlib.import_module(f"keras_logit_adjust.{room}")
    assert module.__doc__ and names_of(room)
    assert all(value is not None for _, value in names_of(room))


@pytest.mark.parametrize("value", public_values())
def test_a_public_name_is_documented(value):
    own = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
    assert own and not own.startswith(f"{getattr(value, '__name__', '')}(")  # what `dataclass` writes where none stands


def positional(function):
    """The names of the arguments that may be given by position, `self` and `cls` left out."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [
        parameter.name for parameter in parameters if parameter.kind in kinds and parameter.name not in ("self", "cls")
    ]


def is_record(value):
    """Whether the arguments of a class are its fields, in order."""
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or issubclass(value, tuple | Exception))


def test_a_seed_that_has_a_default_is_zero_or_none():
    values = [case.values[0] for case in public_values()]
    functions = [value for value in values if callable(value) and not is_record(value)]
    seeds = [inspect.signature(function).parameters.get("seed") for function in functions]
    defaults = [seed.default for seed in seeds if seed is not None]
    assert len(defaults) > 9 and {*defaults} <= {0, None, inspect.Parameter.empty}


@pytest.mark.parametrize("value", [case for case in public_values() if not isinstance(case.values[0], property)])
def test_after_the_first_arguments_all_are_keyword_only(value):
    if is_record(value):
        return
    names = tuple(positional(value))
    first = names[: names.index("class_counts") + 1] if "class_counts" in names else names[:1]
    assert names in {first, *PAIRS}, f"by position: {', '.join(names)}"


LOSS_FUNCTIONS = [name for name, _ in names_of("losses") if name.endswith("crossentropy")]


@pytest.mark.parametrize("name", [name for name in LOSS_FUNCTIONS if name not in WITHOUT_CLASS])
def test_a_loss_and_its_function_have_the_same_defaults(name):
    defaults = [
        {key: value.default for key, value in inspect.signature(getattr(kla.losses, form)).parameters.items()}
        for form in (name, name.title().replace("_", ""))
    ]
    shared = [key for key in defaults[0] if key in defaults[1]]
    assert {"label_smoothing", "ignore_class"} < {*shared}
    assert [defaults[0][key] for key in shared] == [defaults[1][key] for key in shared]


@pytest.mark.parametrize("value", public_values())
def test_a_record_cannot_be_changed(value):
    if dataclasses.is_dataclass(value) and inspect.isclass(value):
        assert value.__dataclass_params__.frozen


def functions():
    """`(file and name, node)` of every function and method of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}", node


def test_no_function_takes_more_than_five_arguments_by_position():
    taken = {
        place: [argument.arg for argument in node.args.posonlyargs + node.args.args] for place, node in functions()
    }
    many = {
        place: names
        for place, names in taken.items()
        if len([name for name in names if name not in ("self", "cls")]) > 5
    }
    assert many == {}
