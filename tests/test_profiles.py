"""Long-tail profiles and the draw from them, against the formulas and against counting."""

import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_logit_adjust as kla
from keras_logit_adjust.data import long_tail_counts, read_class_counts, subsample, zipf_counts
from keras_logit_adjust.data.profiles import PROFILES

quick = settings(max_examples=60)


@pytest.mark.parametrize(("num_classes", "max_count", "total"), [(10, 5000, 12406), (100, 500, 10847)])
def test_the_exponential_profile_has_the_published_cifar_sizes(num_classes, max_count, total):
    assert long_tail_counts(num_classes, max_count=max_count, imbalance_ratio=100).sum() == total


@pytest.mark.parametrize("num_classes", [2, 3, 10, 37])
def test_the_exponential_profile_is_the_formula_truncated(num_classes):
    expected = [math.floor(5003 * 50 ** (-c / (num_classes - 1)) + 1e-9) for c in range(num_classes)]
    assert long_tail_counts(num_classes, max_count=5003, imbalance_ratio=50).tolist() == expected


@pytest.mark.parametrize(("num_classes", "expected"), [(4, [70, 70, 7, 7]), (5, [70, 70, 7, 7, 7]), (2, [70, 7])])
def test_the_step_profile_keeps_the_first_half(num_classes, expected):
    assert long_tail_counts(num_classes, max_count=70, imbalance_ratio=10, profile="step").tolist() == expected


def test_the_zipf_profile_is_a_power_law_that_ends_at_the_ratio():
    counts = long_tail_counts(16, max_count=1600, imbalance_ratio=16, profile="zipf")  # exponent log 16 / log 16 = 1
    assert counts.tolist() == [1600 // rank for rank in range(1, 17)]
    counts = long_tail_counts(16, max_count=6400, imbalance_ratio=4, profile="zipf")  # exponent log 4 / log 16 = 1/2
    assert counts.tolist() == [math.floor(6400 / math.sqrt(rank) + 1e-9) for rank in range(1, 17)]


@quick
@given(st.integers(2, 300), st.integers(1, 10**6), st.integers(1, 1000), st.sampled_from(PROFILES))
def test_ends_are_exact_and_counts_never_rise(num_classes, smallest, ratio, profile):
    counts = long_tail_counts(num_classes, max_count=smallest * ratio, imbalance_ratio=ratio, profile=profile)
    assert counts.dtype == np.int64 and counts.shape == (num_classes,)
    assert counts[0] == smallest * ratio and counts[-1] == smallest
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_ratio_of_one_is_balanced(profile):
    assert long_tail_counts(5, max_count=7, imbalance_ratio=1, profile=profile).tolist() == [7] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10, 2), r"`num_classes` must be an integer of at least 2\. Received: num_classes=1"),
        ((2.0, 10, 2), r"`num_classes` must be an integer .* num_classes=2\.0"),
        ((True, 10, 2), r"`num_classes` must be an integer .* num_classes=True"),
        ((5, 0, 2), r"`max_count` must be an integer of at least 1\. Received: max_count=0"),
        ((5, 10.5, 2), r"`max_count` must be an integer .* max_count=10\.5"),
        ((5, 10, 0.5), r"`imbalance_ratio` must lie between 1 and max_count=10.*Received: imbalance_ratio=0\.5"),
        ((5, 10, 11), r"`imbalance_ratio` must lie .* every class keeps an example.*imbalance_ratio=11"),
        ((5, 10, float("nan")), r"`imbalance_ratio` must lie .*imbalance_ratio=nan"),
        ((5, 10, float("inf")), r"`imbalance_ratio` must lie .*imbalance_ratio=inf"),
        ((5, 10, "2"), r"`imbalance_ratio` must lie .*imbalance_ratio='2'"),
        ((5, 10, 2, "pareto"), r"`profile` must be one of 'exponential', 'step', 'zipf'\. Received: profile='pareto'"),
    ],
)
def test_a_profile_refuses_what_cannot_be_one(arguments, message):
    names = ("max_count", "imbalance_ratio", "profile")
    with pytest.raises(ValueError, match=message):
        long_tail_counts(arguments[0], **dict(zip(names, arguments[1:], strict=False)))


@quick
@given(st.integers(2, 300), st.integers(0, 10**9), st.floats(0, 4))
def test_zipf_counts_follow_the_law_and_sum_to_the_total(num_classes, extra, exponent):
    counts = zipf_counts(num_classes, num_examples=num_classes + extra, exponent=exponent)
    assert counts.dtype == np.int64 and counts.shape == (num_classes,)
    assert counts.sum() == num_classes + extra
    assert counts.min() >= 1 and (np.diff(counts) <= 0).all()
    law = [rank**-exponent for rank in range(1, num_classes + 1)]
    exact = 1 + extra * np.array(law) / math.fsum(law)
    assert (np.abs(counts - exact) < 1 + 1e-6).all()


