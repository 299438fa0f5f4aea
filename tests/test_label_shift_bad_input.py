"""What an estimate of the class mix refuses, at once and with a reason."""

import numpy as np
import pytest
from reference import softmax

from keras_logit_adjust.held_out import estimate_target_prior
from keras_logit_adjust.priors import as_prior

GOOD = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, -1.0, 2.0]])
LABELED = (GOOD, [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.where(GOOD == 3, np.nan, GOOD), [5, 3, 1]), {}, "`logits` must be finite.*in 1 of 3 rows, first in row 1"),
        ((softmax(GOOD), [5, 3, 1]), {}, "`logits` must be logits. Received probabilities"),
        ((GOOD, [5, 3]), {}, r"`logits` must have shape \[N, 2\].*Received shape \(3, 3\)"),
        ((GOOD[:0], [5, 3, 1]), {}, r"N ≥ 1.*Received shape \(0, 3\)"),
        ((GOOD, [5, 3, 0]), {}, "Every number in `class_counts` must be greater than zero.*class 2"),
        ((GOOD, [5, 3, 1]), {"method": "mle"}, "`method` must be one of 'em', 'bbse'. Received: method='mle'"),
        ((GOOD, [5, 3, 1]), {"validation": LABELED}, '`validation` goes with method="bbse".*leave it out'),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse"},
            r"needs labeled examples.*validation=\(logits, y_true\).*NoneType.*\"em\"",
        ),
        ((GOOD, [5, 3, 1]), {"method": "bbse", "validation": GOOD}, "needs labeled examples.*Received ndarray"),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse", "validation": (GOOD, [0, 1, 1])},
            "of every class. Received none of class 2",
        ),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse", "validation": (GOOD, [0, 1, 3])},
            "`validation labels` must be class ids 0 … 2",
        ),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse", "validation": (GOOD, [0, 1])},
            "`validation labels` must have one class id",
        ),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse", "validation": (softmax(GOOD), [0, 1, 2])},
            "`validation logits` must be logits",
        ),
        (
            (GOOD, [5, 3, 1]),
            {"method": "bbse", "validation": (GOOD[:, :2], [0, 1, 2])},
            "`validation logits` must have shape",
        ),
        ((GOOD, [5, 3, 1]), {"replicates": 1}, "`replicates` must be an integer of at least 2"),
        ((GOOD, [5, 3, 1]), {"level": 1}, "`level` must be a number"),
        ((GOOD, as_prior([5, 3, 1], 10)), {}, "`class_counts` must be of exclusive classes here"),
        ((GOOD, [5, 3, 1]), {"level": 0}, "`level` must be a number strictly between 0 and 1.*level=0"),
        ((GOOD, [5, 3, 1]), {"seed": -1}, "`seed` must be an integer of at least 0"),
        ((GOOD, [5, 3, 1]), {"tol": 0}, "`tol` must be a positive number"),
        ((GOOD, [5, 3, 1]), {"max_iterations": 0}, "`max_iterations` must be an integer of at least 1"),
    ],
)
def test_bad_input_is_refused_at_once_with_a_reason(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_target_prior(*arguments, **options)
