"""Threads: how many, who decides, that Python goes on meanwhile, and that nothing hangs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import logitkit as lk
import numpy as np
import pytest
from conftest import RunPython
from layouts import bits

pytestmark = pytest.mark.usefixtures("keep_settings")

COUNT = "import logitkit; print(logitkit.get_num_threads())"


# --- who decides ---------------------------------------------------------------------------------


def test_set_num_threads() -> None:
    for n in (1, 2, 7, np.int64(3)):
        lk.set_num_threads(n)
        assert lk.get_num_threads() == n
        assert type(lk.get_num_threads()) is int


def test_context_restores_what_was() -> None:
    lk.set_num_threads(5)
    with lk.threads(2):
        assert lk.get_num_threads() == 2
        with lk.threads(3):
            assert lk.get_num_threads() == 3
        assert lk.get_num_threads() == 2
        lk.set_num_threads(6)
        assert lk.get_num_threads() == 2
    assert lk.get_num_threads() == 6


def test_context_restores_after_an_exception() -> None:
    before = lk.get_num_threads()
    with pytest.raises(KeyError), lk.threads(before + 3):
        raise KeyError
    assert lk.get_num_threads() == before


def test_context_is_for_one_thread() -> None:
    lk.set_num_threads(4)
    with lk.threads(2), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lk.get_num_threads).result() == 4
        assert lk.get_num_threads() == 2

        def inner() -> int:
            with lk.threads(9):
                return lk.get_num_threads()

        assert pool.submit(inner).result() == 9
        assert pool.submit(lk.get_num_threads).result() == 4
        assert lk.get_num_threads() == 2


def test_set_num_threads_is_for_all_threads() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lk.set_num_threads, 3).result()
    assert lk.get_num_threads() == 3


@pytest.mark.parametrize("function", [lk.set_num_threads, lk.threads])
@pytest.mark.parametrize("n", [0, -1, -(10**30)])
def test_too_few_threads(function: Any, n: int) -> None:
    before = lk.get_num_threads()
    with pytest.raises(ValueError, match=rf"{n}\b"):
        function(n)
    assert lk.get_num_threads() == before


@pytest.mark.parametrize("function", [lk.set_num_threads, lk.threads])
@pytest.mark.parametrize("n", [1.0, 2.5, "2", None, [2]])
def test_thread_count_that_is_no_integer(function: Any, n: Any) -> None:
    before = lk.get_num_threads()
    with pytest.raises(TypeError):
        function(n)
    assert lk.get_num_threads() == before


def test_more_threads_than_any_work_needs() -> None:
    x = np.zeros((3000, 100), dtype=np.float32)
    with lk.threads(10_000):
        assert 1 <= lk.get_num_threads() <= 10_000
        assert lk.softmax(x, 1).sum() == pytest.approx(3000, rel=1e-5)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LOGITKIT_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"LOGITKIT_NUM_THREADS": "1", "OMP_NUM_THREADS": "5"}, 1),
    ],
)
def test_environment(environment: dict[str, str], expected: int, run_python: RunPython) -> None:
    assert run_python(COUNT, **environment).stdout.strip() == str(expected)


def test_functions_override_the_environment(run_python: RunPython) -> None:
    code = (
        "import logitkit as lk\n"
        "lk.set_num_threads(2)\n"
        "print(lk.get_num_threads())\n"
        "with lk.threads(4): print(lk.get_num_threads())\n"
    )
    assert run_python(code, LOGITKIT_NUM_THREADS="7").stdout.split() == ["2", "4"]


def test_default_is_the_number_of_cpus(run_python: RunPython) -> None:
    count = int(run_python(COUNT).stdout)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert available is not None
    assert 1 <= count <= available


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_affinity(run_python: RunPython) -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + COUNT
    assert run_python(code).stdout.strip() == "1"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_no_thread_before_there_is_work_and_not_more_than_asked(run_python: RunPython) -> None:
    code = """
import os
import numpy as np
count = lambda: len(os.listdir("/proc/self/task"))
x = np.zeros((4000, 500), dtype=np.float32)
before = count()
import logitkit as lk
assert count() == before, "threads at import"
lk.set_num_threads(3)
lk.softmax(x[:10], 1)
assert count() == before, "threads for small work"
with lk.threads(1):
    lk.softmax(x, 1)
assert count() == before, "threads although one was asked for"
for _ in range(5):
    lk.softmax(x, 1)
    lk.softmax(x, 0)
assert count() <= before + 2, f"{count() - before} threads beside the caller"
"""
    run_python(code, OPENBLAS_NUM_THREADS="1")


# --- other Python threads ------------------------------------------------------------------------


@pytest.fixture
def patient_interpreter() -> Iterator[None]:
    """Keep the interpreter from taking the GIL away from a thread that does not release it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


CALLS = {
    "softmax": lambda x, labels: lk.softmax(x, 1),
    "log_softmax over columns": lambda x, labels: lk.log_softmax(x, 0),
    "logsumexp": lambda x, labels: lk.logsumexp(x, 1),
    "softmax_backward": lambda x, labels: lk.softmax_backward(x, x, 1),
    "cross_entropy": lambda x, labels: lk.cross_entropy(x, labels),
    "cross_entropy gradient": lambda x, labels: lk.cross_entropy_value_and_grad(x, labels),
    "cross_entropy of t": lambda x, labels: lk.cross_entropy_value_and_grad(x, x),
    "mse": lambda x, labels: lk.mse_loss_value_and_grad(x, x),
    "classification_error": lambda x, labels: lk.classification_error(x, labels),
}


