"""Labels that are names: every message leads to one list of names, whose ids are the same in every set."""

import re

import numpy as np
import pytest

import keras_logit_adjust as kla

Y = np.array(["cat", "ant", "cat", "bee"])
LOGITS = np.eye(3)[[2, 0, 2, 1]]
X = np.arange(8.0).reshape(4, 2)
TAKERS = {
    "count_classes": kla.priors.count_classes,
    "loss": lambda y: kla.losses.LogitAdjustedCrossentropy([5, 3, 2])(y, LOGITS),
    "metric": lambda y: kla.metrics.BalancedAccuracy(3)(y, LOGITS),
    "tune_tau": lambda y: kla.tune_tau(LOGITS, y, class_counts=[5, 3, 2]),
    "TauPath": lambda y: kla.TauPath(y_true=y, logits=LOGITS, class_counts=[5, 3, 2]),
    "TauPath, ignored": lambda y: kla.TauPath.from_batches([(y, LOGITS)], [5, 3, 2], ignore_class=9),
    "features": lambda y: kla.TauPath.from_features([(y, X)], [5, 3, 2], kernel=np.ones((2, 3))),
    "tune_offsets": lambda y: kla.tune_offsets(y_true=y, logits=LOGITS, class_counts=[5, 3, 2]),
    "calibrate": lambda y: kla.calibrate(y_true=y, logits=LOGITS),
    "source prior": lambda y: kla.held_out.estimate_source_prior(y_true=y, logits=LOGITS),
    "files": kla.priors.count_classes,
}


@pytest.mark.parametrize("taker", TAKERS)
def test_a_message_about_names_leads_to_ids_that_agree_between_sets(taker):
    with pytest.raises(ValueError, match="by one list of names for all data sets") as refused:
        TAKERS[taker](list(Y) if taker == "files" else Y)
    (remedy,) = re.findall(r"data sets: (ids = .*?y\])", str(refused.value))
    assert "np.unique" not in str(refused.value)
    found = {}
    for which, y in {"train": Y, "validation": np.array(["cat", "bee"])}.items():
        names = {"np": np, "class_names": ["ant", "bee", "cat"], "y": y}
        exec(f"{remedy})", names)
        found[which] = names["y"].tolist()
    assert found == {"train": [2, 0, 2, 1], "validation": [2, 1]}


def test_names_are_no_rows_of_independent_labels():
    for refuse in (
        lambda y: kla.calibrate(y_true=y, logits=LOGITS, independent=True),
        lambda y: kla.tune_tau(LOGITS, y, class_counts=[5, 3, 2], num_examples=9),
    ):
        with pytest.raises(ValueError, match=r"`y_true` must be rows of 0 and 1, one column for each label\. Received"):
            refuse(np.array([["cat"] * 3] * 4))
