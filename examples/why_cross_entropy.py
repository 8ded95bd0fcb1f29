"""Draw why classifiers are trained with cross-entropy and not with MSE after softmax.

    python examples/why_cross_entropy.py     # writes why_cross_entropy.png

Both losses are functions of the logits, and both are small where softmax is sure of the true class.
They differ where the model is wrong. There the slope of cross-entropy stays near its largest value,
so training gets away fast. MSE after softmax levels off: the more confident the mistake, the
smaller its gradient, and it is not convex. The picture shows both losses and their gradients for
two classes, along the difference of the logits, and for three, over two of the logits with the
third at 0. All values come from logitkit; the exit status is 1 when they do not show this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import logitkit as lk
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.floating]
Loss = Callable[[Floats], tuple[Floats, Floats]]
"""``loss(logits) -> (loss of each row, gradient)``; the true class is the first."""

REACH = 8.0
"""The logits go from -REACH to REACH."""

H = 1e-4
"""Step of the differences that give second derivatives from gradients."""

CONVEX = -1e-9
"""A second derivative above this is not negative: the rest is rounding."""


# --- the two losses -------------------------------------------------------------------------------


def cross_entropy(logits: Floats) -> tuple[Floats, Floats]:
    """Cross-entropy of every row with class 0."""
    labels = np.zeros(logits.shape[:-1], dtype=np.int64)
    loss, grad = lk.cross_entropy_value_and_grad(logits, labels, reduction="none")
    return loss, grad


def mse_after_softmax(logits: Floats) -> tuple[Floats, Floats]:
    """Squared error between softmax and the one-hot vector of class 0, summed over the classes."""
    probs = lk.softmax(logits, axis=-1)
    target = np.zeros_like(probs)
    target[..., 0] = 1
    squares, dprobs = lk.mse_loss_value_and_grad(probs, target, reduction="none")
    return squares.sum(axis=-1), lk.softmax_backward(dprobs, probs, axis=-1)


# --- what is drawn --------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A loss of two classes over the difference d of their logits (true minus other)."""

    d: Floats
    loss: Floats
    slope: Floats
    convex: NDArray[np.bool_]


class Surface(NamedTuple):
    """A loss of three classes over the true logit and one other, the third being 0."""

    z: Floats
    loss: Floats
    steepness: Floats
    convex: NDArray[np.bool_]


def two_classes(loss: Loss, points: int) -> Curve:
    """Evaluate a loss at the logits (d, 0)."""
    d = np.linspace(-REACH, REACH, points)

    def slope(at: Floats) -> Floats:
        return loss(np.stack([at, np.zeros_like(at)], axis=-1))[1][..., 0]

    curvature = (slope(d + H) - slope(d - H)) / (2 * H)
    value, _ = loss(np.stack([d, np.zeros_like(d)], axis=-1))
    return Curve(d, value, slope(d), curvature >= CONVEX)


def three_classes(loss: Loss, points: int) -> Surface:
    """Evaluate a loss at the logits (z[j], z[i], 0), as entry [i, j]."""
    z = np.linspace(-REACH, REACH, points)
    logits = np.zeros((points, points, 3))
    logits[..., 0] = z
    logits[..., 1] = z[:, np.newaxis]
    value, grad = loss(logits)

    # The second derivatives in the two logits that move.
    hessian = np.empty((points, points, 2, 2))
    for k in range(2):
        shift = np.zeros(3)
        shift[k] = H
        hessian[..., k] = (loss(logits + shift)[1] - loss(logits - shift)[1])[..., :2] / (2 * H)
    hessian = (hessian + hessian.swapaxes(-1, -2)) / 2
    smallest = np.linalg.eigvalsh(hessian)[..., 0]
    return Surface(z, value, np.linalg.norm(grad, axis=-1), smallest >= CONVEX)


# --- the picture ----------------------------------------------------------------------------------


