"""`banking77_lt`: features inside the package, as the script in `tools` makes them."""

import importlib.resources
import importlib.util
import pathlib

import numpy as np
import pytest

from keras_logit_adjust import compare, data
from keras_logit_adjust.data import long_tail_counts

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ROOT.parent / "shared" / "data" / "banking77" / "minilm_features.npz"
PACKAGE = importlib.resources.files("keras_logit_adjust.data")
COUNTS = long_tail_counts(77, max_count=100, imbalance_ratio=50)


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "build_banking77_lt.py"
    if not path.exists():
        pytest.skip("the script is beside the package, not in it")
    spec = importlib.util.spec_from_file_location("build_banking77_lt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored():
    with PACKAGE.joinpath("banking77_lt.npz").open("rb") as file:
        return dict(np.load(file))


def test_the_features_are_the_documented_long_tail():
    loaded = data.load("banking77_lt", validation="none")
    assert COUNTS.sum() == 1917 and (COUNTS[0], COUNTS[-1]) == (100, 2)
    assert loaded.class_counts.tolist() == COUNTS.tolist() == np.bincount(loaded.train[1]).tolist()
    assert loaded.imbalance_ratio == 50
    assert np.bincount(loaded.test[1]).tolist() == [40] * 77
    assert loaded.train[0].shape == (1917, 384) and loaded.train[0].dtype == loaded.test[0].dtype == np.float32
    assert len(loaded.class_names) == len(set(loaded.class_names)) == 77
    assert loaded.class_names[0] == "Refund_not_showing_up"


def test_the_split_is_the_same_on_every_machine():
    digest = "23a879fc7d5549d5"
    assert data.load("banking77_lt", seed=0).split_hash[: len(digest)] == digest


def test_each_validation_set_leaves_training_rows_alone(stored):
    cut, outside = (data.load("banking77_lt", validation=kind) for kind in ("stratified", "outside"))
    held_out = np.maximum(np.floor(COUNTS * 0.1 + 0.5), 1)
    assert cut.class_counts.tolist() == (COUNTS - held_out).tolist()
    assert np.bincount(cut.validation[1]).tolist() == held_out.tolist()
    assert outside.class_counts.tolist() == COUNTS.tolist()
    spare = np.bincount(stored["y_train"]) - COUNTS
    assert np.bincount(outside.validation[1]).tolist() == np.minimum(spare, 10).tolist()
    assert not {row.tobytes() for row in outside.validation[0]} & {row.tobytes() for row in outside.train[0]}


def test_another_seed_draws_other_rows_of_rare_classes():
    rare = [
        {row.tobytes() for row in loaded.train[0][loaded.train[1] >= 60]}
        for loaded in (data.load("banking77_lt", seed=seed, validation="none") for seed in (0, 1))
    ]
    assert len(rare[0]) == len(rare[1]) == COUNTS[60:].sum()
    assert len(rare[0] & rare[1]) < 0.1 * len(rare[0])


def test_quantized_rows_keep_their_length_of_one(stored):
    """A length is off by no more than half a scale in every column can make it."""
    assert all(stored[name].dtype == np.int8 for name in ("x_train", "x_test"))
    farthest = np.sqrt((stored["scale"].astype("float64") ** 2).sum()) / 2
    assert farthest < 0.015
    for name in ("x_train", "x_test"):
        length = np.linalg.norm(stored[name] * stored["scale"].astype("float64"), axis=1)
        assert np.abs(length - 1).max() < farthest
    most = np.maximum(*(np.abs(stored[name].astype("int64")).max(axis=0) for name in ("x_train", "x_test")))
    assert set(most.tolist()) == {0, 127}  # two columns are constant


def test_the_file_is_small_and_keeps_license_citation_and_changes():
    assert len(PACKAGE.joinpath("banking77_lt.npz").read_bytes()) < 4_000_000
    notice = " ".join(PACKAGE.joinpath("NOTICE").read_text(encoding="utf-8").split())
    for words in (
        "Casanueva",
        "Efficient Intent Detection with Dual Sentence Encoders",
        "https://creativecommons.org/licenses/by/4.0/",
        "Changes to the original",
        "questions themselves are not included",
    ):
        assert words in notice


def test_the_script_rounds_to_half_a_scale_and_cuts_the_pool(tool):
    rng = np.random.default_rng(0)
    source = {
        "x_train": np.concatenate([rng.normal(size=(300, 3)), np.zeros((300, 1))], axis=1).astype("float16"),
        "y_train": np.repeat([1, 0], [180, 120]),
        "x_test": 3 * rng.normal(size=(4, 4)) * [1, 1, 1, 0],
        "y_test": np.array([0, 1, 0, 1]),
        "names": np.array(["a", "b"]),
    }
    built = tool.build(source)
    assert np.bincount(built["y_train"]).tolist() == [110, 110]
    for name, rows in (("x_train", [*range(110), *range(180, 290)]), ("x_test", slice(None))):
        error = np.abs(built[name] * built["scale"].astype("float64") - source[name].astype("float64")[rows])
        assert (error <= built["scale"] * 0.5001).all()
    assert built["scale"][3] == 0 and not built["x_train"][:, 3].any()


@pytest.mark.skipif(not SOURCE.exists(), reason="needs the source's features beside the checkout")
def test_the_file_is_what_the_script_makes_of_the_source(tool, stored):
    with np.load(SOURCE) as source:
        built = tool.build(source)
    assert built.keys() == stored.keys()
    for name in built:
        np.testing.assert_array_equal(built[name], stored[name])


def test_compare_takes_the_features_by_name():
    config = compare.Config(dataset="banking77_lt", epochs=1, validation="none")
    results = compare.compare(config, methods=["la_posthoc"], seeds=1)
    assert results["config"]["imbalance_ratio"] == 50
    assert results["class_counts"] == COUNTS.tolist()
    with pytest.raises(ValueError, match="'banking77_lt' is inside the package"):
        compare.Config(dataset="banking77_lt", data_dir=".")
