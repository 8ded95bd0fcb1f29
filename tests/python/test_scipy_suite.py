"""SciPy's own tests of the functions that this package has under the same names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scipy_suite"


def test_scipy_suite() -> None:
    scipy = pytest.importorskip("scipy")
    if not Path(scipy.__file__).with_name("special").joinpath("tests/test_logsumexp.py").exists():
        pytest.skip("SciPy is installed without its tests")
    command = [sys.executable, str(SCRIPT), "-q", "-W", "ignore::pytest.PytestWarning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"^(\d+) passed\b(?!.*(failed|error))", done.stdout, flags=re.MULTILINE)
    assert counts, done.stdout
    assert int(counts[1]) > 20
