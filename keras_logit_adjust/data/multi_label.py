"""Rows of several labels: batches drawn by label, and long-tailed subsets."""

import hashlib
import typing

import numpy as np

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.data import _strategies, profiles
from keras_logit_adjust.data._plan import Plan
from keras_logit_adjust.data.sampling import LongTailSampler

_OF_ROWS = ("instance", "repeat_factor")
_STRATEGIES = ("balanced", "square_root", "effective_number", *_OF_ROWS)


class _Queues(typing.NamedTuple):
    """Queues of rows. A draw takes a queue by its share, and then one of its rows. A row may be in several."""

    rows: np.ndarray  # one entry for each place in a queue
    owners: np.ndarray  # the queue of each entry
    shares: np.ndarray  # one for each queue; they need not sum to one

    def sizes(self):
        """The rows in each queue."""
        return np.bincount(self.owners, minlength=self.shares.size)

    def target(self):
        """The shares of the queues, with sum one."""
        return _strategies.Fixed(_strategies.class_shares(self.sizes(), self.shares / self.shares.sum()))

    def plan(self, *, seed, replacement):
        """The `Plan` of the draws."""
        options = {"seed": seed, "in_turn": False, "replacement": replacement, "rows": self.rows}
        return Plan(self.owners, self.sizes(), self.target(), **options)

    def row_shares(self, num_examples):
        """The share `[N]` of each row in the draws."""
        shares = self.target().shares / np.maximum(self.sizes(), 1)
        return np.bincount(self.rows, shares[self.owners], minlength=num_examples)


