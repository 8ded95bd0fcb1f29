"""What a comparison leaves behind: the tables, the summary of the targets and the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from compare_targets import SECTIONS, Outcome, outcomes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from compare_cases import Case

UNSTEADY = 0.1
"""Spread of the plain copy above which a run is called unsteady."""


@dataclass
class Row:
    """The medians of one case, in seconds.

    Attributes
    ----------
    case : Case
        What was measured.
    ours : float
        logitkit.
    rivals : dict of str to float
        Its other ways of being called.
    peers : dict of str to float
        The libraries that compete in this case.
    loops : dict of str to float
        Every loop of the machine's limits that was timed.
    limits : dict of str to (float, str)
        The fastest loop of each kind, and its name.
    limit : float
        What this case cannot go below.
    limit_name : str
        What sets it.
    least : dict of str to float
        The shortest sample of every contender, for runs on a machine that others use.
    copies : dict of str to list of float
        The samples of the copies.
    copy_spread : float
        How much the copy varied in the run that this row is of.
    attempts : int
        How often that run was made; the steadiest counts.
    """

    case: Case
    ours: float
    rivals: dict[str, float]
    peers: dict[str, float]
    loops: dict[str, float]
    limits: dict[str, tuple[float, str]]
    limit: float
    limit_name: str
    least: dict[str, float]
    copies: dict[str, list[float]]
    copy_spread: float = 0.0
    attempts: int = 1


@dataclass
class Report:
    """All rows of a run, and what a reader needs to judge them."""

    about: dict[str, Any]
    peers: list[str]
    rows: list[Row] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
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


def aligned(lines: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """The cells in columns, those of `left` to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join(cells).rstrip())
    return text


def group_table(rows: Sequence[Row], report: Report) -> str:
    """The table of one layout: what each contender's time is, divided by ours; and the targets."""
    case = rows[0].case
    present = {name for row in rows for name in row.peers}
    peers = sorted(present, key=lambda name: (report.peers.index(name.split(" (")[0]), name))
    rivals = list(dict.fromkeys(name for row in rows for name in row.rivals))
    head = ["operation", "result", "ours", *rivals, *peers, "limit", "set by", "ours/limit"]
    lines = [head]
    for row in rows:
        line = [row.case.title, row.case.policy, duration(row.ours)]
        for names, times in ((rivals, row.rivals), (peers, row.peers)):
            line += [ratio(times[name] / row.ours if name in times else None) for name in names]
        lines.append([*line, duration(row.limit), row.limit_name, ratio(row.ours / row.limit)])
    title = f"{SECTIONS.get(case.section, case.section)}: {case.layout.title}"
    title += ", beside a busy process" if case.busy else ""
    return "\n".join(
        [
            title,
            "-" * len(title),
            *aligned(lines, {0, 1, head.index("set by")}),
            *group_foot(rows, report.about["effort"] == "check"),
            *group_targets(rows, report.about["threads"]),
        ]
    )


