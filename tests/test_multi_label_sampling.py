"""Batches drawn by label from rows of several labels, and long tails cut out of them."""

import json

import numpy as np
import pytest
from scipy import sparse

import keras_logit_adjust as kla

N, L = 240, 4
RNG = np.random.default_rng(0)
TARGETS = (RNG.random((N, L)) < [0.5, 0.2, 0.08, 0.02]).astype("int64")
COUNTS = TARGETS.sum(axis=0)
UNLABELED = ~TARGETS.any(axis=1)


def sampler_of(targets=TARGETS, batch_size=20, seed=0, **options):
    return kla.data.MultiLabelSampler(targets, batch_size, seed=seed, **options)


def drawn(sampler, epochs):
    steps = range(epochs * sampler.steps_per_epoch)
    return np.bincount(np.concatenate([sampler.rows(step) for step in steps]), minlength=N)


def expected_rows(shares, unlabeled_share):
    """How often each row is drawn, of one draw: an independent spelling of the rule."""
    probability = np.zeros(N)
    for label, share in enumerate(shares):
        own = np.flatnonzero(TARGETS[:, label])
        probability[own] += (1 - unlabeled_share) * share / own.size
    probability[UNLABELED] += unlabeled_share / UNLABELED.sum()
    return probability


STRATEGIES = {
    "balanced": np.ones(L),
    "square_root": COUNTS**0.5,
    0.3: COUNTS**0.3,
    (0.1, 0.2, 0.3, 0.4): np.array([0.1, 0.2, 0.3, 0.4]),
}


@pytest.mark.parametrize("unlabeled_share", [None, 0.0, 0.5], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_label_and_the_rows_without_one_have_their_share(strategy, unlabeled_share):
    sampler = sampler_of(strategy=strategy, unlabeled_share=unlabeled_share)
    share = UNLABELED.mean() if unlabeled_share is None else unlabeled_share
    expected = expected_rows(STRATEGIES[strategy] / STRATEGIES[strategy].sum(), share)
    assert sampler.steps_per_epoch == 12 and sampler.num_examples == N
    epochs = 50
    # Each of the queues, at most L + 1 for a row, is within a draw or two of what is due.
    assert np.abs(drawn(sampler, epochs) - epochs * N * expected).max() < 2 * (L + 1)
    np.testing.assert_allclose(sampler.effective_counts, N * expected @ TARGETS)


def test_no_row_of_a_label_comes_again_before_all_others_did():
    sampler = sampler_of(np.eye(3, dtype=int)[np.repeat([0, 1, 2], [20, 7, 3])], strategy="balanced", batch_size=10)
    times = np.bincount(np.concatenate([sampler.rows(step) for step in range(12)]))
    assert [np.ptp(times[rows]) for rows in (slice(0, 20), slice(20, 27), slice(27, 30))] == [0, 1, 1]
    np.testing.assert_allclose(sampler.effective_counts, 10)  # where no row has two labels it is the share


def test_rows_repeat_by_the_factor_of_their_rarest_label():
    for threshold in (0.001, 0.1, 0.3):
        factor = np.ones(N)
        for row in np.flatnonzero(~UNLABELED):
            factor[row] = max(1, *(np.sqrt(threshold / (COUNTS[c] / N)) for c in np.flatnonzero(TARGETS[row])))
        sampler = sampler_of(strategy="repeat_factor", repeat_threshold=threshold)
        share = factor / factor.sum()
        assert np.abs(drawn(sampler, 20) - 20 * N * share).max() < 2
        np.testing.assert_allclose(sampler.effective_counts, N * share @ TARGETS)
    assert factor.max() > 3
    plain = sampler_of(strategy="instance")
    np.testing.assert_allclose(plain.effective_counts, COUNTS)
    assert (drawn(plain, 3) == 3).all()


@pytest.mark.parametrize("replacement", [False, True])
def test_batches_follow_from_the_seed_and_resume_exactly(replacement, tmp_path):
    sampler = sampler_of(strategy="square_root", unlabeled_share=0.2, replacement=replacement)
    assert not np.array_equal(sampler.rows(3), sampler_of(seed=1).rows(3))
    state = json.loads(json.dumps(sampler.state(5)))
    resumed = kla.data.MultiLabelSampler.from_state(state, TARGETS)
    assert next(resumed.indices()).tolist() == sampler.rows(5).tolist()
    np.testing.assert_array_equal(resumed.effective_counts, sampler.effective_counts)
    parts = [sampler.shard(4, i).rows(7) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), sampler.rows(7))
    other = TARGETS.copy()
    other[0] = 1 - other[0]
    with pytest.raises(ValueError, match="targets that the state was saved with"):
        kla.data.MultiLabelSampler.from_state(state, other)
    with pytest.raises(ValueError, match=r"must come from `MultiLabelSampler\.state`"):
        kla.data.MultiLabelSampler.from_state(kla.data.LongTailSampler([0, 1], 2, seed=0).state(0), TARGETS)
    (tmp_path / "sampler.json").write_text(json.dumps(state))
    restored = kla.callbacks.SamplerBackup.restore(tmp_path / "sampler.json", TARGETS)
    assert restored.start_step == 5 and restored.fingerprint == sampler.fingerprint


