"""Calibrate an over-confident classifier of handwritten digits with one number, its temperature.

    python examples/temperature_scaling.py            # prints, writes temperature_scaling.png
    python examples/temperature_scaling.py --no-plot  # the same without the picture

A neural network learns 200 of scikit-learn's digits by heart and is then too sure of the others.
Its logits are divided by the temperature T that makes the cross-entropy of 400 digits of a
validation part smallest ([1]_, section 4.2): ``cross_entropy(logits, labels, temperature=T)`` as a
function of log T, without an array of divided logits. The rest of the digits, which chose nothing,
tell what it is worth.

The measure is the expected calibration error ([1]_, section 2). The predictions are put into
M = 15 bins by their confidence, the probability of the most probable class; bin m takes the
confidences in ``((m-1)/M, m/M]``. With the accuracy and the mean confidence of each bin,

    ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|.

Dividing a row by a positive number leaves its largest logit the largest, hence every prediction as
it was. The exit status is 1 when a prediction changes, when the slope at T is not zero, when a loss
differs from SciPy's, or when the held-out ECE is not at least halved.

.. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks",
   ICML 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import logitkit as lk
import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

TRAINED = 200
VALIDATION = 400
BINS = 15

SLOPE_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-13
PROBABILITY_TOLERANCE = 1e-12


class Scored(NamedTuple):
    """The logits of some digits, and the digits that they are."""

    logits: Floats
    labels: Labels


class Reliability(NamedTuple):
    """Of each bin: how many predictions it holds, their mean confidence, the share that is right.

    The latter two are NaN where a bin is empty.
    """

    size: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats


# --- the classifier -------------------------------------------------------------------------------


def forward(model: MLPClassifier, x: Floats) -> Floats:
    """Return the logits of the rows ``x``: what the network computes before its softmax."""
    *hidden, last = zip(model.coefs_, model.intercepts_, strict=True)
    for weight, bias in hidden:
        x = np.maximum(x @ weight + bias, 0)
    logits: Floats = x @ last[0] + last[1]
    return logits


def score() -> tuple[Scored, Scored, float]:
    """Train without regularisation; return the validation part, the held-out part, and a check.

    The check is the largest difference between the softmax of the logits and the probabilities
    that scikit-learn finds.
    """
    images, labels = load_digits(return_X_y=True)
    x_train, x_rest, y_train, y_rest = train_test_split(
        images / 16, labels, train_size=TRAINED, stratify=labels, random_state=0
    )
    x_validation, x_test, y_validation, y_test = train_test_split(
        x_rest, y_rest, train_size=VALIDATION, stratify=y_rest, random_state=0
    )
    model = MLPClassifier((64,), solver="lbfgs", alpha=0, max_iter=1000, random_state=0)
    model.fit(x_train, y_train)
    logits = forward(model, x_test)
    difference = np.abs(lk.softmax(logits, axis=1) - model.predict_proba(x_test)).max()
    validation = Scored(forward(model, x_validation), y_validation)
    return validation, Scored(logits, y_test), float(difference)


# --- calibration ----------------------------------------------------------------------------------


def fit_temperature(part: Scored) -> float:
    """Return the temperature at which the mean cross-entropy is smallest."""

    def loss(log_temperature: float) -> float:
        return float(lk.cross_entropy(*part, temperature=math.exp(log_temperature)))

    return math.exp(scipy.optimize.minimize_scalar(loss, bracket=(0, 1)).x)


def slope(part: Scored, temperature: float) -> float:
    """Return the derivative of the mean cross-entropy with respect to log T.

    The loss depends on T through z / T only, so that it is -sum(z * dloss/dz).
    """
    _, dlogits = lk.cross_entropy_value_and_grad(*part, temperature=temperature)
    return -float(np.vdot(part.logits, dlogits))


def loss_scipy(part: Scored, temperature: float) -> float:
    """Return the mean cross-entropy as one writes it with NumPy and SciPy."""
    log_probs = scipy.special.log_softmax(part.logits / temperature, axis=1)
    return float(-log_probs[np.arange(len(part.labels)), part.labels].mean())


def reliability(part: Scored, temperature: float, bins: int = BINS) -> Reliability:
    """Put the predictions into bins of equal width by their confidence."""
    probs = lk.softmax(part.logits, axis=1, temperature=temperature)
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == part.labels
    edges = np.arange(1, bins) / bins
    index = np.searchsorted(edges, confidence, side="left")  # edges[i-1] < confidence <= edges[i]
    size = np.bincount(index, minlength=bins)
    divisor = np.where(size, size, np.nan)
    return Reliability(
        size,
        np.bincount(index, confidence, bins) / divisor,
        np.bincount(index, right, bins) / divisor,
    )


def expected_calibration_error(bins: Reliability) -> float:
    """Return the mean distance between accuracy and confidence, over the predictions."""
    gap = np.abs(bins.accuracy - bins.confidence)
    return float(np.nansum(bins.size * gap) / bins.size.sum())


# --- the picture ----------------------------------------------------------------------------------


def draw(part: Scored, temperature: float, path: Path) -> None:
    """Draw accuracy against confidence before and after, and how many predictions each bin has."""
    from matplotlib.figure import Figure

    blue, orange = "#1f6fb4", "#d9730d"
    figure = Figure(figsize=(13, 7.6), layout="constrained", dpi=100)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    left = np.arange(BINS) / BINS
    for column, (name, t) in enumerate((("before", 1.0), ("after", temperature))):
        diagram, histogram = grid[:, column]
        bins = reliability(part, t)
        error = expected_calibration_error(bins)
        box = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        diagram.bar(left, bins.accuracy, color=blue, alpha=0.75, label="share that is right", **box)
        middle = left + 0.5 / BINS
        diagram.vlines(middle, bins.accuracy, bins.confidence, color=orange, linewidth=2)
        diagram.hlines(
            bins.confidence,
            left + 0.1 / BINS,
            left + 0.9 / BINS,
            color=orange,
            linewidth=4,
            label="mean confidence",
        )
        diagram.plot([0, 1], [0, 1], color="#555555", linestyle="--", label="calibrated")
        diagram.set_title(f"T = {t:.3g} ({name}): ECE {error:.1%}", fontsize=16)
        histogram.bar(left, bins.size, color="#9aa3ad", **box)
        for x, size in zip(middle, bins.size, strict=True):
            if size:
                histogram.text(x, size + 25, f"{size}", ha="center", fontsize=11)
        histogram.set_xlabel("confidence: probability of the predicted digit", fontsize=13)
    grid[0, 0].legend(fontsize=13, loc="upper left")
    grid[0, 0].set_ylabel("accuracy", fontsize=13)
    grid[1, 0].set_ylabel("digits", fontsize=13)
    grid[0, 0].set(xlim=(0, 1), ylim=(0, 1.02))
    grid[1, 0].set_ylim(0, 1.2 * len(part.labels))
    for axes in grid.flat:
        axes.tick_params(labelsize=12)

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# --- the command ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Temperature scaling of a digit classifier.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("temperature_scaling.png"),
        help="where the picture goes (%(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, print, draw; 0 when the calibration is better and the predictions are the same."""
    options = parse(argv)
    validation, test, difference = score()
    temperature = fit_temperature(validation)

    print(f"Temperature {temperature:.4f}, from {len(validation.labels)} digits")
    print(f"{len(test.labels)} held-out digits{'T = 1':>16}{f'T = {temperature:.3f}':>14}")
    errors = [expected_calibration_error(reliability(test, t)) for t in (1.0, temperature)]
    losses = [float(lk.cross_entropy(*test, temperature=t)) for t in (1.0, temperature)]
    predictions = [
        lk.softmax(test.logits, axis=1, temperature=t).argmax(axis=1) for t in (1.0, temperature)
    ]
    accuracies = [float(np.mean(predicted == test.labels)) for predicted in predictions]
    print(f"  {'accuracy':<22}{accuracies[0]:14.2%}{accuracies[1]:14.2%}")
    print(f"  {'ECE':<22}{errors[0]:14.2%}{errors[1]:14.2%}")
    print(f"  {'cross-entropy':<22}{losses[0]:14.4f}{losses[1]:14.4f}")

    if not options.no_plot:
        draw(test, temperature, options.out)
        print(f"Picture: {options.out}")

    failures = []
    if not difference <= PROBABILITY_TOLERANCE:
        failures.append("softmax(logits) is not what scikit-learn predicts")
    if not abs(slope(validation, temperature)) <= SLOPE_TOLERANCE:
        failures.append("the validation loss still falls at the temperature")
    expected = [loss_scipy(test, t) for t in (1.0, temperature)]
    if not np.allclose(losses, expected, rtol=LOSS_TOLERANCE, atol=0):
        failures.append("a loss differs from SciPy's")
    if not np.array_equal(*predictions):
        failures.append("a prediction has changed")
    if not (errors[1] <= errors[0] / 2 and losses[1] < losses[0]):
        failures.append("the held-out digits are not calibrated better")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
