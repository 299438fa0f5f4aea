"""How values that stand for numbers are read: one rule for every function, whatever the framework they come from."""

import datetime
import decimal
import fractions

import keras
import numpy as np
import pytest
from helpers.tables import Series
from keras import ops

import keras_logit_adjust as kla
from keras_logit_adjust import _arrays, held_out
from keras_logit_adjust._checks import ArgumentError

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 1.5, 0.0], [0.5, 0.0, 3.0], [1.0, 0.0, 2.0]])
LABELS = [0, 1, 2, 0]
# Every kind of argument that is one number a class, with the name that messages have for it.
VECTORS = {
    "prior": (kla.priors.prior, "class_counts"),
    "smoothed prior": (lambda v: kla.priors.prior(v, smoothing=1), "class_counts"),
    "log_odds": (lambda v: kla.priors.log_odds(v, 100), "positive_counts"),
    "weights": (kla.losses.class_balanced_weights, "class_counts"),
    "loss": (kla.losses.LogitAdjustedCrossentropy, "class_counts"),
    "tau": (lambda v: kla.losses.LogitAdjustedCrossentropy([5, 3, 2], tau=v), "tau"),
    "class weight": (lambda v: kla.losses.FocalCrossentropy(class_weight=v), "class_weight"),
    "target": (lambda v: kla.layers.LogitAdjustment([5, 3, 2], target_prior=v), "target_prior"),
    "groups": (kla.metrics.groups_of_counts, "class_counts"),
    "group metric": (kla.metrics.GroupAccuracy, "class_counts"),
    "class prior": (lambda v: kla.metrics.BalancedAccuracy(3, class_prior=v), "class_prior"),
    "subsample": (lambda v: kla.data.subsample([0, 1, 2] * 9, v, seed=0), "class_counts"),
    "strategy": (lambda v: kla.data.LongTailSampler([0, 1, 2], 3, seed=0, strategy=v), "strategy"),
    "stage": (lambda v: kla.callbacks.DeferredReweighting({1: v}), "weights"),
    "bias": (lambda v: kla.Calibration(bias=v), "bias"),
    "objective": (lambda v: kla.tune_offsets(LOGITS, LABELS, [5, 3, 2], objective=v, bags=0), "objective"),
    "measure": (lambda v: kla.TauPath(LABELS, LOGITS, [5, 3, 2]).at(v), "tau"),
    "logits": (lambda v: kla.Calibration(bias=[0, 0, 0]).apply(v), "logits"),
    "held-out labels": (lambda v: kla.TauPath(v, LOGITS[:3], [5, 3, 2]), "y_true"),
    "costs": (lambda v: kla.layers.MinimumRiskDecision(v), "costs"),
}


class Silent:
    """What fails without a word where it is read."""

    def __array__(self, dtype=None, copy=None):
        raise AssertionError


NO_NUMBERS = {
    "what fails without a word": Silent(),
    "masked": np.ma.masked_array([5.0, 3.0, 2.0], [0, 1, 0]),
    "masked in a list": [np.ma.masked, 3.0, 2.0],
    "complex": np.array([5 + 2j, 3, 2]),
    "complex list": [5 + 2j, 3, 2],
    "dates": np.array(["2020", "2001", "1999"], "M8[Y]"),
    "date objects": [datetime.date(2020, 1, 1)] * 3,
    "durations": np.array([5, 3, 2], "m8[D]"),
    "text": ["5", "3", "2"],
    "text among numbers": np.array(["5", 3, 2], object),
    "bytes": [b"5", b"3", b"2"],
    "none": [5, None, 2],
    "an integer beyond every float": [10**400, 3, 2],
    "records": np.zeros(3, [("count", "i4")]),
    "a set": {5, 3, 2},
    "a generator": (n for n in [5, 3, 2]),
    "a symbolic tensor": keras.KerasTensor((3,)),
    "rows of different lengths": [[5, 3], [2]],
}