def draw(curves: Sequence[Curve], surfaces: Sequence[Surface], path: Path) -> None:
    """Draw losses above and gradients below; two classes at the left, three beside them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    spacing = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(17, 11.5), layout=spacing, dpi=100)
    grid = figure.subplots(2, 3)
    draw_curves(grid[0, 0], grid[1, 0], curves)

    names = ("Cross-entropy", "MSE after softmax")
    loss_levels = (np.arange(18.0), np.linspace(0, 2, 17))
    remarks = (("wrong and steep", "black"), ("wrong and flat", "white"))
    for column, (name, surface, levels, (remark, ink)) in enumerate(
        zip(names, surfaces, loss_levels, remarks, strict=True), start=1
    ):
        loss, gradient = grid[:, column]
        draw_surface(loss, surface.z, surface.loss, levels, colours="viridis")
        hatched = not surface.convex.all()
        if hatched:
            hatch(loss, surface.z, ~surface.convex)
        note = "hatched: not convex" if hatched else "convex"
        loss.set_title(f"{name}, three classes:\nloss ({note})")

        levels_of_both = np.linspace(0, 1.5, 16)
        draw_surface(gradient, surface.z, surface.steepness, levels_of_both, colours="magma")
        gradient.set_title(f"{name}, three classes:\nlength of the gradient")
        gradient.text(-7.5, 6, remark, color=ink, fontsize=16, fontweight="bold")
        gradient.text(3.5, -4, "right", color="white", fontsize=16, fontweight="bold")

    for axes in grid.flat:
        axes.title.set_fontsize(16)
        axes.set_xticks(np.linspace(-REACH, REACH, 9))
        axes.tick_params(labelsize=13)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_curves(top: Axes, bottom: Axes, curves: Sequence[Curve]) -> None:
    """Draw two classes: the losses in the upper panel, their slopes in the lower one."""
    names = ("cross-entropy", "MSE after softmax")
    for name, colour, curve in zip(names, ("#1f6fb4", "#d9730d"), curves, strict=True):
        top.plot(curve.d, curve.loss, color=colour, linewidth=3, label=name)
        bottom.plot(curve.d, curve.slope, color=colour, linewidth=3, label=name)
    mse = curves[1]
    for axes in (top, bottom):
        axes.fill_between(
            mse.d,
            0,
            1,
            where=~mse.convex,
            transform=axes.get_xaxis_transform(),
            color="#d9730d",
            alpha=0.13,
            linewidth=0,
            label="MSE not convex",
        )
        axes.set_xlabel("logit of the true class minus the other", fontsize=14)
        axes.set_xlim(-REACH, REACH)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=13)
    top.set_title("Two classes:\nloss")
    bottom.set_title("Two classes:\nderivative by the true logit")


def draw_surface(axes: Axes, z: Floats, values: Floats, levels: Floats, *, colours: str) -> None:
    """Draw three classes: one colour for each interval of levels."""
    filled = axes.contourf(z, z, values, levels=levels, cmap=colours)
    axes.contour(z, z, values, levels=levels, colors="white", linewidths=0.4)
    bar = axes.figure.colorbar(filled, ax=axes, ticks=levels[::2])
    bar.ax.tick_params(labelsize=12)
    axes.set_xlabel("logit of the true class", fontsize=14)
    axes.set_ylabel("logit of a wrong class (third logit: 0)", fontsize=14)
    axes.set_yticks(np.linspace(-REACH, REACH, 9))
    axes.set_aspect("equal")


def hatch(axes: Axes, z: Floats, where: NDArray[np.bool_]) -> None:
    """Hatch a part of a surface."""
    part = axes.contourf(z, z, where, levels=[0.5, 1.5], colors="none", hatches=["/"])
    part.set(edgecolor="black", linewidth=0)


# --- the command ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cross-entropy and MSE after softmax, drawn.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("why_cross_entropy.png"),
        help="where the picture goes (%(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--quick", action="store_true", help="evaluate fewer points")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate both losses, print and draw them; 0 when only cross-entropy is convex, else 1."""
    options = parse(argv)
    points = 81 if options.quick else 321
    curves = two_classes(cross_entropy, points), two_classes(mse_after_softmax, points)
    surfaces = three_classes(cross_entropy, points), three_classes(mse_after_softmax, points)

    print(f"{'':<44}{'cross-entropy':>14}{'MSE after softmax':>19}")
    for text, values in (
        (f"two classes, logits ({-REACH:g}, 0): loss", [c.loss[0] for c in curves]),
        ("  derivative by the true logit", [c.slope[0] for c in curves]),
        ("  share of the line that is not convex", [1 - c.convex.mean() for c in curves]),
        (
            f"three classes, logits ({-REACH:g}, {REACH:g}, 0): loss",
            [s.loss[-1, 0] for s in surfaces],
        ),
        ("  length of the gradient", [s.steepness[-1, 0] for s in surfaces]),
        ("  share of the square that is not convex", [1 - s.convex.mean() for s in surfaces]),
    ):
        print(f"{text:<44}{values[0]:14.4f}{values[1]:19.4f}")

    if not options.no_plot:
        draw(curves, surfaces, options.out)
        print(f"Picture: {options.out}")

    as_stated = all(
        of_cross_entropy.convex.all() and not of_mse.convex.all()
        for of_cross_entropy, of_mse in (curves, surfaces)
    )
    if not as_stated:
        print("FAILED: only cross-entropy should be convex everywhere", file=sys.stderr)
    return 0 if as_stated else 1


if __name__ == "__main__":
    sys.exit(main())
