"""Instruction sets: what there is, how LOGITKIT_SIMD lowers it, and that the best one is in use."""

from __future__ import annotations

import os
import platform
import re

import logitkit as lk
import numpy as np
import pytest
from conftest import RunPython
from logitkit import _logitkit_core as core

LEVELS = core.simd_levels()
ASK = "import logitkit; print(logitkit.simd_level())"


def cpu_features() -> dict[str, bool]:
    """Return what NumPy found out about the CPU, under the names of this and of older versions."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as features
    except ImportError:  # NumPy 1
        from numpy.core._multiarray_umath import __cpu_features__ as features
    return dict(features)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="knows the levels of x86-64 only"
)
def test_every_level_of_this_cpu_is_there() -> None:
    """The right answer from the wrong level would pass every other test."""
    features = cpu_features()
    expected = ["portable"]
    if features.get("X86_V3") or all(map(features.get, ("AVX2", "FMA3", "F16C"))):
        expected.append("avx2")
    if features.get("X86_V4") or features.get("AVX512_SKX"):
        expected.append("avx512")
    assert expected == LEVELS


def test_levels_are_ordered_and_unique() -> None:
    assert LEVELS[0] == "portable"
    assert len(set(LEVELS)) == len(LEVELS)


def test_this_process_runs_at_the_level_it_should() -> None:
    assert lk.simd_level() == (os.environ.get("LOGITKIT_SIMD") or LEVELS[-1])


@pytest.mark.usefixtures("keep_settings")
def test_set_level() -> None:
    for level in LEVELS:
        before = lk.simd_level()
        assert core.set_simd_level(level) == before
        assert lk.simd_level() == level
        assert lk.softmax([1, 2, 3]).round(8).tolist() == [0.09003057, 0.24472847, 0.66524096]
    before = lk.simd_level()
    for wrong in ("sse2", "", "AVX2"):
        with pytest.raises(ValueError, match="portable"):
            core.set_simd_level(wrong)
    assert lk.simd_level() == before


def test_best_level_without_the_variable(run_python: RunPython) -> None:
    assert run_python(ASK).stdout.strip() == LEVELS[-1]


@pytest.mark.parametrize("level", LEVELS)
def test_environment_chooses_the_level(level: str, run_python: RunPython) -> None:
    code = (
        "import logitkit as lk, numpy as np\n"
        "x = np.linspace(-9, 9, 2048, dtype=np.float32).reshape(32, 64)\n"
        "loss, grad = lk.cross_entropy_value_and_grad(x, np.arange(32))\n"
        "print(lk.simd_level(), lk.softmax(x, 1).tobytes().hex(), grad.tobytes().hex(), loss)\n"
    )
    name, p, gradient, loss = run_python(code, LOGITKIT_SIMD=level).stdout.split()
    assert name == level
    x = np.linspace(-9, 9, 2048, dtype=np.float32).reshape(32, 64)
    expected_loss, grad = lk.cross_entropy_value_and_grad(x, np.arange(32))
    assert p == lk.softmax(x, 1).tobytes().hex()
    assert gradient == grad.tobytes().hex()
    assert loss == str(expected_loss)


@pytest.mark.parametrize("name", ["sse2", "AVX512", "avx-512", "neon;avx2", "0"])
def test_unknown_level(name: str, run_python: RunPython) -> None:
    process = run_python(ASK, check=False, LOGITKIT_SIMD=name)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: ", last), process.stderr
    for word in ("LOGITKIT_SIMD", name, *LEVELS):
        assert word in last
    assert process.stdout == ""


def test_level_that_the_cpu_lacks(run_python: RunPython) -> None:
    lacking = [level for level in ("portable", "avx2", "avx512", "neon") if level not in LEVELS]
    assert lacking, "no CPU has every level"
    for level in lacking:
        process = run_python(ASK, check=False, LOGITKIT_SIMD=level)
        assert process.returncode == 1
        last = process.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: ")
        for word in ("LOGITKIT_SIMD", level, *LEVELS):
            assert word in last


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    lk.show_config()
    shown = capsys.readouterr().out
    assert lk.__version__ in shown
    assert lk.simd_level() in shown
    assert re.search(rf"threads\D*{lk.get_num_threads()}\b", shown, re.IGNORECASE)
    assert re.search(r"cpu", shown, re.IGNORECASE)
    config = lk.show_config(mode="dicts")
    assert config["threads"] == lk.get_num_threads()
    with pytest.raises(ValueError, match="stdout"):
        lk.show_config(mode="json")