def test_zipf_counts_that_need_no_rounding_are_the_law():
    assert zipf_counts(4, num_examples=4 + 25, exponent=1).tolist() == [1 + 12, 1 + 6, 1 + 4, 1 + 3]
    assert zipf_counts(3, num_examples=3 + 49, exponent=2).tolist() == [1 + 36, 1 + 9, 1 + 4]


def test_an_exponent_of_zero_is_uniform_with_the_remainder_to_the_first():
    assert zipf_counts(5, num_examples=35, exponent=0).tolist() == [7] * 5
    assert zipf_counts(5, num_examples=37, exponent=0).tolist() == [8, 8, 7, 7, 7]


def test_as_many_examples_as_classes_are_one_each():
    assert zipf_counts(6, num_examples=6, exponent=2).tolist() == [1] * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10), r"`num_classes` must be an integer of at least 2\. Received: num_classes=1"),
        ((5, 4), r"`num_examples` must be an integer of at least 5\. Received: num_examples=4"),
        ((5, 50.0), r"`num_examples` must be an integer .* num_examples=50\.0"),
        ((5, 50, -0.5), r"`exponent` must be a number of at least 0\. Received: exponent=-0\.5"),
        ((5, 50, float("nan")), "`exponent` must be a number of at least 0.*exponent=nan"),
        ((5, 50, float("inf")), "`exponent` must be a number of at least 0.*exponent=inf"),
        ((5, 50, "1"), "`exponent` must be a number of at least 0.*exponent='1'"),
    ],
)
def test_a_zipf_law_refuses_what_cannot_be_one(arguments, message):
    with pytest.raises(ValueError, match=message):
        zipf_counts(arguments[0], **dict(zip(("num_examples", "exponent"), arguments[1:], strict=False)))


GOOD_FILES = {
    "in order": "class_id,count\n0,90\n1,9\n2,0\n",
    "in any order": "class_id,count\n2,0\n0,90\n1,9\n",
    "more columns": "name,count,class_id\nan owl,9,1\n'a, cat',90,0\nfrog,0,2\n".replace("'", '"'),
    "with a byte order mark": "\ufeffclass_id,count\n0,90\n1,9\n2,0\n",
    "from Windows": "class_id,count\r\n0,90\r\n1,9\r\n2,0\r\n",
    "with spaces": "class_id, count \n0, 90\n1, 9\n 2,0\n",
    "with decimals of zero": "class_id,count\n0,90.0\n1.,9.00\n2,0.0\n",
    "with semicolons": "class_id;count\n0;90\n1;9\n2;0\n",
    "with tabs": "count\tclass_id\n0\t2\n90\t0\n9\t1\n",
    "with semicolons and commas in names": "name;count;class_id\nan owl, grey;9;1\ncat;90;0\nfrog;0;2\n",
    "with capitals": "Class_ID,COUNT\n0,90\n1,9\n2,0\n",
    "without names": "0,90\n1,9\n2,0\n",
    "without names, counts first": "90;0\n9;1\n0;2\n",
    "with a sign": "class_id,count\n0,+90\n1,9\n2,-0\n",
    "without an end of line": "class_id,count\n0,90\n1,9\n\n2,0",
}


@pytest.mark.parametrize("text", GOOD_FILES.values(), ids=GOOD_FILES.keys())
def test_class_counts_are_read_in_order_of_class(tmp_path, text):
    path = tmp_path / "counts.csv"
    path.write_bytes(text.encode())
    counts = read_class_counts(path)
    assert counts.dtype == np.int64 and counts.tolist() == [90, 9, 0]
    assert read_class_counts(str(path)).tolist() == [90, 9, 0]


