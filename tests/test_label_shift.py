"""The estimated class mix: against loops written from the papers, in its limits, in its intervals, and in use."""

import sys
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import softmax

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import _likeliest_mix, _likeliest_replicates, label_shift
from keras_logit_adjust.held_out.label_shift import TargetPrior, estimate_target_prior

SHARP = {"tol": 1e-12, "replicates": 2}


def draw_examples(rng, q, size, separation=1.5):
    """`log P(x|y)` up to a number for each x, and y: a Gaussian about each class's own corner."""
    y = rng.choice(len(q), size=size, p=q)
    x = rng.normal(size=(size, len(q))) + separation * np.eye(len(q))[y]
    return separation * x, y


def em_by_saerens(logits, prior, steps=20_000):
    """The iteration of Saerens et al. (2002), as it stands there."""
    posterior, q = softmax(logits), prior.copy()
    for _ in range(steps):
        ratio = posterior * (q / prior)
        new = (ratio / ratio.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(new - q).max() < 1e-15:
            break
        q = new
    return q


def bbse_by_lipton(logits, held_out, y_true):
    """Lipton et al. (2018): weights from the joint confusion matrix, times the class mix of the labeled examples."""
    size = logits.shape[1]
    joint, share = np.zeros((size, size)), np.zeros(size)
    for row, y in zip(held_out, y_true, strict=True):
        joint[row.argmax(), y] += 1 / len(y_true)
    for row in logits:
        share[row.argmax()] += 1 / len(logits)
    q = np.linalg.solve(joint, share) * np.bincount(y_true, minlength=size) / len(y_true)
    return np.maximum(q, 0) / np.maximum(q, 0).sum()


def tail(size, ratio=100.0):
    return ratio ** (-np.arange(size) / (size - 1))


@pytest.fixture
def shifted(rng):
    """Logits under a long tail of examples with another mix, labeled examples of the tail, counts."""
    counts = np.array([900, 90, 10])
    unlabeled, _ = draw_examples(rng, [0.2, 0.5, 0.3], 400)
    held_out, y = draw_examples(rng, np.full(3, 1 / 3), 300)
    return {"logits": unlabeled + np.log(counts), "validation": (held_out + np.log(counts), y), "counts": counts}


# --- the estimate ----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(1, 120), st.floats(0.3, 3), st.integers(0, 2**32 - 1))
def test_em_reaches_the_fixed_point_of_its_papers_loop(num_classes, size, separation, seed):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(num_classes)) + 1e-3
    prior /= prior.sum()
    logits = draw_examples(rng, rng.dirichlet(np.ones(num_classes)), size, separation)[0] + np.log(prior)
    found = estimate_target_prior(logits, prior, **SHARP)

    def log_likelihood(q):
        return np.log((softmax(logits) / prior) @ q).mean()

    # The likelihood may be flat along the way: neither is above the other, up to the hundredth of an example.
    assert found.converged and found.prior.sum() == pytest.approx(1)
    assert log_likelihood(found.prior) >= log_likelihood(em_by_saerens(logits, prior)) - 1e-3 / size


def test_em_is_its_papers_loop_where_classes_are_told_apart(rng):
    for num_classes in (2, 3, 10):
        prior = tail(num_classes) / tail(num_classes).sum()
        q = rng.dirichlet(np.full(num_classes, 5.0))
        logits = draw_examples(rng, q, 1000, separation=3)[0] + np.log(prior)
        found = estimate_target_prior(logits, prior, **SHARP)
        np.testing.assert_allclose(found.prior, em_by_saerens(logits, prior), atol=1e-11)
        default = estimate_target_prior(logits, prior, replicates=2)
        np.testing.assert_allclose(default.prior, found.prior, atol=1e-6)


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_bbse_is_its_papers_linear_system(num_classes, size, seed):
    rng = np.random.default_rng(seed)
    logits, _ = draw_examples(rng, rng.dirichlet(np.ones(num_classes)), size, 3)
    held_out, y = draw_examples(rng, np.full(num_classes, 1 / num_classes), 100 * num_classes, 3)
    found = estimate_target_prior(logits, np.ones(num_classes), method="bbse", validation=(held_out, y), replicates=2)
    np.testing.assert_allclose(found.prior, bbse_by_lipton(logits, held_out, y), atol=1e-12)


