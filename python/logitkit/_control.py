"""How many threads, which instruction set, and what a bug report needs to know."""

from __future__ import annotations

import contextlib
import operator
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _logitkit_core as _core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["get_num_threads", "set_num_threads", "show_config", "simd_level", "threads"]


def get_num_threads() -> int:
    """Return the largest number of threads that a call from this thread may use.

    The first of these that is set decides: the `threads` context around the call,
    `set_num_threads`, the environment variables ``LOGITKIT_NUM_THREADS`` and
    ``OMP_NUM_THREADS``, and last the number of CPUs that the process may run on. A variable that
    does not begin with a positive whole number counts as not set.

    Small arrays are computed on the calling thread alone, whatever the number. The results have
    the same bits for every number of threads.

    Returns
    -------
    int
        At least 1.

    See Also
    --------
    set_num_threads : Set it for the whole process.
    threads : Set it for the calling thread, for a while.

    Examples
    --------
    >>> import logitkit as lk
    >>> lk.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the largest number of threads for all calls from this process.

    Parameters
    ----------
    n : int
        At least 1; 1 keeps every call on the thread that makes it.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    See Also
    --------
    threads : The same for the calling thread, for a while.

    Examples
    --------
    >>> import logitkit as lk
    >>> former = lk.get_num_threads()
    >>> lk.set_num_threads(2)
    >>> lk.get_num_threads()
    2
    >>> lk.set_num_threads(former)
    """
    _core.set_num_threads(_checked_count(n))


def threads(n: int) -> AbstractContextManager[None]:
    """Limit the calling thread's calls to `n` threads within a ``with`` block.

    Other threads of the process are not affected. Blocks may be nested: the innermost decides.

    Parameters
    ----------
    n : int
        At least 1; 1 keeps every call on the thread that makes it.

    Returns
    -------
    context manager
        To be entered and left on the same thread.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import logitkit as lk
    >>> with lk.threads(1):
    ...     lk.get_num_threads()
    1
    """
    return _thread_override(_checked_count(n))


@contextlib.contextmanager
def _thread_override(n: int) -> Iterator[None]:
    former = _core.set_thread_override(n)
    try:
        yield
    finally:
        _core.set_thread_override(former)


def _checked_count(n: Any) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads must be an integer, got {n!r}") from None
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, got {count}")
    return count


def simd_level() -> str:
    """Return the name of the instruction set that the kernels use.

    It is the best one that the CPU has, unless the environment variable ``LOGITKIT_SIMD`` named a
    lower one when logitkit was imported. The results have the same bits at every level.

    Returns
    -------
    str
        For example ``'avx512'``, ``'avx2'`` or ``'portable'``.

    Examples
    --------
    >>> import logitkit as lk
    >>> lk.simd_level() in ("portable", "avx2", "avx512")
    True
    """
    return _core.simd_level()


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print what a bug report needs: versions, CPU, instruction sets and threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Whether to print the entries or to return them, as in `numpy.show_config`.

    Returns
    -------
    dict or None
        With ``mode="dicts"`` a new dict of the entries.

    Raises
    ------
    ValueError
        If `mode` is neither of the two.

    Examples
    --------
    >>> import logitkit as lk
    >>> sorted(lk.show_config(mode="dicts"))  # doctest: +NORMALIZE_WHITESPACE
    ['cpu', 'environment', 'logitkit', 'numpy', 'platform', 'python', 'simd level',
     'simd levels', 'threads']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be one of 'stdout', 'dicts'; got {mode!r}")
    import platform  # here, for a light import of the package

    config: dict[str, Any] = {
        "logitkit": _core.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _core.cpu_name(),
        "simd level": _core.simd_level(),
        "simd levels": _core.simd_levels(),
        "threads": _core.get_num_threads(),
        "environment": {
            name: os.environ[name]
            for name in ("LOGITKIT_SIMD", "LOGITKIT_NUM_THREADS", "OMP_NUM_THREADS")
            if name in os.environ
        },
    }
    if mode == "dicts":
        return config
    for name, entry in config.items():
        print(f"{name + ':':<13}{_line(entry)}")
    return None


def _line(entry: Any) -> str:
    if isinstance(entry, dict):
        return " ".join(f"{name}={value}" for name, value in entry.items()) or "-"
    return " ".join(entry) if isinstance(entry, list) else str(entry)
