"""`fit_linear_probe`: the optimum of a convex problem, and what chooses its penalty."""

import numpy as np
import pytest
from scipy import optimize, special

from keras_logit_adjust.held_out import _logistic, fit_linear_probe, linear_probe

COUNTS = (40, 15, 6, 3, 2)
ONE = {"penalties": [0.3], "scalings": ["none"], "tolerance": 1e-8}


def draw(counts=COUNTS, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(y.size, columns)) * 2.0 ** np.arange(columns) + 3 * np.eye(columns)[y % columns], y


def objective(flat, x, y, *, weight, margin, penalty):
    """`Σ w·CE + λ/2·‖W‖²` in float64, from its formula."""
    weights = flat.reshape(x.shape[1] + 1, -1)
    logits = x @ weights[:-1] + weights[-1] + margin
    losses = special.logsumexp(logits, axis=1) - logits[np.arange(y.size), y]
    return weight[y] @ losses + penalty / 2 * (weights[:-1] ** 2).sum()


def of_unit_length(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0).sum())


@pytest.mark.parametrize("columns", [6, 100], ids=["fewer columns than rows", "more columns than rows"])
@pytest.mark.parametrize("kind", ["plain", "balanced", "adjusted"])
def test_the_probe_is_the_minimum_of_the_documented_problem(kind, columns):
    x, y = draw(columns=columns)
    x, counts = of_unit_length(x), np.bincount(y)
    options = {"plain": {}, "balanced": {"class_weight": "balanced"}, "adjusted": {"tau": 0.7}}[kind]
    weight = counts.sum() / (counts.size * counts) if kind == "balanced" else np.ones(counts.size)
    margin = options.get("tau", 0.0) * np.log(counts / counts.sum())
    probe = fit_linear_probe(x, y, **options, **ONE)
    problem = {"weight": weight, "margin": margin, "penalty": 0.3}
    ours = np.concatenate([probe.kernel, probe.bias[None]]).ravel()
    slopes = optimize.approx_fprime(ours, lambda flat: objective(flat, x, y, **problem), 1e-6)
    assert np.abs(slopes).max() < 1e-3  # convex: where all slopes are 0 it is least


def test_the_gradient_is_that_of_the_objective():
    x, y = draw()
    rng, weight, margin = np.random.default_rng(2), np.arange(1.0, 6.0), np.arange(5.0) / 3
    problem = _logistic.Problem(x, y, np.ones(6), weight=weight, margin=margin)
    at = rng.normal(size=(7, 5))
    value, gradient = problem._evaluate(at, 0.2)
    options = {"weight": weight, "margin": margin, "penalty": 0.2}
    assert value == pytest.approx(objective(at.ravel(), x, y, **options), rel=1e-12)
    expected = optimize.approx_fprime(at.ravel(), lambda flat: objective(flat, x, y, **options), 1e-6)
    np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-4, atol=1e-3)


def test_a_start_gets_its_best_length_and_the_curvature_there():
    x, y = draw()
    weight, margin, penalty = np.arange(1.0, 6.0), np.arange(5.0) / 3, 2000.0
    problem = _logistic.Problem(x, y, (x**2).sum(axis=0), weight=weight, margin=margin)
    options = {"weight": weight, "margin": margin, "penalty": penalty}
    short = 0.4 * problem.solve(penalty, tolerance=1e-6)
    start, curvature = problem._lengthened(short, penalty)
    length = start[0, 0] / short[0, 0]
    np.testing.assert_allclose(start, length * short, rtol=1e-12)

    def along(factor):
        return objective((factor * short).ravel(), x, y, **options)

    best = optimize.minimize_scalar(along, bounds=(0.5, 10), method="bounded").x
    assert best > 1.2 and abs(np.log(length / best)) < 0.02
    curvature[:-1] += penalty
    step, diagonal = 1e-3, np.empty(curvature.size)
    for place, move in enumerate(step * np.eye(curvature.size)):
        up, here, down = (objective(start.ravel() + sign * move, x, y, **options) for sign in (1, 0, -1))
        diagonal[place] = (up - 2 * here + down) / step**2
    np.testing.assert_allclose(curvature.ravel(), diagonal, rtol=1e-3)
    # It changes the way to the optimum and not the optimum.
    cold, warm = (problem.solve(penalty, start=start, tolerance=1e-8) for start in (None, short))
    np.testing.assert_allclose(warm[:-1], cold[:-1], atol=1e-3)


