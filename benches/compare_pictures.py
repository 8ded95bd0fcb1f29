"""The pictures of a comparison, drawn from the content of its JSON file."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from compare_cases import shape_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Content = dict[str, Any]

OPERATIONS = {
    "softmax": "softmax",
    "logsumexp": "logsumexp",
    "cross_entropy_value_and_grad": "cross-entropy and gradient",
}
SHAPES = ((1, 10), (65536, 10), (256, 1000), (16384, 1000), (512, 50257))
COLORS = {
    "logitkit": "#c1272d",
    "SciPy": "#7f7f7f",
    "NumPy": "#4d77cf",
    "JAX": "#8c6bb1",
    "ONNX Runtime": "#4daf9c",
    "scikit-learn": "#e0a030",
    "torch": "#d9663f",
}
BAR_RANGE = (0.7, 400)
WIDTH = 9.0
"""Inches; a picture shown 900 pixels wide then has letters of their nominal size at 100 dpi."""


def curve_rows(content: Content, operation: str) -> list[Content]:
    """The rows of the section on growth, by size."""
    rows = [
        row
        for row in content["rows"]
        if row["section"] == "growth" and row["operation"] == operation
    ]
    return sorted(rows, key=lambda row: prod(row["shape"]))


def curve(
    rows: Sequence[Content], of: Callable[[Content], float | None]
) -> tuple[list[int], list[float]]:
    """Sizes and nanoseconds an element, where `of` knows the microseconds of a row."""
    sizes, times = [], []
    for row in rows:
        microseconds = of(row)
        if microseconds is not None:
            sizes.append(prod(row["shape"]))
            times.append(1e3 * microseconds / sizes[-1])
    return sizes, times


def draw_growth(content: Content, path: Path) -> bool:
    """Time of an element against the size, with the limit; False if there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = {name: rows for name in OPERATIONS if len(rows := curve_rows(content, name)) > 1}
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for (operation, rows), ax in zip(panels.items(), axes[0], strict=True):
        peers = dict.fromkeys(name for row in rows for name in row["median_us"])
        for name in (name for name in peers if name != "logitkit"):
            library = name.removesuffix(" (fresh)")
            data = curve(rows, lambda row, name=name: row["median_us"].get(name))  # type: ignore[misc]
            ax.plot(*data, color=COLORS[library], lw=1.2, alpha=0.7, label=library)
        data = curve(rows, lambda row: row["median_us"]["logitkit"])
        ax.plot(*data, color=COLORS["logitkit"], lw=2.5, marker="o", ms=4, label="logitkit")
        data = curve(rows, lambda row: row["limit_us"])
        ax.plot(*data, color="black", lw=1.5, ls="--", label="limit of the machine")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.25)
        ax.set_title(OPERATIONS[operation], fontsize=11)
        ax.set_xlabel("elements, in rows of 1000")
    axes[0, 0].set_ylabel("nanoseconds an element")
    finish(figure, axes[0], content, path)
    return True


def bar_row(content: Content, operation: str, shape: tuple[int, ...]) -> Content | None:
    """The row with new results of this operation at this shape."""
    for row in content["rows"]:
        if (
            (row["operation"], tuple(row["shape"]), row["result"], row["dtype"])
            == (operation, shape, "fresh", "float32")
            and row["section"] not in ("growth", "threads", "options")
            and row["threads"] == content["threads"]
        ):
            return row  # type: ignore[no-any-return]
    return None


def draw_bars(content: Content, path: Path) -> bool:
    """How many times as long each library takes; False if there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = {
        operation: {s: row for s in SHAPES if (row := bar_row(content, operation, s))}
        for operation in OPERATIONS
    }
    panels = {operation: rows for operation, rows in found.items() if rows}
    if not panels:
        return False
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(WIDTH, 2.2 * len(panels) + 1.0),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for (operation, rows), ax in zip(panels.items(), axes[:, 0], strict=True):
        for position, shape in enumerate(SHAPES):
            draw_group(ax, position, rows[shape]["peer_over_ours"] if shape in rows else {})
        ax.axhline(1, color=COLORS["logitkit"], lw=2.0, label="logitkit")
        ax.set_yscale("log")
        ax.set_ylim(*BAR_RANGE)
        ax.yaxis.set_major_formatter("{x:g}x")
        ax.grid(axis="y", alpha=0.25)
        ax.set_axisbelow(True)
        ax.set_title(OPERATIONS[operation], loc="left", fontsize=11)
        ax.set_xticks(range(len(SHAPES)), [shape_name(shape) for shape in SHAPES])
    figure.supylabel("time of the other library / ours", fontsize=10)
    finish(figure, axes[:, 0], content, path)
    return True


def draw_group(ax: Any, position: int, ratios: dict[str, float]) -> None:
    """The bars of one shape, from 1 up; a library that is faster hangs below."""
    names = [name for name in COLORS if name in ratios]
    width = 0.84 / max(6, len(names))
    for k, name in enumerate(names):
        x = position + (k - (len(names) - 1) / 2) * width
        value = ratios[name]
        ax.bar(x, value - 1, 0.92 * width, bottom=1, color=COLORS[name], label=name)
        number = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
        height = min(max(1, value), 0.6 * BAR_RANGE[1])  # of a longer bar: inside
        ax.text(x, 1.06 * height, number, ha="center", va="bottom", fontsize=7.5)


def finish(figure: Any, axes: Sequence[Any], content: Content, path: Path) -> None:
    """One legend, what it was measured on, and the file."""
    import matplotlib.pyplot as plt

    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(
        handles,
        key=lambda name: (name in COLORS, list(COLORS).index(name) if name in COLORS else 0),
    )
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside upper center",
        ncols=len(order),
        fontsize=9,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.4,
    )
    threads = content["threads"]
    figure.supxlabel(f"float32, {content['cpu']}, {threads} thread(s)", fontsize=8, color="0.35")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor="white")
    plt.close(figure)