def test_both_are_those_of_the_package_abstention(shifted):
    reference = pytest.importorskip("abstention.label_shift", reason="abstention, of Alexandari et al., is the oracle")
    prior = shifted["counts"] / shifted["counts"].sum()
    posterior, (held_out, y) = softmax(shifted["logits"]), shifted["validation"]
    em = reference.EMImbalanceAdapter(tolerance=1e-15, max_iterations=10_000)(posterior, prior[None])
    ours = estimate_target_prior(shifted["logits"], shifted["counts"], **SHARP)
    np.testing.assert_allclose(ours.prior, em.multipliers * prior, atol=1e-10)
    bbse = reference.BBSEImbalanceAdapter()(np.eye(3)[y], posterior, softmax(held_out)).multipliers
    expected = bbse * np.bincount(y) / y.size
    ours = estimate_target_prior(shifted["logits"], shifted["counts"], method="bbse", validation=(held_out, y))
    np.testing.assert_allclose(ours.prior, expected / expected.sum(), atol=1e-12)


def test_exact_posteriors_give_the_prior_back():
    prior, likelihood = np.array([0.9, 0.0999, 1e-4]), np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
    logits = np.log(likelihood * prior[:, None]).T  # a row for each of three kinds of x
    for target in ([0.2, 0.3, 0.5], [0.5, 0.5, 0.0], prior):
        # As many examples of each kind as the mix makes expected, 10⁵ in all; here that is whole for each.
        numbers = np.rint(1e5 * np.asarray(target) @ likelihood).astype(int)
        np.testing.assert_allclose(numbers, 1e5 * np.asarray(target) @ likelihood, atol=1e-6)
        found = estimate_target_prior(np.repeat(logits, numbers, axis=0), prior, replicates=2)
        # Where the third class has nothing, and nothing speaks against it, the likelihood is level: within 10⁻¹⁰.
        np.testing.assert_allclose(found.prior, target, atol=1e-5)
    assert found.iterations == 1


def test_a_class_of_one_in_a_million_is_found_common_or_absent_now(rng):
    counts = np.array([1e6, 1e3, 1.0])
    for target in ([0.1, 0.2, 0.7], [0.5, 0.5, 0.0]):
        logits = draw_examples(rng, target, 4000, separation=5)[0] + np.log(counts)
        found = estimate_target_prior(logits, counts, replicates=50)
        np.testing.assert_allclose(found.prior, em_by_saerens(logits, counts / counts.sum()), atol=1e-5)
        np.testing.assert_allclose(found.prior, target, atol=0.04)  # 5 standard errors of a share of 4,000
    assert found.prior[2] == found.low[2] == 0 and found.effective_prior[2] == 0.5 / 4001.5


def test_extreme_logits_and_a_single_example_stay_finite():
    for logits in ([[1e4, -1e4, 0.0]], [[-1e30, 1e30, 0.0]] * 3, [[0.0, -2000.0, 3.0], [900.0, 0.0, 0.0]]):
        found = estimate_target_prior(np.array(logits), [1e6, 10, 1], replicates=5)
        assert found.converged and found.prior.sum() == pytest.approx(1)
        assert all(np.isfinite(part).all() for part in (found.prior, found.low, found.high, found.effective_prior))


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_classes_in_another_order_have_the_same_shares(method, shifted):
    order = np.array([2, 0, 1])
    (held_out, y), back = shifted["validation"], np.argsort(order)
    validation = {"validation": (held_out, y)} if method == "bbse" else {}
    permuted = {"validation": (held_out[:, order], back[y])} if method == "bbse" else {}
    found = estimate_target_prior(shifted["logits"], shifted["counts"], method=method, **validation)
    other = estimate_target_prior(shifted["logits"][:, order], shifted["counts"][order], method=method, **permuted)
    np.testing.assert_allclose(other.prior, found.prior[order], atol=1e-6)


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_layouts_and_offsets_do_not_matter_and_a_seed_repeats_the_interval(method, shifted, rng):
    own = {"validation": shifted["validation"]} if method == "bbse" else {}
    found = estimate_target_prior(shifted["logits"], shifted["counts"], method=method, **own)
    moved = shifted["logits"] + rng.normal(size=(400, 1))
    again = estimate_target_prior(moved.reshape(4, 100, 3), shifted["counts"] / 1000, method=method, **own)
    for name in ("prior", "low", "high"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=1e-6)
    other = estimate_target_prior(shifted["logits"], shifted["counts"], method=method, seed=1, **own)
    assert (other.low != found.low).any() and (other.prior == found.prior).all()
    wide = estimate_target_prior(shifted["logits"], shifted["counts"], method=method, level=0.99, **own)
    assert (wide.low <= found.low).all() and (wide.high >= found.high).all()
    assert found.method == method and found.num_examples == 400 and (found.low < found.high).all()