@pytest.mark.parametrize("values", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
@pytest.mark.parametrize("taker", VECTORS)
def test_what_is_no_number_is_refused_by_its_name(taker, values):
    take, name = VECTORS[taker]
    with pytest.raises(ArgumentError, match=f"`{name}` must ") as caught:
        take(values)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("taker", [taker for taker in VECTORS if taker != "held-out labels"])
def test_booleans_are_no_counts(taker):
    take, name = VECTORS[taker]
    with pytest.raises(ArgumentError, match=rf"`{name}` must .*dtype bool: {name}.astype\(int\)"):
        take(np.array([True, True, False]))


def tensors():
    """Three numbers in every form that holds them."""
    yield "decimals", [decimal.Decimal(5), fractions.Fraction(3), 2]
    yield "nothing masked", np.ma.masked_array([5.0, 3.0, 2.0], [0, 0, 0])
    yield "long doubles", np.array([5, 3, 2], "longdouble")
    yield "halves", np.array([5, 3, 2], "float16")
    yield "bytes", np.array([5, 3, 2], "uint8")
    yield "series", Series([5, 3, 2], [0, 1, 2])
    yield "tensor", ops.convert_to_tensor([5.0, 3.0, 2.0])
    yield "bfloat16", ops.cast([5.0, 3.0, 2.0], "bfloat16")
    yield "variable", keras.Variable([5.0, 3.0, 2.0])  # of torch it wants gradients
    yield "variables in a list", [keras.Variable(value) for value in (5.0, 3.0, 2.0)]


@pytest.mark.parametrize(("kind", "values"), tensors(), ids=[kind for kind, _ in tensors()])
def test_numbers_are_read_from_every_form_that_holds_them(kind, values):
    assert kla.priors.prior(values).tolist() == [0.5, 0.3, 0.2]
    assert kla.metrics.groups_of_counts(values, bounds=(2, 5)) == ["many", "medium", "few"]
    assert kla.Calibration(bias=[0, 0, 1]).apply(values).tolist() == [5, 3, 3]
    path = kla.TauPath([0], [values], [5, 3, 2])
    np.testing.assert_allclose(path.high, [(5 - 2) / np.log(5 / 2)], rtol=1e-12)  # 2 / log 5/3 is larger


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch's own tensors")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_tensors_of_torch_that_want_gradients_are_read(dtype):
    import torch

    values = torch.tensor([5.0, 3.0, 2.0], dtype=getattr(torch, dtype), requires_grad=True)
    assert kla.priors.prior(values).tolist() == [0.5, 0.3, 0.2]
    assert kla.priors.prior(list(values)).tolist() == [0.5, 0.3, 0.2]
    assert _arrays.to_numpy(values, "x").dtype.name == dtype
    sampler = kla.data.LongTailSampler([0, 1, 2], 3, seed=0, strategy=values.float() / 10)
    np.testing.assert_allclose(sampler.effective_prior, [0.5, 0.3, 0.2], rtol=1e-6)
    batch = sampler.py_dataset((values, np.arange(3)))[0]
    np.testing.assert_array_equal(np.asarray(batch[0], "float64"), np.array([5, 3, 2])[batch[1]])


def test_masks_are_refused_in_the_data_of_a_sampler():
    sampler = kla.data.LongTailSampler([0, 1, 2], 3, seed=0)
    with pytest.raises(ArgumentError, match="`data` must have no masked values.*1 of 3 masked"):
        sampler.py_dataset(np.ma.masked_array([1, 2, 3], [0, 0, 1]))


@pytest.mark.parametrize("counts", [[np.nan, -5], [5, -1], [5, np.inf], [0.5, 0.5], [[5, 3]], [7]], ids=str)
def test_groups_are_of_counts_alone(counts):
    with pytest.raises(ArgumentError, match="`class_counts`"):
        kla.metrics.groups_of_counts(counts)


def test_a_class_without_examples_is_in_no_group_of_shots():
    assert kla.metrics.groups_of_counts([100, 1, 0]) == ["many", "few", "unseen"]


@pytest.mark.parametrize("read", [kla.priors.prior, kla.priors.log_prior, kla.losses.class_balanced_weights])
def test_counts_whose_sum_overflows_are_refused(read):
    with pytest.raises(
        ArgumentError, match=r"`class_counts` must have a sum below 1.8e308.*divide them by the largest"
    ):
        read([1e308] * 3)
    assert np.isfinite(read([1e308, 1e-300])).all()


@pytest.mark.parametrize("tau", [1.1e6, -1.1e6, 1e307, np.inf, np.nan, 10**400, [1.0, 1e300]], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda tau: kla.losses.LogitAdjustedCrossentropy([5, 3], tau=tau),
        lambda tau: kla.losses.BinaryLogitAdjustedCrossentropy([5, 3], 9, tau=tau),
        lambda tau: kla.losses.VectorScalingCrossentropy([5, 3], tau=tau),
        lambda tau: kla.layers.LogitAdjustment([5, 3], tau=tau),
        lambda tau: kla.layers.PriorAwareDense(2, [5, 3], tau=tau),
        lambda tau: kla.tune_offsets(LOGITS[:2, :2], [0, 1], [5, 3], tau=tau, bags=0),
    ],
    ids=["loss", "binary loss", "vector scaling", "layer", "head", "offsets"],
)
def test_a_tau_that_could_overflow_is_refused_everywhere(make, tau):
    with pytest.raises(ArgumentError, match="`tau` must be "):
        make(tau)


