"""`kla.data.load`: the embedded images and a user's own arrays."""

import hashlib
import importlib.resources
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_logit_adjust import data
from keras_logit_adjust.data import long_tail_counts
from keras_logit_adjust.data.profiles import PROFILES

PACKAGE = importlib.resources.files("keras_logit_adjust.data")


def digests(pair):
    """The content of every image, by which examples are told apart."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in pair[0]]


@pytest.fixture(scope="module")
def embedded():
    return data.load("fashion_mnist_lt", seed=0)


def test_the_embedded_data_is_the_documented_long_tail(embedded):
    subset = long_tail_counts(10, max_count=1000, imbalance_ratio=100)
    held_out = np.maximum(np.floor(subset * 0.1 + 0.5), 1)
    assert subset.sum() == 2478
    assert embedded.class_counts.tolist() == (subset - held_out).tolist()
    assert np.bincount(embedded.train[1], minlength=10).tolist() == embedded.class_counts.tolist()
    assert np.bincount(embedded.validation[1], minlength=10).tolist() == held_out.tolist()
    assert np.bincount(embedded.test[1]).tolist() == [1000] * 10
    assert embedded.num_classes == len(embedded.class_names) == 10
    assert embedded.imbalance_ratio == embedded.class_counts[0] / embedded.class_counts[-1]


def test_images_are_bytes_with_a_channel_and_labels_are_int64(embedded):
    for x, y in (embedded.train, embedded.validation, embedded.test):
        assert x.shape == (y.size, 28, 28, 1) and x.dtype == np.uint8
        assert y.dtype == np.int64
        assert x.max() == 255 and 60 < x.mean() < 90  # images, not zeros


def test_train_validation_and_test_share_no_image(embedded):
    train, validation, test = map(set, map(digests, (embedded.train, embedded.validation, embedded.test)))
    assert len(train) == len(embedded.train[1]) and len(validation) == len(embedded.validation[1])
    assert not train & validation and not train & test and not validation & test


def test_another_seed_draws_other_images_of_rare_classes_too(embedded):
    other = data.load("fashion_mnist_lt", seed=1)
    assert other.class_counts.tolist() == embedded.class_counts.tolist()
    assert other.split_hash != embedded.split_hash
    first, second = (set(digests((d.train[0][d.train[1] >= 8], None))) for d in (embedded, other))
    assert 0 < len(first & second) < len(first)


@pytest.mark.slow
def test_the_split_is_the_same_in_another_process(embedded):
    code = "from keras_logit_adjust import data; print(data.load('fashion_mnist_lt', seed=0).split_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True).stdout
    assert printed.strip() == embedded.split_hash
    assert len(embedded.split_hash) == 64


def test_the_validation_cut_leaves_the_subset_alone(embedded):
    whole = data.load("fashion_mnist_lt", seed=0, validation="none")
    assert whole.validation is None and whole.validation_kind == "none"
    assert whole.class_counts.tolist() == long_tail_counts(10, max_count=1000, imbalance_ratio=100).tolist()
    assert sorted(digests(whole.train)) == sorted(digests(embedded.train) + digests(embedded.validation))


def test_validation_from_outside_is_unused_images(embedded):
    outside = data.load("fashion_mnist_lt", seed=0, validation="outside")
    whole = data.load("fashion_mnist_lt", seed=0, validation="none")
    assert outside.class_counts.tolist() == whole.class_counts.tolist()
    assert not set(digests(outside.validation)) & set(digests(outside.train))
    # A tenth of the largest class, and of classes with fewer unused images all of them.
    unused = long_tail_counts(10, max_count=1000, imbalance_ratio=100)
    assert np.bincount(outside.validation[1]).tolist() == np.minimum(unused, 100).tolist()


def balanced(size=50, seed=0):
    """Rows that hold their own number, in three classes of one size."""
    y = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], size))
    return np.arange(y.size, dtype="float32")[:, None], y


def test_validation_set_aside_is_the_first_20_of_each_class_for_every_seed():
    x, y = balanced()
    first = [[row for row in range(y.size) if y[row] == c][:20] for c in range(3)]
    for seed in (0, 1):
        options = {"profile": "exponential", "imbalance_ratio": 10, "test": (x, y), "seed": seed}
        loaded = data.load((x, y), validation="aside", **options)
        np.testing.assert_array_equal(loaded.validation[0].ravel(), np.sort(np.ravel(first)))
        np.testing.assert_array_equal(loaded.validation[1], y[np.sort(np.ravel(first))])
        assert not set(loaded.train[0].ravel()) & set(np.ravel(first))
        assert loaded.class_counts.tolist() == long_tail_counts(3, max_count=30, imbalance_ratio=10).tolist()
        assert loaded.validation_kind == "aside"
    whole = data.load((x, y), test=(x, y), validation="aside", validation_fraction=0)
    assert whole.class_counts.tolist() == [30, 30, 30] and len(whole.validation[1]) == 60


def test_setting_aside_needs_more_than_20_of_every_class():
    pair = balanced(20)
    with pytest.raises(ValueError, match=r"validation='aside' sets 20 examples .* classes 0, 1, 2: choose validation="):
        data.load(pair, test=pair, validation="aside")


@pytest.mark.parametrize("profile", ["exponential", "step", "zipf"])
@pytest.mark.parametrize(("ratio", "max_count"), [(10, 40), (4, 33)])
def test_profiles_and_ratios_are_imposed(profile, ratio, max_count):
    loaded = data.load(
        "fashion_mnist_lt", imbalance_ratio=ratio, profile=profile, validation="none", max_count=max_count
    )
    assert loaded.profile == profile
    assert (
        loaded.class_counts.tolist()
        == long_tail_counts(10, max_count=max_count, imbalance_ratio=ratio, profile=profile).tolist()
    )


def test_the_largest_class_shrinks_until_the_source_can_serve_the_tail():
    loaded = data.load("fashion_mnist_lt", imbalance_ratio=10, profile="step", validation="none")
    available = np.bincount(data.load("fashion_mnist_lt", profile="none", validation="none").train[1])
    expected = [long_tail_counts(10, max_count=n, imbalance_ratio=10, profile="step") for n in range(10, 1001)]
    assert loaded.class_counts.tolist() == [c for c in expected if (c <= available).all()][-1].tolist()


@settings(max_examples=60)
@given(st.lists(st.integers(30, 400), min_size=2, max_size=12), st.integers(1, 20), st.sampled_from(PROFILES))
@example([60000, 5523, 4873, 151], 244, "zipf")
@example([60000, 4213, 5989, 3595, 5839, 147], 203, "zipf")
def test_a_profile_imposed_on_uneven_data_takes_what_it_can(available, ratio, profile):
    y = np.repeat(np.arange(len(available)), available)
    pair = (np.zeros((y.size, 1), "uint8"), y)
    loaded = data.load(pair, imbalance_ratio=ratio, profile=profile, validation="none", test=pair)
    largest = loaded.class_counts.max()
    assert (loaded.class_counts <= available).all()
    assert (
        loaded.class_counts.tolist()
        == long_tail_counts(len(available), max_count=largest, imbalance_ratio=ratio, profile=profile).tolist()
    )
    if largest < max(available):  # and not one more
        assert (
            long_tail_counts(len(available), max_count=largest + 1, imbalance_ratio=ratio, profile=profile) > available
        ).any()


def test_the_representation_shows_the_tail(embedded):
    text = repr(embedded)
    assert "LongTailDataset 'fashion_mnist_lt': 10 classes, exponential profile, imbalance ratio 100, seed 0" in text
    assert embedded.split_hash[:12] in text
    assert "2,228 train, 250 validation (stratified), 10,000 test" in text
    assert "counts 900, 539, 323, 193, 116, 69, 41, 24, 14, 9  █" in text


def test_the_package_file_is_small_and_keeps_its_license():
    assert len(PACKAGE.joinpath("fashion_mnist_lt.npz").read_bytes()) < 7_000_000
    notice = PACKAGE.joinpath("NOTICE").read_text()
    assert "MIT License" in notice and "Zalando SE" in notice and "Han Xiao" in notice


def test_classes_of_two_give_one_to_validation_and_classes_of_one_none():
    y = np.repeat([0, 1, 2, 3], [25, 3, 2, 1])
    pair = (np.arange(y.size, dtype="float32")[:, None], y)
    loaded = data.load(pair, test=pair)
    assert loaded.profile == "as it is"
    assert np.bincount(loaded.validation[1], minlength=4).tolist() == [3, 1, 1, 0]  # 2.5 is rounded up
    assert loaded.class_counts.tolist() == [22, 2, 1, 1]
    together = np.concatenate([loaded.train[0], loaded.validation[0]])
    assert sorted(together.ravel()) == list(range(y.size))


# --- a user's own data ---------------------------------------------------------------------------------------------


def rows(counts=(6, 4, 2), columns=3):
    y = np.repeat(np.arange(len(counts)), counts)
    return np.arange(y.size * columns, dtype="float32").reshape(-1, columns), y


@pytest.mark.parametrize("as_path", [str, pathlib.Path])
def test_npz_files_and_arrays_load_alike(tmp_path, as_path):
    for name in ("train", "test"):
        np.savez_compressed(tmp_path / f"{name}.npz", x=rows()[0], y=rows()[1])
    from_file = data.load(as_path(tmp_path / "train.npz"), test=as_path(tmp_path / "test.npz"))
    from_arrays = data.load(rows(), test=rows())
    assert from_file.split_hash == from_arrays.split_hash
    np.testing.assert_array_equal(from_file.train[0], from_arrays.train[0])
    np.testing.assert_array_equal(from_file.test[0], rows()[0])
    assert from_file.name == str(tmp_path / "train.npz") and from_arrays.name == "arrays"


@pytest.mark.parametrize("changed", ["train x", "train y", "test x", "test y"])
def test_the_split_hash_changes_with_any_content(changed):
    pairs = {"train": rows(), "test": rows()}
    part, array = changed.split()
    if array == "x":
        pairs[part][0][-1, -1] += 1
    else:
        pairs[part][1][-1] = 1
    assert data.load(pairs["train"], test=pairs["test"]).split_hash != data.load(rows(), test=rows()).split_hash


def test_gray_images_get_a_channel_and_label_columns_lose_theirs():
    x, y = np.zeros((6, 5, 4), "uint8"), np.array([[0], [0], [0], [1], [1], [1]])
    loaded = data.load((x, y), test=(x, y), validation="none")
    assert loaded.train[0].shape == loaded.test[0].shape == (6, 5, 4, 1)
    assert loaded.test[1].tolist() == [0, 0, 0, 1, 1, 1]


def with_test(x, y):
    return {"name": rows(), "test": (x, y)}


def with_train(x, y):
    return {"name": (x, y), "test": rows()}


X, Y = rows()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": rows()}, r"needs a test set: give `test`"),
        ({"name": "fashion_mnist_lt", "test": rows()}, r"`test` goes with data of your own.*'fashion_mnist_lt'"),
        ({"name": 5, "test": rows()}, r"`train` must be an \.npz file or a pair \(x, y\)\. Received: int"),
        ({"name": (X, Y, Y), "test": rows()}, r"`train` must be an \.npz file or a pair .*Received: tuple"),
        (with_test(X[:-1], Y), r"`test` must have one label for each example\. Received 11 examples, 12 labels"),
        (with_train(np.float32(3), Y), r"`train` must be numbers: images .*Received x of shape \(\)"),
        (with_train(X[:, 0], Y), r"`train` must be numbers.*Received x of shape \(12,\)"),
        (with_train(X.astype("U"), Y), r"`train` must be numbers.*dtype <U"),
        (with_train(X * np.nan, Y), r"`train` must be finite numbers\. Received NaN or infinity in 12 examples"),
        (with_test(X[:, :2], Y), r"must have one shape\. Received x of shape \(3,\) to train on and \(2,\) to test"),
        (with_test(X, Y + 1), r"test label must occur in training.* largest training label is 2,.* test label 3"),
        (with_train(X, np.eye(3)[Y]), r"must be a non-empty vector of integer class ids.*labels\.argmax\(axis=-1\)"),
        (with_train(X, Y - 1), r"must be class ids of at least 0\. Received -1"),
        (
            with_train(X, Y * 2),
            r"ids 0, 1, … of at least two classes.*3 different ids up to 4, without 1, 3: number the classes",
        ),
        (with_train(X, Y + 10**7), r"Received 3 different ids up to 10000002, without 0"),
        (with_train(X, Y + 10**12), r"must be class ids below 100,000,000. Received 1000000000002: renumber them"),
        (with_train(X, Y * 0), r"at least two classes.*1 different ids up to 0, without 1"),
        ({"name": rows(), "test": rows(), "validation": "random"}, r"`validation` must be one of 'stratified',"),
        ({"name": rows(), "test": rows(), "profile": "pareto"}, r"`profile` must be one of 'auto',.*'pareto'"),
        ({"name": rows(), "test": rows(), "validation": "outside"}, r"needs unused examples.*classes 0, 1, 2: give"),
        ({"name": rows(), "test": rows(), "validation_fraction": 1}, r"`validation_fraction` must be a number in \[0,"),
        ({"name": rows(), "test": rows(), "seed": None}, r"`seed` must be given: what is random"),
        ({"name": rows(), "test": rows(), "seed": -1}, r"`seed` must be an integer of at least 0.*seed=-1"),
        ({"name": rows(), "test": rows(), "profile": "step", "imbalance_ratio": 7}, r"must lie between 1 and max_coun"),
        ({"name": "fashion_mnist_lt", "imbalance_ratio": 0.5}, r"`imbalance_ratio` must lie .*=0\.5"),
        ({"name": "fashion_mnist_lt", "imbalance_ratio": "7"}, r"`imbalance_ratio` must lie .*='7'"),
        ({"name": "fashion_mnist_lt", "max_count": 3000}, r"Asked for .*: lower `max_count`"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file: .*none\.npz\. Make one with numpy\.savez_compressed"):
        data.load(tmp_path / "none.npz", test=rows())


def write_archive(path, content):
    if content == "text":
        path.write_text("not an archive")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "truncated":
        np.savez_compressed(path, x=X, y=Y)
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "flipped":
        np.savez(path, x=X, y=Y)
        written = bytearray(path.read_bytes())
        written[200] ^= 0xFF
        path.write_bytes(bytes(written))
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, X)
    else:
        np.savez(path, x=np.array([{}, {}], dtype=object), y=Y)


@pytest.mark.parametrize("content", ["text", "empty", "truncated", "flipped", "npy", "pickled"])
def test_a_file_that_is_no_archive_of_plain_arrays_is_named(tmp_path, content):
    path = tmp_path / "mine.npz"
    write_archive(path, content)
    with pytest.raises(ValueError, match=r"mine\.npz is not a NumPy \.npz file of plain arrays"):
        data.load(rows(), test=path)


def test_an_archive_with_other_keys_is_told_which_are_needed(tmp_path):
    np.savez(tmp_path / "mine.npz", images=X, labels=Y)
    with pytest.raises(ValueError, match=r"must hold two arrays named x and y: numpy\.savez_compressed"):
        data.load(rows(), test=tmp_path / "mine.npz")


@pytest.mark.parametrize("options", [{"imbalance_ratio": 10}, {"max_count": 2}])
def test_a_tail_that_is_not_imposed_has_no_ratio(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"`{name}` is for a tail that is imposed.*{name}={value}.*exponential"):
        data.load(rows(), test=rows(), validation="none", **options)
