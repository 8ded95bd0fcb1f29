"""Train a softmax classifier on real handwritten digits, with cross-entropy and with MSE.

    python examples/digits.py                     # trains, prints a summary, writes digits.png
    python examples/digits.py --no-plot --quick   # the same in a second, without the picture

The model is one linear layer, ``logits = X W^T + b``, trained by mini-batch gradient descent with
momentum. It is trained twice from the same start, over the same batches: once with the
cross-entropy of the logits, once with the squared error between softmax(logits) and the one-hot
label. After every epoch the share of misread digits is measured on the quarter that is held out.

The learning rate, the batch size, the momentum and the number of epochs are constants, the same for
both losses; the held-out digits choose nothing. The exit status is 1 when cross-entropy misreads
more than 4.5 % of them, or when a gradient disagrees with finite differences.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import logitkit as lk
import numpy as np
import scipy.special
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]
Loss = Callable[[Floats, Labels], tuple[float, Floats]]
"""``loss(logits, labels) -> (mean loss of a row, gradient with respect to the logits)``."""

CLASSES = 10
LEARNING_RATE = 0.1
MOMENTUM = 0.9
BATCH_SIZE = 32
EPOCHS = 40

ERROR_LIMIT = 0.045
GRADIENT_TOLERANCE = 1e-6


class Digits(NamedTuple):
    """Images as rows of 64 pixels from 0 to 1, and the digit that each of them shows."""

    x_train: Floats
    y_train: Labels
    x_test: Floats
    y_test: Labels


@dataclass
class Model:
    """One linear layer: ``logits = x @ weight.T + bias``."""

    weight: Floats
    bias: Floats

    @classmethod
    def zeros(cls, features: int) -> Model:
        """Return the model that gives every class the same probability."""
        return cls(np.zeros((CLASSES, features)), np.zeros(CLASSES))

    def logits(self, x: Floats) -> Floats:
        """Return the logits of the rows ``x``, one column per class."""
        logits: Floats = x @ self.weight.T + self.bias
        return logits


@dataclass
class Training:
    """A trained model, and per epoch its mean training loss and held-out error."""

    model: Model
    losses: list[float]
    errors: list[float]


# --- the two losses, and the first one again without logitkit -------------------------------------


def cross_entropy(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Cross-entropy; the gradient takes the place of the logits, so nothing is allocated."""
    loss, dlogits = lk.cross_entropy_value_and_grad(logits, labels, grad_out=logits)
    return float(loss), dlogits