def test_a_file_that_names_its_classes_gives_counts_by_name(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("Class;Count;note\ndog;90;\nan owl, grey;0;none\ncat;9.0;\n")
    counts = read_class_counts(path)
    assert counts == {"dog": 90, "an owl, grey": 0, "cat": 9} and {type(n) for n in counts.values()} == {int}
    smoothed = kla.priors.as_prior(counts, class_names=["cat", "dog", "an owl, grey"], smoothing=1)
    assert smoothed.counts.tolist() == [10, 91, 1]
    path.write_text("class,count\n1,9\n0,90\n")  # names that are ids
    assert read_class_counts(path).tolist() == [90, 9]


@pytest.mark.parametrize("name", [None, "species"])
def test_a_file_that_pandas_writes_of_counts_is_read(tmp_path, name):
    pandas = pytest.importorskip("pandas", reason="writes the file")
    for labels, expected in (
        (["cat", "dog", "cat"], {"cat": 2, "dog": 1}),
        ([1, 0, 1, 2, 1, 2], [1, 3, 2]),  # in order of frequency in the file, of ids here
        ([1, 3, 3], {"3": 2, "1": 1}),  # a gap: 0 and 2 may be classes without examples, so numbers are names
    ):
        pandas.Series(labels, name=name).value_counts().to_csv(tmp_path / "counts.csv")
        found = read_class_counts(tmp_path / "counts.csv")
        assert (found if isinstance(found, dict) else found.tolist()) == expected


COLUMNS = "must have the columns `class_id` and `count`, whole numbers both"
EVERY_CLASS = "must name every class id from 0 on once"
MISSING = "add the rows of those classes, or number the classes from 0 on"
BAD_FILES = {
    "other columns": ("label,count,split\n0,90,a\n", f"{COLUMNS}.*counts.csv.*class_id"),
    "delimiters mixed": ("class_id;count,name\n0;90,a\n", f"{COLUMNS}.*'class_id;count,name', has no column count"),
    "no names, and ids in both": (
        "0,1\n1,0\n",
        f"{COLUMNS}.*no line of names, and both columns could be the ids 0 … 1",
    ),
    "no names, and no ids": ("1,90\n2,9\n", f"{COLUMNS}.*no line of names, and no column could be the ids 0 … 1"),
    "no names, and three columns": ("0,90,1\n1,9,0\n", f"{COLUMNS}.*its first line, '0,90,1', has no column class_id"),
    "an underscore": ("class_id,count\n0,9_0\n1,9\n", f"{COLUMNS}.*'9_0' is no whole number"),
    "digits of other scripts": ("class_id,count\n0,٣\n1,9\n", f"{COLUMNS}.*'٣' is no whole number"),
    "an exponent": ("class_id,count\n0,1e2\n1,9\n", f"{COLUMNS}.*'1e2' is no whole number"),
    "a count twice": ("class_id,count,count\n0,90,80\n1,9,8\n", f"{COLUMNS}.*two columns named count: leave one out"),
    "an id twice named": ("class_id,Class_ID,count\n0,1,90\n1,0,9\n", f"{COLUMNS}.*two columns named class_id"),
    "thousands set off": ("class_id;count\n0;1.000\n1;9\n", f"{COLUMNS}.*'1.000' may be 1 or 1000"),
    "a decimal comma": ("class_id;count\n0;90,0\n1;9\n", f"{COLUMNS}.*'90,0' is no whole number"),
    "a fraction": ("class_id,count\n0,0.9\n1,0.1\n", rf"{COLUMNS}.*0\.9"),
    "a name": ("class_id,count\ncat,90\n", f"{COLUMNS}.*cat"),
    "a short row": ("class_id,count\n0,90\n1\n", COLUMNS),
    "a long row": ("class_id,count\n0,4,980\n1,9\n", "counts.csv"),  # thousands set off, not a count of 4
    "a number beyond 64 bits": (f"class_id,count\n0,{10**20}\n", COLUMNS),
    "an id twice": (
        "class_id,count\n0,90\n0,9\n",
        f"{EVERY_CLASS}.*counts.csv: 2 rows, largest id 0, more than once: 0: mend",
    ),
    "ids left out": ("class_id,count\n0,90\n2,9\n5,1\n", f"3 rows, largest id 5, missing: 1, 3, 4: {MISSING}"),
    "many ids left out": ("class_id,count\n0,9\n99,1\n", "missing: 1, 2, 3, 4, 5, 6, 7, 8, …: add"),
    "ids from 1": ("class_id,count\n1,90\n2,9\n", f"2 rows, largest id 2, missing: 0: {MISSING}"),
    "a negative id": ("class_id,count\n-1,90\n0,9\n", f"{EVERY_CLASS}.*largest id 0, below 0: -1: mend those rows"),
    "negative ids": ("class_id,count\n-2,90\n-1,9\n", f"{EVERY_CLASS}.*below 0: -2, -1: mend those rows"),
    "a negative count by name": ("class,count\ncat,-9\ndog,90\n", r"may be negative.*\[-9\] at class 'cat'"),
    "a field that is no number": (
        "label,count\ncat,many\n",
        "columns `label` and `count` must have .*'many' is no whole",
    ),
    "a name twice": ("class,count\ncat,9\ncat,90\n", "every name once. Received .*counts.csv, line 3: 'cat' again"),
    "a negative count": ("class_id,count\n1,-9\n0,90\n", r"may be negative. Received .*counts.csv: \[-9\] at class 1"),
    "no rows": ("class_id,count\n", f"{EVERY_CLASS}.*0 rows, none with an id"),
    "half an example": ("class_id,count\n0,90.5\n1,9\n", rf"{COLUMNS}.*90\.5"),
    "latin-1": (
        "class_id,count,name\n0,90,\xe9\n".encode("latin-1"),
        "must be UTF-8 text. Received .*counts.csv: 'utf-8'",
    ),
    "UTF-16": (
        "class_id,count\n0,90\n".encode("utf-16"),
        "must be UTF-8 text. Received .*counts.csv: .*Save it as UTF-8",
    ),
    "nothing": ("", f"{EVERY_CLASS}.*0 rows"),
}


@pytest.mark.parametrize("case", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_none_of_class_counts_is_refused(tmp_path, case):
    text, message = case
    path = tmp_path / "counts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_class_counts(path)


def test_the_counts_of_places_lt_are_the_published_ones():
    benchmarks = pathlib.Path(__file__).parents[1] / "benchmarks"
    counts = read_class_counts(benchmarks / "class_counts" / "places_lt.csv")
    assert (counts.size, counts.sum(), counts.max(), counts.min()) == (365, 62_500, 4_980, 5)


@st.composite
def pools(draw):
    """Labels in any order, and per-class counts that they can serve."""
    available = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any))
    labels = draw(st.permutations([c for c, n in enumerate(available) for _ in range(n)]))
    return labels, [draw(st.integers(0, n)) for n in available]