@pytest.mark.parametrize("tau", [1e6, -1e6])
def test_the_largest_tau_is_finite_at_the_rarest_prior(tau):
    layer = kla.layers.LogitAdjustment([1e-320, 1e307], tau=tau)
    assert np.isfinite(ops.convert_to_numpy(layer(np.zeros((1, 2), "float32")))).all()


@pytest.mark.parametrize("tau", [-1.0, -0.5])
def test_a_negative_tau_puts_the_prior_back(tau):
    logits = ops.convert_to_numpy(kla.layers.LogitAdjustment([3, 1], tau=tau)(np.zeros((1, 2), "float32")))
    np.testing.assert_allclose(logits, [[-tau * np.log(3 / 4), -tau * np.log(1 / 4)]], rtol=1e-6)


SEEDED = {
    "sampler": lambda seed: kla.data.LongTailSampler([0, 1], 2, seed=seed),
    "subsample": lambda seed: kla.data.subsample([0, 0, 1], [1, 1], seed=seed),
    "load": lambda seed: kla.data.load("fashion_mnist_lt", seed=seed),
    "tune_tau": lambda seed: kla.tune_tau(np.tile(LOGITS, (3, 1)), LABELS * 3, [5, 3, 2], seed=seed, min_examples=1),
    "tune_offsets": lambda seed: kla.tune_offsets(LOGITS, LABELS, [5, 3, 2], seed=seed, bags=1),
    "tune_offsets without bags": lambda seed: kla.tune_offsets(LOGITS, LABELS, [5, 3, 2], seed=seed, bags=0),
    "interval": lambda seed: kla.TauPath(LABELS, LOGITS, [5, 3, 2]).confidence_interval(1.0, seed=seed, replicates=2),
    "target prior": lambda seed: kla.estimate_target_prior(LOGITS, [5, 3, 2], seed=seed, replicates=2),
}
NO_SEEDS = [None, -1, 1.5, 2.0, np.nan, "a", True, [1, 2], 2**128]


@pytest.mark.parametrize("seed", NO_SEEDS, ids=str)
@pytest.mark.parametrize("draw", SEEDED.values(), ids=SEEDED.keys())
def test_a_seed_is_an_integer_of_at_least_0_everywhere(draw, seed):
    with pytest.raises(ArgumentError, match="`seed` must be (given|an integer of at least 0)"):
        draw(seed)


@pytest.mark.filterwarnings("ignore:Every good τ is negative")  # the logits are drawn at random
@pytest.mark.parametrize("draw", SEEDED.values(), ids=SEEDED.keys())
def test_a_seed_of_128_bits_is_taken(draw):
    draw(2**128 - 1)
    draw(np.int64(3))


def sized(name, largest, make):
    return pytest.param(name, largest, make, id=name)


@pytest.mark.parametrize(
    ("name", "largest", "make"),
    [
        sized("num_classes", 10**8, lambda n: kla.data.long_tail_counts(n, max_count=100, imbalance_ratio=10)),
        sized("num_classes", 10**8, lambda n: kla.data.zipf_counts(n, num_examples=10**8)),
        sized("num_classes", 10**8, kla.metrics.BalancedAccuracy),
        sized("num_classes", 10**8, kla.priors.StreamingPrior),
        sized("num_classes", 10**8, lambda n: kla.data.LongTailSampler([0, 1], 2, seed=0, num_classes=n)),
        sized("num_classes", 10**8, lambda n: kla.priors.count_classes([0, 1], num_classes=n)),
        sized("units", 10**8, kla.layers.CosineDense),
        sized("max_count", 10**12, lambda n: kla.data.long_tail_counts(5, max_count=n, imbalance_ratio=10)),
        sized("max_count", 10**12, lambda n: kla.data.load("fashion_mnist_lt", max_count=n)),
        sized("num_examples", 10**12, lambda n: kla.data.zipf_counts(5, num_examples=n)),
        sized("batch_size", 2**31 - 1, lambda n: kla.data.LongTailSampler([0, 1], n, seed=0)),
        sized("num_bins", 10**6, lambda n: held_out.calibration_error([[1.0, 0.0]], [0], num_bins=n)),
        sized("replicates", 10**6, lambda n: kla.estimate_target_prior(LOGITS, [5, 3, 2], replicates=n)),
        sized("epoch", 2**63 - 1, lambda n: kla.callbacks.DeferredReweighting({n: [1.0, 2.0]})),
    ],
)
def test_sizes_that_would_overflow_or_fill_memory_are_refused_first(name, largest, make):
    for size in (largest + 1, 2**63, 10**30, 10**5000):
        with pytest.raises(ArgumentError, match=rf"`{name}` must be an integer of .* and at most {largest:,}\."):
            make(size)