def mse_after_softmax(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Squared error between softmax(logits) and the one-hot label, summed over the classes."""
    probs = lk.softmax(logits, axis=-1)
    target = np.eye(CLASSES)[labels]
    total, dprobs = lk.mse_loss_value_and_grad(
        probs, target, reduction="sum", grad_output=1 / len(labels)
    )
    return float(total) / len(labels), lk.softmax_backward(dprobs, probs, axis=-1)


def cross_entropy_scipy(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Cross-entropy as one writes it with NumPy and SciPy."""
    rows = np.arange(len(labels))
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    loss = -log_probs[rows, labels].mean()
    dlogits = np.exp(log_probs)
    dlogits[rows, labels] -= 1
    dlogits /= len(labels)
    return float(loss), dlogits


# --- training -------------------------------------------------------------------------------------


def load() -> Digits:
    """Load scikit-learn's 1797 digits and hold out a quarter of every class."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images / 16, labels, test_size=0.25, stratify=labels, random_state=0
    )
    return Digits(x_train, y_train, x_test, y_test)


def value_and_grad(model: Model, x: Floats, y: Labels, loss: Loss) -> tuple[float, Model]:
    """Return the loss of a batch, and its gradient with respect to the model's parameters."""
    value, dlogits = loss(model.logits(x), y)
    return value, Model(weight=dlogits.T @ x, bias=dlogits.sum(axis=0))


def step(model: Model, velocity: Model, x: Floats, y: Labels, loss: Loss) -> float:
    """Move the model one step down the gradient of a batch; return the loss before it."""
    value, grad = value_and_grad(model, x, y, loss)
    for parameter, v, g in (
        (model.weight, velocity.weight, grad.weight),
        (model.bias, velocity.bias, grad.bias),
    ):
        v[...] = MOMENTUM * v - LEARNING_RATE * g
        parameter[...] += v
    return value


def train(data: Digits, loss: Loss, epochs: int, name: str) -> Training:
    """Train from zero for some epochs, with a progress bar that shows the held-out error."""
    rng = np.random.default_rng(0)
    rows, features = data.x_train.shape
    model, velocity = Model.zeros(features), Model.zeros(features)
    result = Training(model, losses=[], errors=[])
    with tqdm(range(epochs), desc=f"{name:<17}", unit="epoch") as progress:
        for _ in progress:
            order = rng.permutation(rows)
            total = 0.0
            for start in range(0, rows, BATCH_SIZE):
                batch = order[start : start + BATCH_SIZE]
                value = step(model, velocity, data.x_train[batch], data.y_train[batch], loss)
                total += value * len(batch)
            result.losses.append(total / rows)
            error = lk.classification_error(model.logits(data.x_test), data.y_test)
            result.errors.append(float(error))
            progress.set_postfix_str(f"held-out error {result.errors[-1]:.2%}", refresh=False)
    return result


# --- checks ---------------------------------------------------------------------------------------


def gradient_error(data: Digits, loss: Loss, h: float = 1e-5) -> float:
    """Compare the gradient with central differences: largest difference / largest entry.

    Every entry of the weights and the bias is moved by ``h`` to either side, at a random model.
    """
    x, y = data.x_train[:BATCH_SIZE], data.y_train[:BATCH_SIZE]
    rng = np.random.default_rng(0)
    model = Model(rng.normal(size=(CLASSES, x.shape[1])), rng.normal(size=CLASSES))
    _, grad = value_and_grad(model, x, y, loss)

    def slope(parameter: Floats, index: tuple[int, ...]) -> float:
        middle = parameter[index]
        parameter[index] = middle + h
        above, _ = loss(model.logits(x), y)
        parameter[index] = middle - h
        below, _ = loss(model.logits(x), y)
        parameter[index] = middle
        return (above - below) / (2 * h)

    largest = max(np.abs(grad.weight).max(), np.abs(grad.bias).max())
    difference = max(
        abs(slope(parameter, index) - g)
        for parameter, gradient in ((model.weight, grad.weight), (model.bias, grad.bias))
        for index, g in np.ndenumerate(gradient)
    )
    return float(difference / largest)


def median_times(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, calls: int = 20
) -> tuple[float, float]:
    """Time two functions: the median microseconds of a call of each.

    The two take turns, so that whatever else the machine does falls on both.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for function, taken in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            taken.append((time.perf_counter() - begin) / calls * 1e6)
    return float(np.median(times[0][1:])), float(np.median(times[1][1:]))  # the first warms up


def compare_times(data: Digits, repeats: int) -> dict[str, tuple[float, float]]:
    """Time logitkit beside NumPy and SciPy: a training step, and the loss of all digits alone."""
    x, y = data.x_train, data.y_train
    features = x.shape[1]

    def stepper(loss: Loss) -> Callable[[], float]:
        model, velocity = Model.zeros(features), Model.zeros(features)
        return lambda: step(model, velocity, x[:BATCH_SIZE], y[:BATCH_SIZE], loss)

    logits = np.random.default_rng(0).normal(scale=3, size=(len(y), CLASSES))
    return {
        f"training step, {BATCH_SIZE} digits": median_times(
            stepper(cross_entropy), stepper(cross_entropy_scipy), repeats
        ),
        f"loss and gradient, {len(y)} digits": median_times(
            lambda: lk.cross_entropy_value_and_grad(logits, y),
            lambda: cross_entropy_scipy(logits, y),
            repeats,
        ),
    }


# --- the picture ----------------------------------------------------------------------------------


def draw(data: Digits, by_cross_entropy: Training, by_mse: Training, path: Path) -> None:
    """Draw the held-out error per epoch, and six misread digits with their probabilities."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    blue, orange = "#1f6fb4", "#d9730d"
    green, red, grey = "#2a9d5c", "#c8322b", "#b8bec6"
    figure = Figure(figsize=(13, 9.5), layout="constrained", dpi=100)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.05), hspace=0.04).flat

    axes = top.subplots()
    for training, colour, name in (
        (by_cross_entropy, blue, "cross-entropy"),
        (by_mse, orange, "MSE after softmax"),
    ):
        percent = 100 * np.array(training.errors)
        label = f"{name}: {percent[-1]:.2f} % at the end"
        epochs = np.arange(1, len(percent) + 1)
        axes.plot(epochs, percent, "o-", color=colour, markersize=4, label=label)
    axes.set_title("Handwritten digits: held-out error of a softmax classifier", fontsize=16)
    axes.set_xlabel("epoch", fontsize=13)
    axes.set_ylabel("misread digits, %", fontsize=13)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=13)

    probs = lk.softmax(by_cross_entropy.model.logits(data.x_test), axis=-1)
    read = probs.argmax(axis=-1)
    misread = np.flatnonzero(read != data.y_test)
    shown = misread[np.argsort(-probs[misread].max(axis=-1), kind="stable")][:6]
    bottom.suptitle(
        f"The {len(shown)} most confident of {len(misread)} misread digits (cross-entropy), "
        "and the probability of each class",
        fontsize=15,
    )
    grid = bottom.subplots(2, 6, height_ratios=(1.25, 1))
    for panel in grid.flat:
        panel.set_visible(False)
    for (image, bars), row in zip(grid.T, shown, strict=False):
        image.set_visible(True)
        image.imshow(data.x_test[row].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        image.set(xticks=[], yticks=[])
        image.set_title(f"is {data.y_test[row]}, read as {read[row]}", fontsize=14)

        colours = [grey] * CLASSES
        colours[data.y_test[row]], colours[read[row]] = green, red
        bars.set_visible(True)
        bars.bar(range(CLASSES), 100 * probs[row], color=colours)
        for digit in (data.y_test[row], read[row]):
            height = 100 * probs[row, digit]
            text = f"{height:.0f}" if height >= 0.5 else "<1"
            bars.text(digit, height + 2, text, ha="center", fontsize=12)
        bars.set_xticks(range(CLASSES))
        bars.set_ylim(0, 112)
        bars.set_yticks([0, 50, 100])
        bars.tick_params(labelsize=11)
        if image is not grid[0, 0]:
            bars.set_yticklabels([])
    grid[1, 0].set_ylabel("probability, %", fontsize=12)
    bottom.supxlabel("green: the digit it is; red: the digit it was read as", fontsize=13)

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# --- the command ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Softmax classifier on real handwritten digits.")
    parser.add_argument(
        "--epochs", type=int, help=f"passes over the training digits (default {EPOCHS}; quick: 12)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("digits.png"), help="where the picture goes (%(default)s)"
    )
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--quick", action="store_true", help="fewer epochs and shorter timings")
    options = parser.parse_args(argv)
    if options.epochs is None:
        options.epochs = 12 if options.quick else EPOCHS
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Train, check, measure, draw; 0 when the error and the gradients are as promised, else 1."""
    options = parse(argv)
    data = load()
    by_cross_entropy = train(data, cross_entropy, options.epochs, "cross-entropy")
    by_mse = train(data, mse_after_softmax, options.epochs, "MSE after softmax")

    held_out = len(data.y_test)
    print(f"\nHeld-out error after {options.epochs} epochs, {held_out} digits")
    for name, training in (("cross-entropy", by_cross_entropy), ("MSE after softmax", by_mse)):
        error = training.errors[-1]
        print(f"  {name:<18} {error:6.2%}   ({round(error * held_out)} misread)")

    print("Gradient against finite differences, relative")
    gradient_errors = [gradient_error(data, loss) for loss in (cross_entropy, mse_after_softmax)]
    for name, error in zip(("cross-entropy", "MSE after softmax"), gradient_errors, strict=True):
        print(f"  {name:<18} {error:.1e}")

    print(f"{'Median time with cross-entropy':<36}{'logitkit':>11}{'NumPy + SciPy':>16}")
    for name, (ours, theirs) in compare_times(data, repeats=11 if options.quick else 101).items():
        print(f"  {name:<34}{ours:8.1f} us{theirs:13.1f} us   x {theirs / ours:.2f}")

    if not options.no_plot:
        draw(data, by_cross_entropy, by_mse, options.out)
        print(f"Picture: {options.out}")

    failures = []
    if by_cross_entropy.errors[-1] > ERROR_LIMIT:
        failures.append(
            f"cross-entropy misreads more than {ERROR_LIMIT:.1%} of the held-out digits"
        )
    if not max(gradient_errors) <= GRADIENT_TOLERANCE:
        failures.append(f"a gradient is off by more than {GRADIENT_TOLERANCE:.0e}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