@quick
@given(pools(), st.integers(0, 2**32))
def test_a_subsample_has_exactly_the_counts_asked_for(pool, seed):
    labels, wanted = pool
    chosen = subsample(labels, wanted, seed=seed)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()  # ascending, none twice
    assert np.bincount(np.asarray(labels)[chosen], minlength=len(wanted)).tolist() == wanted


def test_the_same_seed_draws_the_same_and_another_seed_another_subset(rng):
    labels = rng.integers(0, 4, 400)
    first = subsample(labels, [20, 10, 5, 2], seed=3)
    np.testing.assert_array_equal(first, subsample(labels, [20, 10, 5, 2], seed=3))
    np.testing.assert_array_equal(first, subsample(labels[:, None], [20, 10, 5, 2], seed=np.random.SeedSequence(3)))
    assert first.tolist() != subsample(labels, [20, 10, 5, 2], seed=4).tolist()


def test_a_smaller_draw_is_part_of_a_larger_one_of_the_same_seed(rng):
    labels = rng.integers(0, 3, 300)
    assert set(subsample(labels, [5, 5, 1], seed=1)) < set(subsample(labels, [40, 5, 3], seed=1))


def test_every_example_of_a_class_is_drawn_equally_often():
    labels, draws = np.array([0, 1] * 20), 2000
    times = np.zeros(labels.size)
    for seed in range(draws):
        times[subsample(labels, [5, 1], seed=seed)] += 1
    for label, share in ((0, 5 / 20), (1, 1 / 20)):
        observed, expected = times[labels == label], draws * share
        # Hypergeometric draws: the statistic has the mean of a χ² with 19 degrees; 50 is its 99.99 % point.
        statistic = ((observed - expected) ** 2 / (expected * (1 - share))).sum() * 19 / 20
        assert observed.sum() == draws * share * 20
        assert 4 < statistic < 50


@pytest.mark.parametrize(
    ("labels", "class_counts", "message"),
    [
        ([], [1, 1], r"`labels` must be a non-empty vector of integer class ids\. Received shape \(0,\)"),
        ([0.0, 1.0], [1, 1], r"`labels` must be .* integer class ids\. Received shape \(2,\), dtype float64"),
        (np.eye(3, dtype=int), [1] * 3, r"`labels` must be a .* vector.*shape \(3, 3\).*labels\.argmax\(axis=-1\)"),
        (["cat", "dog"], [1, 1], r"`labels` must be .* integer class ids"),
        ([0, -1], [1, 1], r"`labels` must be class ids of at least 0\. Received -1"),
        ([0, 1, 2], [1, 1], r"`labels` must be below the 2 classes of class_counts\. Received 2"),
        ([0, 0, 1], [2, 2], r"must not ask for more .*Asked for \[2\] of \[1\] at class 1: lower `max_count`"),
        ([0, 0, 1], [-1, 1], r"whole numbers of examples of at least 0\. Received \[-1\.0, 1\.0\]"),
        ([0, 0, 1], [0.7, 0.3], r"must be whole numbers.*Received \[0\.7, 0\.3\]: multiply probabilities"),
        ([0, 0, 1], [[1, 1]], r"`class_counts` must be a non-empty vector.*shape \(1, 2\)"),
        ([0, 0, 1], [1, float("nan")], r"`class_counts` must be finite\. Received \[nan\] at class 1"),
    ],
)
def test_a_subsample_refuses_what_it_cannot_draw(labels, class_counts, message):
    with pytest.raises(ValueError, match=message):
        subsample(labels, class_counts, seed=0)
