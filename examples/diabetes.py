"""Fit a linear regression to real diabetes data by descending the gradient of the MSE.

    python examples/diabetes.py              # fits, prints a summary, writes diabetes.png
    python examples/diabetes.py --no-plot    # the same without the picture

Ten measurements of 442 patients predict how far the disease has progressed a year later. The mean
squared error of a linear model has one minimum, which linear algebra finds directly; gradient
descent with momentum, fed by ``mse_loss_value_and_grad``, has to arrive at the same place. A
quarter of the patients is held out. The exit status is 1 when the two models are not the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import logitkit as lk
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]

LEARNING_RATE = 0.1
MOMENTUM = 0.9
STEPS = 1000

TOLERANCE = 1e-6


class Patients(NamedTuple):
    """Standardised measurements with a column of ones before them, and the progression."""

    x_train: Floats
    y_train: Floats
    x_test: Floats
    y_test: Floats


class Score(NamedTuple):
    """Root of the mean squared error, and the share of the variance that is explained."""

    rmse: float
    r2: float


def load() -> Patients:
    """Load scikit-learn's diabetes data, hold a quarter out, scale by what the rest shows."""
    measured, progression = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        measured, progression, test_size=0.25, random_state=0
    )
    mean, std = x_train.mean(axis=0), x_train.std(axis=0)

    def design(x: Floats) -> Floats:
        return np.column_stack([np.ones(len(x)), (x - mean) / std])

    return Patients(design(x_train), y_train, design(x_test), y_test)


def fit(x: Floats, y: Floats, steps: int) -> tuple[Floats, Floats]:
    """Descend the MSE from zero; return the coefficients and the loss before every step."""
    weights = np.zeros(x.shape[1])
    velocity = np.zeros_like(weights)
    losses = np.empty(steps)
    for i in tqdm(range(steps), desc="gradient descent", unit="step"):
        losses[i], dpred = lk.mse_loss_value_and_grad(x @ weights, y)
        velocity *= MOMENTUM
        velocity -= LEARNING_RATE * (x.T @ dpred)
        weights += velocity
    return weights, losses


def least_squares(x: Floats, y: Floats) -> Floats:
    """Find the coefficients at the minimum by linear algebra."""
    weights: Floats = np.linalg.lstsq(x, y, rcond=None)[0]
    return weights


def score(x: Floats, y: Floats, weights: Floats) -> Score:
    """Measure how well a model predicts the patients ``x``."""
    mse = float(lk.mse_loss(x @ weights, y))
    return Score(rmse=mse**0.5, r2=1 - mse / float(y.var()))


def draw(data: Patients, weights: Floats, losses: Floats, minimum: float, path: Path) -> None:
    """Draw the loss on its way to the minimum, and predicted against measured progression."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)

    left.semilogy(np.maximum(losses / minimum - 1, 1e-16), color="#1f6fb4", linewidth=2)
    left.set_title("Distance of the training MSE from its minimum", fontsize=15)
    left.set_xlabel("step of gradient descent", fontsize=13)
    left.set_ylabel("MSE / least-squares MSE - 1", fontsize=13)
    left.set_ylim(bottom=2e-17)

    pred = data.x_test @ weights
    rmse, r2 = score(data.x_test, data.y_test, weights)
    ends = [20.0, 350.0]
    right.plot(ends, ends, color="#555555", linestyle="--", label="perfect prediction")
    right.scatter(data.y_test, pred, color="#d9730d", alpha=0.75, label="held-out patient")
    right.set_title(
        f"Held-out patients: RMSE {rmse:.1f}, R\N{SUPERSCRIPT TWO} {r2:.2f}", fontsize=15
    )
    right.set_xlabel("measured progression", fontsize=13)
    right.set_ylabel("predicted progression", fontsize=13)
    right.set_aspect("equal")
    right.legend(fontsize=12)
    for axes in (left, right):
        axes.tick_params(labelsize=12)
        axes.grid(alpha=0.3)

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Linear regression on real diabetes data.")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="steps of gradient descent (%(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("diabetes.png"),
        help="where the picture goes (%(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fit in both ways, compare, draw; 0 when the two models are the same, else 1."""
    options = parse(argv)
    data = load()
    weights, losses = fit(data.x_train, data.y_train, options.steps)
    exact = least_squares(data.x_train, data.y_train)

    print(f"\nProgression of diabetes, {len(data.y_test)} held-out patients")
    print(f"  {'':<34}{'RMSE':>8}{'R2':>8}")
    mean_only = np.zeros_like(exact)
    mean_only[0] = data.y_train.mean()
    for name, model in (
        ("the mean of the other patients", mean_only),
        ("least squares by linear algebra", exact),
        (f"MSE, {options.steps} steps of descent", weights),
    ):
        rmse, r2 = score(data.x_test, data.y_test, model)
        print(f"  {name:<34}{rmse:8.3f}{r2:8.4f}")
    difference = float(np.abs(weights - exact).max() / np.abs(exact).max())
    print(f"Coefficients of the two models differ by {difference:.1e}, relative")

    if not options.no_plot:
        minimum = float(lk.mse_loss(data.x_train @ exact, data.y_train))
        draw(data, weights, losses, minimum, options.out)
        print(f"Picture: {options.out}")

    if not difference <= TOLERANCE:
        print(f"FAILED: the coefficients differ by more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