@pytest.mark.parametrize("separation", [0.5, 2.0])
def test_no_iteration_lowers_the_likelihood_though_it_jumps(separation, rng):
    logs, _ = draw_examples(rng, np.tile([0, 0.2], 5), 300, separation)
    likelihood, heights = np.exp(logs - logs.max(axis=1, keepdims=True)), []
    for limit in range(1, 12):
        options = {"weights": np.full((1, 300), 1 / 300), "start": np.full(10, 0.1)}
        (q,), iterations, converged = _likeliest_mix.maximize(likelihood, **options, tol=1e-300, max_iterations=limit)
        assert iterations == limit and not converged and q.sum() == pytest.approx(1)
        heights.append(np.log(likelihood @ q).mean())
    assert (np.diff(heights) >= -1e-13).all() and heights[-1] > heights[0]


def overlapping(rng, num_examples=200, num_classes=25):
    """Likelihoods of classes that look alike, on which jumps alone take far more than a curvature waits for."""
    logs, _ = draw_examples(rng, rng.dirichlet(np.full(num_classes, 0.3)), num_examples, separation=0.8)
    return np.exp(logs - logs.max(axis=1, keepdims=True))


def test_slopes_of_replicates_are_those_of_their_log_likelihoods(rng):
    likelihood, mixes = rng.dirichlet(np.ones(4), size=50), rng.dirichlet(np.ones(4), size=3)
    weights = rng.dirichlet(np.ones(50), size=3)
    ratio = likelihood / (mixes @ likelihood.T)[..., None]  # [R, N, L]
    arrays = (array.astype("float32") for array in (likelihood, weights, mixes @ likelihood.T))
    gradient, diagonal = _likeliest_replicates._slopes(*arrays)
    np.testing.assert_allclose(gradient, np.einsum("rn,rnl->rl", weights, ratio), rtol=1e-5)
    np.testing.assert_allclose(diagonal, np.einsum("rn,rnl->rl", weights, ratio**2), rtol=1e-5)


def test_newtons_steps_reach_the_optimum_of_jumps_in_fewer_iterations():
    saved = []
    for seed in range(6):
        likelihood = overlapping(np.random.default_rng(seed))
        options = {"weights": np.full((1, 200), 1 / 200), "start": np.full(25, 1 / 25), "max_iterations": 10_000}
        (jumps,), slow, _ = _likeliest_mix.maximize(likelihood, **options, tol=1e-10)
        (newton,), fast, converged = _likeliest_mix.maximize(likelihood, **options, tol=1e-10, newton=True)
        gradient = (likelihood / (likelihood @ newton)[:, None]).mean(axis=0)
        assert converged and gradient.max() <= 1 + 1e-9 and newton.sum() == pytest.approx(1)
        assert np.log(likelihood @ newton).mean() == pytest.approx(np.log(likelihood @ jumps).mean(), abs=2e-10)
        np.testing.assert_allclose(newton, jumps, atol=1e-3)
        saved.append((slow, fast))
    assert np.sum(saved, axis=0)[0] > 3 * np.sum(saved, axis=0)[1]


def test_a_shared_curvature_leads_every_replicate_to_its_own_optimum(rng):
    likelihood = overlapping(rng)
    whole, options = np.full((1, 200), 1 / 200), {"max_iterations": 10_000}
    (estimate,), _, _ = _likeliest_mix.maximize(likelihood, whole, np.full(25, 1 / 25), tol=1e-10, **options)
    start = (200 * estimate + 0.5) / (200 + 0.5 * 25)
    weights = rng.multinomial(200, whole[0], size=12) / 200
    gradient = (likelihood / (likelihood @ start)[:, None]).mean(axis=0)
    curvature = _likeliest_mix.Curvature(likelihood, whole[0], start, gradient)
    near, few, converged = _likeliest_replicates.maximize_replicates(
        likelihood.astype("float32"), 200 * weights, start, curvature, tol=1e-3 / 200, **options
    )
    exact, many, _ = _likeliest_mix.maximize(likelihood, weights, start, tol=1e-11, **options)
    heights = [(weights * np.log(q @ likelihood.T)).sum(axis=1) for q in (near, exact)]
    assert converged and 3 * few < many
    # Twice the tolerance: of the quadratic model, not of the likelihood.
    assert (heights[1] - heights[0] <= 2e-3 / 200).all() and (heights[1] - heights[0] >= -1e-9).all()