def test_sparse_targets_and_tables_draw_the_same_rows():
    expected = sampler_of().rows(0).tolist()
    for targets in (TARGETS.astype(bool), TARGETS.astype("float32"), TARGETS.tolist(), sparse.coo_matrix(TARGETS)):
        assert sampler_of(targets).rows(0).tolist() == expected


def test_batches_of_data_hold_their_rows():
    sampler = sampler_of()
    x, y = sampler.py_dataset((np.arange(N), TARGETS))[0]
    np.testing.assert_array_equal(y, TARGETS[x])
    np.testing.assert_array_equal(x, sampler.rows(0))


def test_streams_of_data_hold_their_rows():
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    sampler = sampler_of()
    for step, (x, y) in enumerate(sampler.dataset((np.arange(N), TARGETS)).take(3)):
        np.testing.assert_array_equal(x, sampler.rows(step))
        np.testing.assert_array_equal(y, TARGETS[x])


def test_a_loss_takes_the_counts_of_what_is_drawn():
    sampler = sampler_of(unlabeled_share=0.5)
    loss = kla.losses.BinaryLogitAdjustedCrossentropy(sampler.effective_counts, sampler.num_examples)
    probability = expected_rows(np.full(L, 1 / L), 0.5) @ TARGETS
    assert loss.adjustment.shape == (L,) and (probability[2:] > 2 * COUNTS[2:] / N).all()
    np.testing.assert_allclose(loss.adjustment, np.log(probability / (1 - probability)))


