"""Settings and fixtures of the whole suite.

``LOGITKIT_SIMD`` chooses the instruction set of a run. Hypothesis repeats the same examples on
every run; ``--hypothesis-profile=explore`` looks for new ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import logitkit as lk
import numpy as np
import pytest
from logitkit import _logitkit_core as core

hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("ci"), derandomize=False, max_examples=2000
)
hypothesis.settings.load_profile("ci")

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_report_header() -> str:
    """Say what this run tests."""
    return (
        f"logitkit: level {lk.simd_level()} of {core.simd_levels()}, "
        f"{lk.get_num_threads()} threads, numpy {np.__version__}"
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator that every test starts anew."""
    return np.random.default_rng(20240607)


@pytest.fixture
def keep_settings() -> Iterator[None]:
    """Restore the level and the thread count of the process."""
    level, count = lk.simd_level(), lk.get_num_threads()
    yield
    core.set_simd_level(level)
    lk.set_num_threads(count)


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Return a function that runs Python code in a fresh interpreter and returns the process.

    The settings of this process do not reach it. It fails when the code does not end in
    ``timeout`` seconds, or not with exit status 0 (unless ``check`` is false).
    """

    def run(
        code: str, *, timeout: float = 60, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        ours = ("LOGITKIT_", "OMP_NUM_THREADS")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        process = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env=clean | environment,
        )
        if check:
            assert process.returncode == 0, f"status {process.returncode}: {process.stderr}"
        return process

    return run