def test_replicates_with_an_example_a_class_reach_their_own_optimum(rng):
    number = 150  # of examples and of classes: a bootstrap sample lacks a third of them
    labels = rng.choice(number, number, p=rng.dirichlet(np.full(number, 3.0)))
    logits = 4 * rng.normal(size=(number, number)) + 14.0 * np.eye(number)[labels]
    likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
    even, options = np.full((1, number), 1 / number), {"max_iterations": 10_000}
    (estimate,), _, _ = _likeliest_mix.maximize(likelihood, even, even[0], tol=1e-9, newton=True, **options)
    start = (number * estimate + 0.5) / (1.5 * number)
    gradient = (likelihood / (likelihood @ start)[:, None]).mean(axis=0)
    curvature = _likeliest_mix.Curvature(likelihood, even[0], start, gradient)
    counts = rng.multinomial(number, even[0], size=25)
    found, iterations, converged = _likeliest_replicates.maximize_replicates(
        likelihood.astype("float32"), counts, start, curvature, tol=1e-3 / number, **options
    )
    assert converged and iterations < 1000 and found.sum(axis=1) == pytest.approx(np.ones(25), abs=1e-6)
    for of_row, q in zip(counts, found, strict=True):
        (exact,), _, _ = _likeliest_mix.maximize(
            likelihood, of_row[None] / number, start, tol=1e-8, newton=True, **options
        )
        drawn = of_row > 0
        heights = [of_row[drawn] @ np.log(likelihood[drawn] @ mix) for mix in (q, exact)]
        assert heights[1] - heights[0] < 0.1  # in log-likelihood; the shared curvature alone loses up to 7


def test_em_that_is_cut_off_warns_and_says_so(shifted):
    with pytest.warns(UserWarning, match="EM did not converge in max_iterations=2.*Raise `max_iterations`, or `tol`"):
        found = estimate_target_prior(shifted["logits"], shifted["counts"], max_iterations=2, replicates=2)
    assert found.iterations == 2 and found.converged is False


# --- the interval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_the_interval_holds_the_true_share_at_its_nominal_rate(method):
    target, counts, draws = np.array([0.5, 0.3, 0.2]), np.array([900, 90, 10]), 200
    inside = np.zeros(3)
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        logits = draw_examples(rng, target, 200)[0]
        own = {"validation": draw_examples(rng, np.full(3, 1 / 3), 300)} if method == "bbse" else {}
        logits = logits if own else logits + np.log(counts)
        found = estimate_target_prior(logits, counts, method=method, replicates=100, seed=seed, **own)
        inside += (found.low <= target) & (target <= found.high)
    # Three deviations of a share of 200 about 95 %, and two points that percentile intervals are known to lack.
    slack = 3 * np.sqrt(0.95 * 0.05 / draws)
    assert (inside / draws >= 0.95 - slack - 0.02).all() and (inside / draws <= 0.95 + slack).all()


# --- the diagnosis ---------------------------------------------------------------------------------------------------


def test_classes_that_predictions_do_not_tell_apart_are_named(rng):
    y = np.repeat(np.arange(5), 200)
    held_out = 5.0 * np.eye(5)[y] + 0.1 * rng.normal(size=(1000, 5))
    coin = rng.integers(0, 2, 400)
    held_out[np.isin(y, (1, 3))] = 5.0 * np.eye(5)[np.where(coin, 1, 3)]
    with pytest.warns(UserWarning, match='near singular.*hardly separate classes 1, 3,.*"em", merge these classes'):
        found = estimate_target_prior(held_out, np.ones(5), method="bbse", validation=(held_out, y))
    confusion = np.array([[np.mean(held_out[y == c].argmax(1) == k) for c in range(5)] for k in range(5)])
    smallest = np.linalg.svd(confusion, compute_uv=False).min()
    assert found.confused_classes == (1, 3) and found.iterations is found.converged is None
    # Two coins' shares of heads: above the fixed threshold, and not by more than chance.
    assert found.smallest_singular_value == pytest.approx(smallest) and smallest > 0.05
    np.testing.assert_allclose(found.prior[[0, 2, 4]], 0.2, atol=1e-9)
    assert (found.high - found.low)[[1, 3]].min() > 4 * (found.high - found.low)[[0, 2, 4]].max()