@pytest.mark.usefixtures("patient_interpreter")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_python_goes_on_during_a_call(name: str, count: int) -> None:
    """Another thread runs Python while a call computes: the call has released the GIL."""
    call = CALLS[name]
    x = np.full((2000, 1000), 0.25)
    labels = np.zeros(2000, dtype=np.int64)
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0001)

    with lk.threads(count):
        call(x, labels)
        other = threading.Thread(target=tick)
        other.start()
        before = ticks
        try:
            for _ in range(300):
                call(x, labels)
                if ticks > before + 1:
                    break
        finally:
            stop.set()
            seen = ticks
            other.join()
    assert seen > before + 1


def test_calls_from_many_threads(rng: np.random.Generator) -> None:
    """Concurrent calls, small and large, hold the results that single calls have."""
    lk.set_num_threads(3)
    shapes = [(1, 10), (600, 300), (40, 5000), (9000, 10), (5, 7), (100_001, 3)]
    inputs = [rng.normal(0, 5, shape).astype(np.float32) for shape in shapes]
    labels = [rng.integers(0, shape[1], shape[0]) for shape in shapes]

    def work(i: int) -> tuple[Any, ...]:
        x, y = inputs[i % len(inputs)], labels[i % len(inputs)]
        loss, grad = lk.cross_entropy_value_and_grad(x, y)
        return bits(lk.softmax(x, i % 2)), bits(lk.logsumexp(x, 1)), bits(loss), bits(grad)

    expected = [work(i) for i in range(12)]
    with ThreadPoolExecutor(8) as pool:
        for i, got in enumerate(pool.map(work, range(96))):
            assert got == expected[i % 12], f"call {i}"


def test_different_thread_counts_at_once(rng: np.random.Generator) -> None:
    x = rng.normal(0, 5, (3000, 200)).astype(np.float32)
    expected = bits(lk.softmax(x, 1))

    def work(n: int) -> bool:
        with lk.threads(n):
            return all(bits(lk.softmax(x, 1)) == expected for _ in range(10))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, [1, 2, 3, 8, 1, 16]))


def test_changing_the_count_all_the_time(rng: np.random.Generator) -> None:
    x = rng.normal(0, 5, (2000, 200)).astype(np.float32)
    expected = bits(lk.softmax(x, 1))
    for n in [1, 8, 2, 5, 1, 3, 16, 2] * 4:
        lk.set_num_threads(n)
        assert bits(lk.softmax(x, 1)) == expected


def test_an_error_in_one_thread_leaves_the_others(rng: np.random.Generator) -> None:
    x = rng.normal(0, 5, (3000, 100)).astype(np.float32)
    good = rng.integers(0, 100, 3000)
    bad = good.copy()
    bad[-1] = 100
    expected = bits(lk.cross_entropy(x, good))

    def work(i: int) -> bool:
        if i % 2:
            with pytest.raises(IndexError):
                lk.cross_entropy(x, bad)
            return True
        return bits(lk.cross_entropy(x, good)) == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


# --- the end -------------------------------------------------------------------------------------


def test_exit_after_parallel_work(run_python: RunPython) -> None:
    code = """
import numpy as np, logitkit as lk
lk.set_num_threads(4)
print(lk.softmax(np.zeros((4000, 100), dtype=np.float32), 1).sum().round())
"""
    assert run_python(code, timeout=30).stdout.strip() == "4000.0"


@pytest.mark.parametrize("count", [1, 4])
def test_exit_while_a_daemon_thread_computes(count: int, run_python: RunPython) -> None:
    code = f"""
import threading, time
import numpy as np, logitkit as lk
lk.set_num_threads({count})
x = np.zeros((4000, 500), dtype=np.float32)
started = threading.Event()
def work():
    while True:
        lk.softmax(x, 1)
        started.set()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep(0.05)
print("done")
"""
    process = run_python(code, timeout=30)
    assert process.stdout.strip() == "done"
    assert process.stderr == ""


def test_exit_with_a_waiting_thread_pool(run_python: RunPython) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np, logitkit as lk
lk.set_num_threads(2)
x = np.zeros((4000, 100), dtype=np.float32)
pool = ThreadPoolExecutor(4)
futures = [pool.submit(lk.softmax, x, 1) for _ in range(20)]
print("done")
"""
    assert run_python(code, timeout=30).stdout.strip() == "done"


def test_work_during_exit(run_python: RunPython) -> None:
    code = """
import atexit
import numpy as np, logitkit as lk
lk.set_num_threads(4)
x = np.zeros((4000, 100), dtype=np.float32)
lk.softmax(x, 1)
atexit.register(lambda: print(lk.softmax(x, 1).sum().round()))
"""
    assert run_python(code, timeout=30).stdout.strip() == "4000.0"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_interrupt_is_delivered_after_a_call(run_python: RunPython) -> None:
    """A signal reaches the main thread, not a worker, and Python's handler runs."""
    code = """
import os, signal
import numpy as np, logitkit as lk
lk.set_num_threads(4)
x = np.zeros((4000, 500), dtype=np.float32)
lk.softmax(x, 1)
# A job that a shell runs in the background starts with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while len(seen) < 20:
    lk.softmax(x, 1)
signal.setitimer(signal.ITIMER_REAL, 0)
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        lk.softmax(x, 1)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run_python(code, timeout=60).stdout.strip() == "interrupted"