def test_the_adjusted_loss_is_post_hoc_adjustment_to_1e_4():
    """At the optimum, with a free bias without a penalty: for the same penalty, on unseen examples too."""
    x, y = draw()
    unseen = draw(seed=1)[0]
    log_prior = np.log(np.array(COUNTS) / sum(COUNTS))
    plain = fit_linear_probe(x, y, **ONE).logits(unseen)
    for tau in (0.5, 1.0, 2.0):
        adjusted = fit_linear_probe(x, y, tau=tau, **ONE).logits(unseen)
        difference = plain - tau * log_prior - adjusted
        assert np.abs(difference - difference.mean(axis=1, keepdims=True)).max() < 1e-4


def test_logits_out_of_fold_come_from_fits_without_the_example():
    """Each by the counts of its own fold, brought to those of the whole."""
    x, y = draw()
    probe = fit_linear_probe(x, y, **ONE)
    fold_of = linear_probe._draw_folds(y, 5, np.random.default_rng(0))
    z, whole = of_unit_length(x), np.log(np.bincount(y) / y.size)
    assert probe.out_of_fold_rows.tolist() == list(range(y.size))
    for fold in range(5):
        held_out = fold_of == fold
        rest = y[~held_out]
        problem = _logistic.Problem(z[~held_out], rest, (z**2).sum(axis=0), weight=np.ones(5), margin=np.zeros(5))
        optimum = problem.solve(0.3, tolerance=1e-9)
        own = np.log(np.bincount(rest) / rest.size)
        expected = z[held_out] @ optimum[:-1] + optimum[-1] - own + whole
        difference = probe.out_of_fold_logits[held_out] - expected
        assert np.abs(difference - difference.mean(axis=1, keepdims=True)).max() < 0.02


def test_every_fold_has_examples_of_every_class():
    y = np.repeat(np.arange(4), [20, 7, 2, 1])
    fold_of = linear_probe._draw_folds(y, 5, np.random.default_rng(0))
    assert (fold_of[y == 3] == -1).all() and (fold_of[y < 3] >= 0).all()
    for fold in range(5):
        assert (np.bincount(y[fold_of != fold], minlength=4) > 0).all()
    sizes = np.bincount(fold_of[fold_of >= 0])
    assert sizes.max() - sizes.min() <= 1


def test_small_classes_are_one_in_the_criterion():
    """Of classes with 40, 15, 6 and 3 + 2 examples the balanced loss is the mean of four means."""
    x, y = draw()
    probe = fit_linear_probe(x, y, tau=1.0, penalties=[0.3], scalings=["none"])
    logits = probe.out_of_fold_logits.astype("float64")

    def loss(scale):
        losses = special.logsumexp(scale * logits, axis=1) - scale * logits[np.arange(y.size), y]
        return np.mean([losses[y == 0].mean(), losses[y == 1].mean(), losses[y == 2].mean(), losses[y >= 3].mean()])

    expected = min(loss(scale) for scale in np.exp(np.linspace(-5, np.log(2), 2001)))
    assert probe.balanced_loss["none", 0.3] == pytest.approx(expected, abs=1e-5)


def test_the_penalty_with_the_least_balanced_loss_is_chosen():
    x, y = draw(counts=(60, 30, 15, 8))
    probe = fit_linear_probe(x, y, tau=1.0, penalties=[10.0, 1e-3, 0.1], scalings=["none"])
    assert set(probe.balanced_loss) == {("none", 10.0), ("none", 1e-3), ("none", 0.1)}
    assert ("none", probe.penalty) == min(probe.balanced_loss, key=probe.balanced_loss.get)