def test_a_matrix_that_is_singular_outright_gives_a_prior_all_the_same():
    held_out, y = np.array([[9.0, 0, 0]] * 6), np.array([0, 1, 2] * 2)  # never predicted: classes 1 and 2
    for logits in (held_out, held_out[:, ::-1]):
        with pytest.warns(UserWarning, match="separate classes 0, 1, 2"):
            found = estimate_target_prior(logits, np.ones(3), method="bbse", validation=(held_out, y), replicates=3)
        np.testing.assert_allclose(found.prior, 1 / 3)
        assert found.smallest_singular_value == pytest.approx(0, abs=1e-12)


def test_classes_told_apart_little_are_named_by_the_fixed_threshold():
    # P(ŷ|y) of two classes is (0.51, 0.49) and (0.49, 0.51) on so many examples that it is no chance.
    y = np.repeat([0, 1], 10**5)
    held_out = np.eye(2)[(np.arange(y.size) % 100 < np.where(y, 51, 49)).astype(int)] * 3.0
    with pytest.warns(UserWarning, match="smallest singular value 0.02 is below 0.05.*separate classes 0, 1,"):
        found = estimate_target_prior(held_out, np.ones(2), method="bbse", validation=(held_out, y), replicates=2)
    assert found.smallest_singular_value == pytest.approx(0.02) and found.confused_classes == (0, 1)


def test_a_matrix_well_above_the_threshold_warns_of_nothing(shifted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate_target_prior(shifted["logits"], np.ones(3), method="bbse", validation=shifted["validation"])
        assert found.confused_classes == () and found.smallest_singular_value > label_shift.SMALLEST_SINGULAR_VALUE
        right = (4 * np.eye(3), [0, 1, 2])
        few = estimate_target_prior(right[0], np.ones(3), method="bbse", validation=right)
        assert few.smallest_singular_value == pytest.approx(1)  # all are predicted right: nothing varies


# --- in use ----------------------------------------------------------------------------------------------------------


def test_an_estimate_goes_wherever_a_target_prior_or_counts_go(shifted):
    found = estimate_target_prior(shifted["logits"], shifted["counts"])
    expected = (400 * found.prior + 0.5) / 401.5
    np.testing.assert_allclose(found.effective_prior, expected)
    np.testing.assert_allclose(kla.priors.prior(found), expected)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    x, counts = np.eye(3, dtype="float32"), shifted["counts"]
    logits = np.asarray(keras.ops.convert_to_numpy(model(x)), "float64")
    shift = np.log(expected) - np.log(counts / 1000)
    adjusted = kla.adjust(model, counts, target_prior=found)
    np.testing.assert_allclose(adjusted.predict(x, verbose=0), logits + shift, atol=1e-5)
    running = kla.adjust(model, counts)
    running.get_layer("logit_adjustment").set(target_prior=found)
    np.testing.assert_allclose(running.predict(x, verbose=0), logits + shift, atol=1e-5)
    for layer in (running.get_layer("logit_adjustment"), kla.layers.PriorAwareDense(3, counts, target_prior=found)):
        config = layer.get_config()
        assert [type(value) for value in config["target_prior"]] == [float] * 3
        rebuilt = type(layer).from_config(config)
        np.testing.assert_allclose(rebuilt.target_prior, expected)


def test_an_estimate_prints_its_shares_and_intervals():
    ones = np.full(20, 1 / 20)
    assert repr(TargetPrior(ones[:2] * 10, ones[:2], ones[:2] * 20, 0.9, "em", 1000)) == (
        "TargetPrior by em from 1,000 examples, 90% interval: 0: 0.5000 [0.0500, 1.0000], 1: 0.5000 [0.0500, 1.0000]"
    )
    assert repr(TargetPrior(ones, ones, ones, 0.995, "em", 5)).endswith("10: 0.0500 [0.0500, 0.0500], … (20 classes)")


def test_estimating_needs_no_extra(shifted, monkeypatch):
    for name in ("sklearn", "abstention"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it now fails
    assert estimate_target_prior(shifted["logits"], shifted["counts"], replicates=2).converged
