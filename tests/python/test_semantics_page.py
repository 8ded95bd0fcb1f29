"""The page of special cases names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "semantics.md"


def rows() -> list[tuple[str, str]]:
    """Return the first and the last cell of each row of the first table."""
    table = PAGE.read_text().split("\n## ")[0]
    cells = [line.strip("| \n").split(" | ") for line in table.splitlines() if line[:1] == "|"]
    return [(row[0], row[-1]) for row in cells[2:]]


def defined() -> set[str]:
    """Return the names of all test functions."""
    text = "\n".join(path.read_text() for path in HERE.glob("test_*.py"))
    return set(re.findall(r"^def (test_\w+)\(", text, flags=re.MULTILINE))


@pytest.mark.parametrize(("case", "tests"), rows(), ids=[case for case, _ in rows()])
def test_row(case: str, tests: str) -> None:
    names = re.findall(r"`(\w+)`", tests)
    assert names, f"no test for {case}"
    missing = set(names) - defined()
    assert not missing, f"{case}: there is no {', '.join(sorted(missing))}"


def test_the_page_has_its_rows() -> None:
    assert len(rows()) >= 35
