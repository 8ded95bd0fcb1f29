"""What only a process of its own can tell: memory beyond the operands, and the import."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from compare_targets import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY_OPERATIONS = ("softmax", "log_softmax", "logsumexp", "cross_entropy_value_and_grad")
MEMORY_SHAPES = ((16384, 1000), (16, 1_000_000))
SCRATCH_KB = 256
"""What a thread may keep beside two rows."""

IMPORT_MS = 30
"""How much longer than NumPy's the import may take."""

MEASURE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
import logitkit as lk

name, rows, classes, threads = sys.argv[1], *map(int, sys.argv[2:])
lk.set_num_threads(threads)
x = np.empty((rows, classes), np.float32)
x[:] = np.random.default_rng(0).standard_normal(classes, np.float32)
out = np.zeros(rows, np.float32) if name == "logsumexp" else np.zeros_like(x)
out.fill(1)
labels = np.zeros(rows, np.int64)
labels.fill(1)

def call(rows, classes):
    a, y = x[:rows, :classes], out[:rows] if out.ndim == 1 else out[:rows, :classes]
    if name == "cross_entropy_value_and_grad":
        lk.cross_entropy_value_and_grad(a, labels[:rows], grad_out=y)
    else:
        getattr(lk, name)(a, 1, out=y)

def kilobytes(key):
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(key + ":")[1].split()[0])

call(1, 10)
Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
before = kilobytes("VmRSS")
if kilobytes("VmHWM") <= before + 64:
    call(rows, classes)
    print(max(0, kilobytes("VmHWM") - before))
"""

MEASURE_IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def run_script(script: str, *arguments: str) -> str:
    """What the script prints."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def memory(name: str, shape: tuple[int, int], threads: int) -> float | None:
    """Kilobytes by which a call with its output given raises the peak; None if not told here."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    try:
        printed = run_script(MEASURE_MEMORY, name, *map(str, (*shape, threads)))
    except subprocess.CalledProcessError:
        return None
    return float(printed) if printed else None


def memory_outcome(name: str, shape: tuple[int, int], threads: int, label: str) -> Outcome:
    """Whether a call keeps to its scratch memory."""
    bound = threads * (2 * shape[1] * 4 / 1024 + SCRATCH_KB)
    used = memory(name, shape, threads)
    target = f"<= 2 rows and {SCRATCH_KB} KB a thread: {bound:.0f} KB"
    met = None if used is None else used <= bound
    return Outcome("memory", label, threads, target, ((used,),), met, "KB")


def import_outcome(rounds: int, threads: int, label: str) -> Outcome:
    """How much longer logitkit's import takes than NumPy's, which it contains."""
    seconds: dict[str, list[float]] = {"numpy": [], "logitkit": []}
    for _ in range(rounds):
        for module, times in seconds.items():
            times.append(float(run_script(MEASURE_IMPORT.format(module=module))))
    more = 1e3 * (median(seconds["logitkit"]) - median(seconds["numpy"]))
    target = f"<= {IMPORT_MS} ms beyond NumPy's"
    return Outcome("import", label, threads, target, ((more,),), more <= IMPORT_MS, "ms")


def probes(
    threads: int, rounds: int, check: bool
) -> Iterator[tuple[str, str, Callable[[], Outcome]]]:
    """The section, the label and the measurement of each."""
    for shape in ((7, 101),) if check else MEMORY_SHAPES:
        for name in MEMORY_OPERATIONS:
            label = f"{name}/out/{shape[0]}x{shape[1]}"
            yield "memory", label, partial(memory_outcome, name, shape, threads, label)
    label = "import/logitkit"
    yield "import", label, partial(import_outcome, rounds, threads, label)