def test_by_expected_error_the_weakest_penalty_that_is_as_good_is_taken():
    """Classes far apart: every penalty but the largest gives no error out of fold."""
    y = np.repeat([0, 1, 2], [60, 20, 8])
    x = 20 * np.eye(4)[y] + np.random.default_rng(0).normal(size=(y.size, 4))
    options = {"penalties": [100.0, 0.1, 1e-3], "scalings": ["none"], "criterion": "expected_error"}
    probe = fit_linear_probe(x, y, **options)
    assert probe.penalty == 1e-3
    assert probe.balanced_loss["none", 100.0] > probe.balanced_loss["none", 1e-3] + 0.01


def test_columns_of_other_units_are_standardized():
    """One column tells the classes apart, in a unit that hides it; in equal units nothing is gained."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 40, 20])
    x = np.column_stack([y + 0.1 * rng.normal(size=120), 1e3 * rng.normal(size=(120, 3))])
    assert fit_linear_probe(x, y, penalties=[1.0]).scaling == "standardized"
    x = rng.normal(size=(120, 4)) + np.eye(4)[y]
    assert fit_linear_probe(x / x.std(axis=0), y, penalties=[1.0]).scaling == "none"


def test_constant_columns_and_shifts_change_nothing():
    x, y = draw()
    probe = fit_linear_probe(x, y, **ONE)
    moved = fit_linear_probe(np.column_stack([x + 7.0, np.full(y.size, 3.0)]), y, **ONE)
    assert not moved.kernel[-1].any()
    np.testing.assert_allclose(moved.logits(np.column_stack([x + 7.0, x[:, 0]])), probe.logits(x), atol=1e-3)


def test_the_same_seed_gives_the_same_probe():
    x, y = draw()
    first, again, other = (fit_linear_probe(x, y, seed=seed, **ONE) for seed in (0, 0, 1))
    assert np.array_equal(first.out_of_fold_logits, again.out_of_fold_logits)
    assert not np.array_equal(first.out_of_fold_logits, other.out_of_fold_logits)
    assert np.array_equal(first.kernel, other.kernel)


X, Y = draw()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": X[:, 0]}, r"`x` must be features \[N, D\]\. Received shape \(66,\)"),
        ({"x": X * np.nan}, r"`x` must be finite and below 1e\+30\. 66 rows are not"),
        ({"y": Y[:-1]}, r"`y` must be class ids \[66\] from 0, .*Received shape \(65,\)"),
        ({"y": Y * 2}, r"every id from 0 to its largest, 8.*None at classes 1, 3, 5, 7: renumber"),
        ({"y": Y + 0.5}, r"`y` must be class ids .*float64"),
        ({"x": X[:5], "y": np.arange(5)}, r"a class with at least two examples: one of them is held out"),
        ({"folds": 1}, r"`folds` must be an integer of at least 2"),
        ({"penalties": [0.0]}, r"`penalties` must be one or more numbers from 1e-12"),
        ({"scalings": ["robust"]}, r"`scalings` must be one of 'none', 'standardized'"),
        ({"class_weight": 3}, r"`class_weight` must be .balanced., None or a callable\. Received: 3"),
        ({"scalings": "none"}, r"`scalings` must be a list of"),
        ({"class_weight": "equal"}, r"`class_weight` must be one of 'balanced'"),
        ({"criterion": "error"}, r"`criterion` must be one of 'cross_entropy', 'expected_error'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changed, message):
    arguments = {"x": X, "y": Y, **changed}
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_logits_are_read_from_every_array_that_is_fitted():
    torch = pytest.importorskip("torch", reason="an array of another framework")
    probe = fit_linear_probe(X, Y, **ONE)
    expected = X @ probe.kernel + probe.bias
    for x in (X.tolist(), torch.tensor(X), torch.tensor(X, requires_grad=True)):
        np.testing.assert_allclose(probe.logits(x), expected, rtol=1e-12)
    half = torch.tensor(X, dtype=torch.bfloat16)
    np.testing.assert_allclose(probe.logits(half), half.double().numpy() @ probe.kernel + probe.bias, rtol=1e-12)