class MultiLabelSampler(LongTailSampler):
    """Batches of row numbers of a set with several labels a row, in which every label has a share of the draws.

    A draw takes a label l by its share `p_l ∝ n_l^q`, where `n_l` is the number of its rows, and then a row with this
    label. A row comes again only after all other rows of the label. Rows without labels have their own share.

    - "balanced": q = 0, every label equally often; "square_root": q = ½; any number q; "effective_number", or a vector
      `[L]` of shares, as in `LongTailSampler`;
    - "repeat_factor": rows are drawn and not labels, in proportion to `max(1, max_l √(t·N / n_l))` over their labels;
    - "instance": every row equally often.

    A drawn row has all its labels. So a frequent label that occurs with rare ones is on more often than its share.
    `effective_counts` has these numbers. Give them to the loss:
    `BinaryLogitAdjustedCrossentropy(sampler.effective_counts, sampler.num_examples)`. It corrects how often each label
    is on. Draws by label also change which labels occur together. The loss does not correct this.

    Batches, shards, resuming and datasets are as in `LongTailSampler`.

    Args:
        targets: `[N, L]` rows of 0 and 1, an array, a tensor, a table or a sparse matrix of SciPy's.
        batch_size: examples in a batch.
        strategy: see above.
        seed: int ≥ 0 that every draw follows from.
        unlabeled_share: the share of the draws that are rows without labels; by default their share of the set. Not for
            "instance" and "repeat_factor", which draw rows.
        replacement: as in `LongTailSampler`.
        repeat_threshold: t of "repeat_factor". A row is repeated if its rarest label is on in a smaller share of rows.
        beta: `0 ≤ β < 1` of "effective_number".

    Attributes:
        positive_counts: int64 `[L]` rows that have each label.
        num_examples: the number of rows `N`.
        effective_counts: float64 `[L]`, how often each label is on in N draws on average.
        steps_per_epoch: batches in an epoch, `⌈N / batch_size⌉`.

    Raises:
        ValueError: for targets that are not rows of 0 and 1, or have no 1; for a share of unlabeled rows if there are
            no such rows; and as `LongTailSampler`.

    Example:

    >>> targets = np.array([[1, 0]] * 6 + [[1, 1]] * 2)
    >>> sampler = MultiLabelSampler(targets, batch_size=4, seed=0)
    >>> rows = np.concatenate([sampler.rows(step) for step in range(4)])  # 16 draws, 8 by each label
    >>> targets[rows].sum(axis=0).tolist(), sampler.effective_counts.tolist()  # 8 + 8, and 8·2/8 + 8; in 8 draws half
    ([16, 10], [8.0, 5.0])

    Reference: Shen et al. (2016) (class-aware sampling); Gupta et al. (2019), "LVIS" (repeat factors); Wu et al.
    (2020), "Distribution-Balanced Loss", §3.1 (labels that come together).
    """

    _setting_names = frozenset(
        ("batch_size", "strategy", "seed", "unlabeled_share", "replacement", "repeat_threshold", "beta")
    )

    def __init__(
        self,
        targets,
        batch_size,
        *,
        strategy="balanced",
        seed=None,
        unlabeled_share=None,
        replacement=False,
        repeat_threshold=0.001,
        beta=0.9999,
    ):
        self._on, shape = as_pairs(targets)
        num_examples, num_labels = shape
        self.positive_counts = np.bincount(self._on[1], minlength=num_labels)
        threshold = _checks.check_number(repeat_threshold, "repeat_threshold", minimum=0, maximum=1)
        beta = _checks.check_fraction(beta, "beta")
        if isinstance(strategy, str):
            _checks.check_choice(strategy, "strategy", _STRATEGIES)
        if isinstance(strategy, str) and strategy in _OF_ROWS:
            _refuse_share_of_rows(unlabeled_share, strategy)
            used = threshold if strategy == "repeat_factor" else 0.0
            queues = _by_row(self._on, self.positive_counts, num_examples, used)
        else:
            shares = _strategies.class_shares(self.positive_counts, strategy, beta=beta)
            queues = _by_label(self._on, shares, num_examples, unlabeled_share)
        seed, replacement = _checks.check_seed(seed), _checks.check_bool(replacement, "replacement")
        settings = {
            "batch_size": _checks.check_integer(batch_size, "batch_size", minimum=1),
            "strategy": _strategies.as_setting(strategy),
            "seed": seed,
            "replacement": replacement,
            "beta": beta,
            "unlabeled_share": None if unlabeled_share is None else float(unlabeled_share),
            "repeat_threshold": threshold,
        }
        self._row_shares = queues.row_shares(num_examples)
        self._begin(
            queues.plan(seed=seed, replacement=replacement),
            settings,
            class_counts=self.positive_counts,
            num_examples=num_examples,
            labels_hash=_hash(self._on, shape),
        )

    @property
    def effective_counts(self):
        """The mean number of times that each label is on in N draws, float64 `[L]`: the positives for a loss."""
        rows, labels = self._on
        return self.num_examples * np.bincount(labels, self._row_shares[rows], minlength=self.positive_counts.size)

    @property
    def effective_prior(self):
        """Raises an error: an `effective_prior` is for classes that exclude each other.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A MultiLabelSampler has no prior of classes that exclude each other. Give a loss of independent labels "
            "its counts: BinaryLogitAdjustedCrossentropy(sampler.effective_counts, sampler.num_examples)."
        )

    @classmethod
    def _identity(cls, labels):
        pairs, shape = as_pairs(labels)
        return _hash(pairs, shape), "the targets", f"{shape[0]} rows"


def subsample_multi_label(targets, positive_counts, *, seed, num_unlabeled=None):
    """Draw rows without replacement in which each label is on as often as `positive_counts` says: a long tail.

    The function takes the labels one by one, from the rarest on. For each label it draws rows at random among those
    without an earlier label, until the label has its count. So the count of a label is exact, with two exceptions. It
    is larger if the rows of rarer labels have the label more often already. It is smaller if too few rows without rarer
    labels are left. Count the drawn rows with `count_labels(targets[rows])`.

    Args:
        targets: `[N, L]`, as in `MultiLabelSampler`.
        positive_counts: `[L]` rows wanted of each label (0 is allowed: then no row with it is drawn).
        seed: as in `subsample`.
        num_unlabeled: rows to keep of those without labels; by default in proportion to the others.

    Returns:
        Int64 array of row numbers, ascending.

    Raises:
        ValueError: for targets that are not rows of 0 and 1, or more rows wanted of a label than there are, naming it.

    Example:

    >>> targets = np.array([[1, 0]] * 50 + [[1, 1]] * 4 + [[0, 1]] * 4 + [[0, 0]] * 58)
    >>> rows = subsample_multi_label(targets, [20, 5], seed=0)
    >>> targets[rows].sum(axis=0).tolist()
    [20, 5]

    Reference: Wu et al. (2020), "Distribution-Balanced Loss" (long-tailed versions of VOC and COCO).
    """
    (rows, labels), (num_examples, num_labels) = as_pairs(targets)
    wanted = profiles.as_whole_counts(positive_counts, "positive_counts")
    _checks.check_length(wanted, num_labels, "positive_counts", "targets")
    available = np.bincount(labels, minlength=num_labels)
    short = wanted > available
    _checks.refuse_numbers(
        short,
        wanted,
        "positive_counts",
        "`positive_counts` must not ask for more rows than there are, "
        f"{', '.join(map(str, available[short][:8].tolist()))}.",
    )
    rng = np.random.default_rng(seed if isinstance(seed, np.random.SeedSequence) else _checks.check_seed(seed))
    keys = rng.random(num_examples)
    by_label = np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(available)[:-1])
    chosen, closed = np.zeros(num_examples, bool), np.zeros(num_examples, bool)
    for label in np.argsort(wanted, kind="stable"):
        own = by_label[label]
        free = own[~(chosen[own] | closed[own])]
        missing = max(0, wanted[label] - int(chosen[own].sum()))
        chosen[free[np.argsort(keys[free])][:missing]] = True
        closed[own] = True  # the count is complete, so no row that is drawn later may have this label
    unlabeled = np.setdiff1d(np.arange(num_examples), rows)
    if num_unlabeled is None:
        num_unlabeled = round(unlabeled.size * chosen.sum() / max(1, num_examples - unlabeled.size))
    num_unlabeled = _checks.check_integer(num_unlabeled, "num_unlabeled", 0, unlabeled.size)
    chosen[unlabeled[np.argsort(keys[unlabeled])][:num_unlabeled]] = True
    return np.flatnonzero(chosen)


def as_pairs(targets):
    """`(rows, labels)` of every target that is on, in order of rows, and the shape `[N, L]`."""
    is_sparse = hasattr(targets, "tocsr")
    matrix = targets.tocsr() if is_sparse else _labels.as_targets(targets)
    if is_sparse and not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()  # the numbers of the matrix are these sums; it sorts the labels of a row, too
    values = _labels.as_targets(matrix.data) if is_sparse else matrix
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise _checks.ArgumentError(
            "targets",
            f"`targets` must be rows of 0 and 1, [N, L], one column for each label. Received shape {matrix.shape}. "
            "For class ids use `LongTailSampler` and `subsample`.",
        )
    if (bad := (values != 0) & (values != 1)).any():
        raise _checks.ArgumentError(
            "targets",
            f"`targets` must be 0 or 1. Received {values[bad][0]} ({int(bad.sum())} such). Of unknown targets draw by "
            "those that are known to be on: np.where(y == 1, 1, 0).",
        )
    rows, labels = matrix.nonzero()
    if not rows.size:
        raise _checks.ArgumentError("targets", "`targets` must have a label that is on. Received zeros alone.")
    return (rows.astype("int64"), labels.astype("int64")), matrix.shape


def _by_row(pairs, positive_counts, num_examples, threshold):
    """A queue for each row. Its share is the repeat factor `max(1, max_l √(t·N / n_l))` of the row."""
    (rows, labels), factors = pairs, np.ones(num_examples)
    np.maximum.at(factors, rows, np.sqrt(threshold * num_examples / positive_counts[labels]))
    return _Queues(np.arange(num_examples), np.arange(num_examples), factors)


def _by_label(pairs, shares, num_examples, unlabeled_share):
    """A queue for each label, and a last one for rows without labels if there are such rows."""
    rows, labels = pairs
    unlabeled = np.setdiff1d(np.arange(num_examples), rows)
    share = _check_share(unlabeled_share, unlabeled.size, num_examples)
    owners = np.append(labels, np.full(unlabeled.size, shares.size))
    shares = np.append((1 - share) * shares, share) if unlabeled.size else shares
    return _Queues(np.append(rows, unlabeled), owners, shares)


def _check_share(share, number, num_examples):
    if share is None:
        return number / num_examples
    share = _checks.check_fraction(share, "unlabeled_share")
    if share and not number:
        raise _checks.ArgumentError(
            "unlabeled_share",
            f"`unlabeled_share` is for rows without labels. Received {share:g}, and there are none: leave it out.",
        )
    return share


def _refuse_share_of_rows(share, strategy):
    if share is not None:
        raise _checks.ArgumentError(
            "unlabeled_share",
            f"`unlabeled_share` goes with draws by label. Received: unlabeled_share={share!r} with "
            f"strategy={strategy!r}, which draws rows: leave it out.",
        )


def _hash(pairs, shape):
    digest = hashlib.sha256(np.array(shape, "<i8").tobytes())
    for part in pairs:
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()
