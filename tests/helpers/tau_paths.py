"""Held-out logits of known priors, and the arithmetic that tests of `TauPath` hold against it."""

import fractions

import numpy as np
from hypothesis import strategies as st
from reference import log_prior

import keras_logit_adjust as kla

COUNTS = [300, 100, 40, 20, 5]
GRID = np.linspace(-4, 6, 201)
FEW_PLACES = 6  # units in the last place: of the slope, the difference and their ratio, rounded, and a step inside
quantized = st.integers(-3, 3).map(float)
single = st.floats(-100, 100, width=32)
double = st.floats(-100, 100)


def first_largest(logits, slopes, tau):
    """The argmax of `logits − tau·slopes`, the first of equals, without any rounding."""
    tau = fractions.Fraction(tau)
    scores = [fractions.Fraction(f) - tau * fractions.Fraction(s) for f, s in zip(logits, slopes, strict=True)]
    return scores.index(max(scores))


def near(tau, breakpoint):
    return np.abs(tau - breakpoint) <= FEW_PLACES * np.spacing(np.abs(breakpoint))


def predicted(logits, counts, tau):
    """What a user would write."""
    return np.argmax(np.asarray(logits, "float64") - tau * log_prior(counts), axis=-1)


def around(path):
    """Every finite end of the path's intervals, and a little below and above it."""
    ends = np.unique(np.concatenate([path.low, path.high]))
    ends = ends[np.isfinite(ends)]
    step = 2 * FEW_PLACES * np.spacing(np.abs(ends))
    return np.concatenate([ends - step, ends, ends + step])


def draw(rng, size=60, counts=COUNTS, signal=1.5):
    """Logits of a long tail, the last class never in the labels."""
    y = rng.integers(0, len(counts) - 1, size)
    return y, rng.normal(size=(size, len(counts))) + signal * np.eye(len(counts))[y] + 0.7 * log_prior(counts)


@st.composite
def problems(draw):
    """Labels, logits and counts: ties of logits, of priors, two classes, classes that do not occur, τ of every size."""
    num_classes, size = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    counts = draw(
        st.lists(st.sampled_from([1, 2, 3, 4, 1000, 1001, 437_513]), min_size=num_classes, max_size=num_classes)
    )
    number = draw(st.sampled_from([quantized, single, double]))
    logits = draw(st.lists(st.lists(number, min_size=num_classes, max_size=num_classes), min_size=size, max_size=size))
    y = draw(st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size))
    taus = draw(st.lists(st.one_of(st.floats(-5, 5), st.floats(-1e12, 1e12), st.sampled_from([0.0, 1.0])), max_size=4))
    return y, logits, counts, taus


def is_softmax(logits):
    """Drawn logits that would be refused as probabilities."""
    logits = np.asarray(logits)
    return len(logits) > 1 and logits.min() >= 0 and logits.max() <= 1 and np.allclose(logits.sum(-1), 1, atol=1e-2)


def two_class_path(*examples):
    """Examples `(class, crossing)` of two classes, counts 2 : 1: class 0 is right up to its crossing, class 1 from its
    own on."""
    y = [label for label, _ in examples]
    return kla.TauPath(y, [[crossing * np.log(2.0), 0.0] for _, crossing in examples], [2, 1])
