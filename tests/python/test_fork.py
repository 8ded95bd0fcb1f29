"""After os.fork, parent and child both compute: threads do not survive a fork, the work must.

Every case runs in an interpreter of its own with a timeout, because the failure is a hang.
"""

from __future__ import annotations

import os
import sys

import pytest
from conftest import RunPython

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PRELUDE = """
import os, sys, threading, time, warnings
import numpy as np
import logitkit as lk
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
lk.set_num_threads(4)
x = np.linspace(-5, 5, 1_000_000, dtype=np.float32).reshape(-1, 1000)
labels = np.arange(1000)

def work():
    loss, grad = lk.cross_entropy_value_and_grad(x, labels)
    return lk.softmax(x, 1).tobytes(), lk.logsumexp(x, 0).tobytes(), grad.tobytes(), float(loss)

def child(task):
    pid = os.fork()
    if pid:
        return pid
    try:
        task()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def wait(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with {status}"
"""


def test_fork_after_parallel_work(run_python: RunPython) -> None:
    run_python(
        PRELUDE
        + """
expected = work()
def task():
    assert lk.get_num_threads() == 4
    for _ in range(3):
        assert work() == expected
for _ in range(10):
    wait(child(task))
    assert work() == expected
"""
    )


def test_fork_before_parallel_work(run_python: RunPython) -> None:
    run_python(
        PRELUDE
        + """
def task():
    first = work()
    assert work() == first
pids = [child(task) for _ in range(3)]
work()
for pid in pids:
    wait(pid)
"""
    )


def test_child_of_a_child(run_python: RunPython) -> None:
    run_python(
        PRELUDE
        + """
expected = work()
def inner():
    assert work() == expected
def outer():
    wait(child(inner))
    assert work() == expected
    wait(child(inner))
wait(child(outer))
assert work() == expected
"""
    )


def test_fork_while_other_threads_compute(run_python: RunPython) -> None:
    """The fork may hit the pool in the middle of work of other threads."""
    run_python(
        PRELUDE
        + """
expected = work()
stop = threading.Event()
def loop():
    while not stop.is_set():
        assert lk.softmax(x, 1).tobytes() == expected[0]
threads = [threading.Thread(target=loop) for _ in range(2)]
for thread in threads:
    thread.start()
def task():
    assert work() == expected
try:
    for _ in range(15):
        wait(child(task))
finally:
    stop.set()
    for thread in threads:
        thread.join()
assert work() == expected
""",
        timeout=90,
    )


def test_fork_inside_a_threads_block(run_python: RunPython) -> None:
    run_python(
        PRELUDE
        + """
expected = work()
def task():
    assert lk.get_num_threads() == 2
    assert work() == expected
with lk.threads(2):
    wait(child(task))
"""
    )


def test_multiprocessing(run_python: RunPython) -> None:
    run_python(
        PRELUDE
        + """
import multiprocessing
expected = work()
def task(i):
    return work() == expected
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(task, range(6)) == [True] * 6
assert work() == expected
"""
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="system libraries forbid it there")
def test_child_exits_normally(run_python: RunPython) -> None:
    """The child runs the whole interpreter shutdown, not only ``os._exit``."""
    process = run_python(
        PRELUDE
        + """
expected = work()
sys.stdout.flush()
if os.fork() == 0:
    assert work() == expected
    print("child")
    sys.exit(0)
status = os.wait()[1]
assert status == 0, status
print("parent")
"""
    )
    assert process.stdout.split() == ["child", "parent"]