def group_foot(rows: Sequence[Row], check: bool) -> list[str]:
    """The limits of one layout, and how steady the machine was."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        for kind, found in row.limits.items():
            kinds.setdefault(kind, []).append(found)
    middle = [sorted(found)[len(found) // 2] for found in kinds.values()]
    lines = ["limits: " + ", ".join(f"{name} {duration(time)}" for time, name in middle)]
    if check or rows[0].case.busy:
        return lines
    spread, attempts = rows[0].copy_spread, rows[0].attempts
    lines.append(f"the copy varied by {spread:.0%}")
    if attempts > 1:
        lines[-1] += f" in the steadiest of {attempts} runs"
    if spread > UNSTEADY:
        lines.append(f"UNSTEADY: more than {UNSTEADY:.0%}, so take these ratios as rough")
    return lines


def group_targets(rows: Sequence[Row], threads: int) -> list[str]:
    """What became of the targets of one layout."""
    found = [outcome for row in rows for outcome in outcomes(row, threads)]
    lines = [(verdict(o), o.label, o.target, measured(o)) for o in found]
    return aligned(lines, {0, 1, 2, 3}) if lines else []


def verdict(outcome: Outcome) -> str:
    """One word."""
    return {True: "met", False: "MISSED", None: "-"}[outcome.met]


def measured(outcome: Outcome) -> str:
    """The ratios as the target names them."""
    text = ", or ".join(" and ".join(map(ratio, group)) for group in outcome.measured)
    return f"{text} {outcome.unit}".rstrip()


def summary(found: Sequence[Outcome]) -> str:
    """Every target of the run, and how many are met."""
    head = ("section", "case", "threads", "target", "measured", "")
    lines = [(o.section, o.label, str(o.threads), o.target, measured(o), verdict(o)) for o in found]
    text = ["Targets", "-------", *aligned([head, *lines], {0, 1, 3, 4, 5})]
    keyed = sorted(found, key=lambda o: (list(SECTIONS).index(o.section), -o.threads))
    text.append("")
    for (section, threads), group in groupby(keyed, key=lambda o: (o.section, o.threads)):
        verdicts = [outcome.met for outcome in group]
        counts = f"{verdicts.count(True)} met, {verdicts.count(False)} missed"
        if None in verdicts:
            counts += f", {verdicts.count(None)} with nothing to compare"
        text.append(f"{SECTIONS[section]}, {threads} thread(s): {counts}")
    return "\n".join(text)


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
        *([] if about["has_bfloat16"] else ["not measured: bfloat16 (there is no ml_dtypes)"]),
        *(
            f"logitkit's own loop {name} is missing: the other libraries' loops alone are the limit"
            for name in about["missing_loops"]
        ),
        "Medians. Under each library: its time divided by ours (above 1: ours is faster).",
    ]
    if about["effort"] == "check":
        lines.append("A check: every call is timed once, so the times below mean nothing.")
    return "\n".join(lines)


def microseconds(times: dict[str, float]) -> dict[str, float]:
    return {name: round(time * 1e6, 4) for name, time in times.items()}


def row_content(row: Row, threads: int) -> dict[str, Any]:
    """All medians of a row in microseconds, and its ratios."""
    layout = row.case.layout
    return {
        "section": row.case.section,
        "operation": row.case.operation.name,
        "option": row.case.option.name if row.case.option else None,
        "result": row.case.policy,
        "shape": layout.shape,
        "dtype": layout.dtype,
        "axis": layout.axis,
        "order": layout.order,
        "threads": threads,
        "beside_a_busy_process": row.case.busy,
        "median_us": microseconds({"logitkit": row.ours, **row.peers}),
        "ours_otherwise_us": microseconds(row.rivals),
        "loops_us": microseconds(row.loops),
        "least_us": microseconds(row.least),
        "limit_us": round(row.limit * 1e6, 4),
        "limit_set_by": row.limit_name,
        "peer_over_ours": {name: round(time / row.ours, 3) for name, time in row.peers.items()},
        "ours_over_limit": round(row.ours / row.limit, 3),
        "copy_spread": round(row.copy_spread, 4),
        "attempts": row.attempts,
    }


def report_content(report: Report) -> dict[str, Any]:
    """Everything measured, as it goes to the JSON file."""
    return {
        **report.about,
        "notes": report.notes,
        "targets": [asdict(outcome) for outcome in report.outcomes],
        "rows": [row_content(row, report.about["threads"]) for row in report.rows],
    }


def joined(contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The results of several runs; what is said about the first one stands for all."""
    first, *others = contents
    lists = ("notes", "targets", "rows")
    return first | {key: sum((c[key] for c in others), first[key]) for key in lists}


def targets_of(content: dict[str, Any]) -> list[Outcome]:
    """The outcomes that a JSON file holds."""
    return [Outcome(**outcome) for outcome in content["targets"]]


def write_json(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