WRONG = {
    "ids": ({"targets": np.array([0, 1])}, r"rows of 0 and 1, \[N, L\].*shape \(2,\).*`LongTailSampler`"),
    "above": ({"targets": np.array([[0, 2]])}, "`targets` must be 0 or 1. Received 2"),
    "unknown": ({"targets": np.array([[1, -1]])}, r"np\.where\(y == 1, 1, 0\)"),
    "sparse": ({"targets": sparse.csr_matrix([[0, 3]])}, "Received 3"),
    "zeros": ({"targets": np.zeros((3, 2))}, "a label that is on"),
    "seed": ({"seed": None}, "`seed` must be given"),
    "strategy": ({"strategy": "progressive"}, "`strategy` must be one of 'balanced', .*'repeat_factor'"),
    "shares": ({"strategy": [0.5, 0.5]}, "`strategy` must have one number for each class"),
    "share": ({"unlabeled_share": 1.0}, "`unlabeled_share` must be a number in"),
    "share of rows": ({"unlabeled_share": 0.1, "strategy": "instance"}, "goes with draws by label"),
    "no such rows": ({"targets": [[1], [1]], "unlabeled_share": 0.5}, "there are none: leave it out"),
    "threshold": ({"repeat_threshold": -1}, "`repeat_threshold` must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_from_is_refused(name):
    options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        sampler_of(**options)


def test_a_sampler_of_labels_is_no_prior_of_exclusive_classes():
    with pytest.raises(ValueError, match=r"sampler\.effective_counts, sampler\.num_examples"):
        kla.losses.LogitAdjustedCrossentropy(sampler_of())


def test_a_tail_has_the_counts_that_are_wanted_of_it():
    targets = (np.random.default_rng(1).random((2000, L)) < [0.5, 0.2, 0.1, 0.05]).astype(int)
    wanted = [200, 60, 20, 6]
    rows = kla.data.subsample_multi_label(targets, wanted, seed=0)
    assert targets[rows].sum(axis=0).tolist() == wanted
    assert (np.diff(rows) > 0).all()
    again = kla.data.subsample_multi_label(sparse.csr_matrix(targets), wanted, seed=0)
    assert rows.tolist() == again.tolist() != kla.data.subsample_multi_label(targets, wanted, seed=1).tolist()
    unlabeled, kept = ~targets.any(axis=1), ~targets[rows].any(axis=1)
    assert kept.sum() == round(unlabeled.sum() * (~kept).sum() / (~unlabeled).sum())
    few = kla.data.subsample_multi_label(targets, wanted, seed=0, num_unlabeled=7)
    assert (~targets[few].any(axis=1)).sum() == 7 and targets[few].sum(axis=0).tolist() == wanted
    without = kla.data.subsample_multi_label(targets, [200, 60, 20, 0], seed=0)
    assert targets[without].sum(axis=0).tolist() == [200, 60, 20, 0]


def test_a_tail_is_off_only_where_labels_come_together():
    # All rows of the rare label have the frequent one too; all of the third have the rare one.
    targets = np.array([[1, 1, 0]] * 8 + [[1, 0, 0]] * 5 + [[0, 1, 1]] * 9)
    rows = kla.data.subsample_multi_label(targets, [3, 5, 9], seed=0)
    together = targets[rows][:, :2].all(axis=1).sum()
    # No row of the third label is left without the second, whose count is complete.
    assert targets[rows].sum(axis=0).tolist() == [3, 5, 5 - together]
    rows = kla.data.subsample_multi_label(targets, [5, 4, 2], seed=0)
    assert targets[rows].sum(axis=0).tolist() == [5, 4, 2]
    rows = kla.data.subsample_multi_label(targets, [9, 10, 9], seed=0)
    assert targets[rows].sum(axis=0)[[0, 2]].tolist() == [9, 9]
    rows = kla.data.subsample_multi_label(np.array([[1, 1]] * 6 + [[1, 0]] * 3), [5, 4], seed=0)
    assert rows.size == 5
    with pytest.raises(ValueError, match=r"more rows than there are, 9\. Received \[10.*\] at class 2"):
        kla.data.subsample_multi_label(targets, [1, 1, 10], seed=0)
    with pytest.raises(ValueError, match="`num_unlabeled` must be"):
        kla.data.subsample_multi_label(targets, [1, 1, 1], seed=0, num_unlabeled=1)


def test_duplicate_entries_of_a_sparse_matrix_are_its_sums():
    rows, labels = np.nonzero(TARGETS)
    whole = sparse.csr_matrix(TARGETS)
    # Each entry is 3 and −2, and the labels of a row stand in the opposite order.
    values, columns = np.tile([3, -2], rows.size), np.repeat(labels[np.lexsort((-labels, rows))], 2)
    twice = sparse.csr_matrix((values, columns, 2 * np.searchsorted(rows, np.arange(N + 1))), TARGETS.shape)
    assert not twice.has_canonical_format and (twice.toarray() == TARGETS).all()
    first, second = (sampler_of(given) for given in (whole, twice))
    np.testing.assert_array_equal(first.positive_counts, second.positive_counts)
    np.testing.assert_array_equal(drawn(first, 2), drawn(second, 2))
    assert twice.nnz == 2 * whole.nnz  # the matrix of the user stays as it was