@pytest.mark.parametrize("profile", ["exponential", "step", "zipf"])
def test_the_largest_tail_is_exact_to_its_last_example(profile):
    counts = kla.data.long_tail_counts(4, max_count=10**12, imbalance_ratio=10**6, profile=profile)
    assert (counts[0], counts[-1]) == (10**12, 10**6)
    assert (np.diff(counts) <= 0).all()


def test_the_largest_zipf_law_sums_to_its_total():
    for exponent in (0, 0.5, 1, 2):
        counts = kla.data.zipf_counts(1000, num_examples=10**12 - 1, exponent=exponent)
        assert counts.sum() == 10**12 - 1 and (np.diff(counts) <= 0).all() and counts.min() >= 1


@pytest.mark.parametrize("counts", [[1e30, 1], [2**63, 1], [10**12 + 1, 1]], ids=str)
def test_numbers_of_examples_beyond_exact_arithmetic_are_refused(counts):
    with pytest.raises(ArgumentError, match=r"`class_counts` must be at most 1,000,000,000,000 examples.*at class 0"):
        kla.data.subsample([0, 0, 1], counts, seed=0)


@pytest.mark.parametrize("ids", [np.array([0, 2**63 + 5], "uint64"), [0, 10**8], [0, 2**40]], ids=str)
def test_ids_that_no_class_has_are_refused_before_they_are_cast(ids):
    for read in (
        lambda: kla.data.LongTailSampler(ids, 2, seed=0),
        lambda: kla.data.load((np.zeros((2, 3)), [0, 1]), test=(np.zeros((2, 3)), ids)),
        lambda: kla.data.load((np.zeros((2, 3)), ids), test=(np.zeros((2, 3)), [0, 1])),
    ):
        with pytest.raises(ArgumentError, match=f"must be class ids below 100,000,000. Received {int(ids[1])}"):
            read()


BEYOND = [1e38, 1e300]


@pytest.mark.parametrize("number", BEYOND)
@pytest.mark.parametrize(
    "make",
    [
        lambda n: kla.Calibration(temperature=n),
        lambda n: kla.Calibration(temperature=1 / n),
        lambda n: kla.Calibration(bias=[n, 0]),
        lambda n: kla.losses.FocalCrossentropy(gamma=n),
        lambda n: kla.losses.FocalCrossentropy(class_weight=[n, 1]),
        lambda n: kla.callbacks.DeferredReweighting({1: [n, 1]}),
        lambda n: kla.layers.MinimumRiskDecision([[0, n], [1, 0]]),
        lambda n: kla.layers.CosineDense(2, scale=n),
        lambda n: kla.priors.StreamingPrior(2, smoothing=n),
    ],
    ids=["temperature", "small temperature", "bias", "gamma", "class weight", "stage", "costs", "scale", "smoothing"],
)
def test_numbers_beyond_float32_are_refused_where_models_hold_them(make, number):
    with pytest.raises(ArgumentError, match="must be .*(float32|a positive number)"):
        make(number)


@pytest.mark.parametrize("size", [0, 1.5, 2**40])
def test_the_batch_size_of_a_prediction_is_checked_before_it(size):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    with pytest.raises(ArgumentError, match="`batch_size` must be an integer of at least 1"):
        kla.tune_tau(model, (LOGITS, LABELS), [5, 3, 2], batch_size=size)
    with pytest.raises(ArgumentError, match="`batch_size` must be an integer of at least 1"):
        held_out.predict_logits(model, LOGITS, batch_size=size)
