"""What a comparison leaves behind: the table, the JSON file and the picture."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from compare_cases import CALL_SHAPE, Case, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

UNSTEADY = 0.1
"""Spread of the plain copy above which a run is called unsteady."""


@dataclass
class Row:
    """The medians of one case, in seconds.

    Attributes
    ----------
    ours : float
        logitkit.
    peers : dict of str to float
        The libraries that compete in this case.
    loops : dict of str to float
        Every loop of the machine's limits.
    limits : dict of str to (float, str)
        The fastest loop of each kind, and whose it is.
    limit : float
        What this case cannot go below.
    limit_name : str
        What sets it.
    least : dict of str to float
        The shortest sample of every library and loop, for runs on a machine that others use.
    """

    case: Case
    ours: float
    peers: dict[str, float]
    loops: dict[str, float]
    limits: dict[str, tuple[float, str]]
    limit: float
    limit_name: str
    least: dict[str, float]


@dataclass
class Report:
    """All rows of a run, and what a reader needs to judge them."""

    about: dict[str, Any]
    peers: list[str]
    rows: list[Row] = field(default_factory=list)
    copy_spread: dict[Shape, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def ratio(value: float | None) -> str:
    """A ratio with two or three digits, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def shape_name(shape: Sequence[int]) -> str:
    """The shape as Python writes it, without spaces."""
    return f"({','.join(map(str, shape))})"


def by_shape(rows: Iterable[Row]) -> list[tuple[Shape, list[Row]]]:
    """The rows of each shape, in the order measured."""
    return [(shape, list(group)) for shape, group in groupby(rows, key=lambda r: r.case.shape)]


def shape_table(shape: Shape, rows: list[Row], report: Report) -> str:
    """The table of one shape: what each peer's time is, divided by ours."""
    at_call_shape = shape == CALL_SHAPE
    head = ["operation", "result", "ours", *report.peers, "limit", "set by", "ours/limit"]
    lines = [head + (["ours/np.exp"] if at_call_shape else [])]
    for row in rows:
        line = [row.case.operation.name, row.case.policy, duration(row.ours)]
        line += [
            ratio(row.peers[name] / row.ours if name in row.peers else None)
            for name in report.peers
        ]
        line += [duration(row.limit), row.limit_name, ratio(row.ours / row.limit)]
        if at_call_shape:
            line.append(ratio(row.ours / row.limits["np.exp"][0]))
        lines.append(line)
    left = {0, 1, head.index("set by")}
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join(cells).rstrip())
    kinds: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        for kind, found in row.limits.items():
            kinds.setdefault(kind, []).append(found)
    middle = {kind: sorted(found)[len(found) // 2] for kind, found in kinds.items()}
    limits = ", ".join(f"{kind} {duration(t)} ({whose})" for kind, (t, whose) in middle.items())
    title = f"{shape_name(shape)} {report.about['dtype']}, class axis 1"
    foot = [f"limits: {limits}"]
    if shape in report.copy_spread:
        spread = report.copy_spread[shape]
        foot.append(f"the copy varied by {spread:.0%}")
        if spread > UNSTEADY:
            foot.append(f"UNSTEADY: more than {UNSTEADY:.0%}, so take these ratios as rough")
    return "\n".join([title, "-" * len(title), *text, *foot])


def heading(report: Report) -> str:
    """What was measured, where and how."""
    about = report.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['cpu']}, {about['threads']} thread(s): {about['thread_control']}",
        versions,
        f"SIMD level of logitkit: {about['simd_level']}",
        *(["BUSY: " + busy] if (busy := about["busy_at_start"]) else []),
        *(f"not compared: {name} ({why})" for name, why in about["missing_peers"].items()),
        *(
            f"logitkit's own loop {name} is missing: the other libraries' loops alone are the limit"
            for name in about["missing_loops"]
        ),
        "Medians. Under each library: its time divided by ours (above 1: ours is faster).",
    ]
    if about["effort"] == "check":
        lines.append("A check: every call is timed once, so the times below mean nothing.")
    return "\n".join(lines)


def write_json(report: Report, path: Path) -> None:
    """Everything measured: all medians in microseconds, and the ratios of the table."""
    rows = [
        {
            "operation": row.case.operation.name,
            "result": row.case.policy,
            "shape": row.case.shape,
            "median_us": {
                name: round(time * 1e6, 4)
                for name, time in {"logitkit": row.ours, **row.peers}.items()
            },
            "loops_us": {name: round(time * 1e6, 4) for name, time in row.loops.items()},
            "least_us": {name: round(time * 1e6, 4) for name, time in row.least.items()},
            "limit_us": round(row.limit * 1e6, 4),
            "limit_set_by": row.limit_name,
            "peer_over_ours": {name: round(t / row.ours, 3) for name, t in row.peers.items()},
            "ours_over_limit": round(row.ours / row.limit, 3),
        }
        for row in report.rows
    ]
    spreads = {shape_name(shape): round(value, 4) for shape, value in report.copy_spread.items()}
    content = {**report.about, "copy_spread": spreads, "notes": report.notes, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def draw(report: Report, path: Path) -> None:
    """One panel a shape, one group of bars a row: how many times ours is faster than each peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    groups = by_shape(report.rows)
    widest = max(len(rows) for _, rows in groups)
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(max(10.0, 1.1 * widest + 1), 3.4 * len(groups) + 1),
        squeeze=False,
        layout="constrained",
    )
    names = [n for n in report.peers if any(n in row.peers for row in report.rows)]
    width = 0.8 / max(1, len(names))
    for (shape, rows), ax in zip(groups, axes[:, 0], strict=True):
        positions = np.arange(len(rows))
        for k, name in enumerate(names):
            heights = [row.peers.get(name, np.nan) / row.ours for row in rows]
            offsets = positions + (k - (len(names) - 1) / 2) * width
            # A bar starts at 1, so that one hanging below the line is a peer that is faster.
            ax.bar(offsets, [h - 1 for h in heights], width, bottom=1, label=name, color=f"C{k}")
        ax.plot(
            positions,
            [row.limit / row.ours for row in rows],
            linestyle="none",
            marker="_",
            markersize=28,
            markeredgewidth=2,
            color="black",
            label="limit of the machine",
        )
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
        ax.set_xlim(-0.6, widest - 0.4)
        ticks = [
            row.case.operation.name.replace("_value_and_grad", "\nvalue and grad").replace(
                "_backward", "\nbackward"
            )
            + (f"\n[{row.case.policy}]" if len(row.case.operation.policies) > 1 else "")
            for row in rows
        ]
        ax.set_xticks(positions, ticks, fontsize=7)
        ax.set_ylabel("time of peer / ours")
        title = f"{shape_name(shape)} {report.about['dtype']}"
        if report.copy_spread.get(shape, 0.0) > UNSTEADY:
            title += f"   (unsteady: the copy varied by {report.copy_spread[shape]:.0%})"
        ax.set_title(title, loc="left", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.supxlabel(f"{report.about['cpu']}, {report.about['threads']} thread(s)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
