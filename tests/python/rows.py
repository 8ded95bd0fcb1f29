"""The rows that the numerical tests share: families of logits, each hard in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Family = Callable[[np.random.Generator, int, int, Any], Array]

SHORT = tuple(range(1, 71))
LONG = (100, 127, 128, 129, 255, 256, 257, 1000, 1023, 1025, 2500, 4099)


def margins(dtype: Any) -> Array:
    """Return margins by which one class leads, from 5 to where the others vanish altogether."""
    reach = 100 if np.dtype(dtype) == np.float32 else 740
    return np.concatenate([np.arange(5, 41), np.linspace(41, reach, 60)])


def normal(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return rng.normal(0, 3, (n, c)).astype(dtype)


def wide(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return rng.normal(0, 20, (n, c)).astype(dtype)


def tiny(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return rng.normal(0, 1e-4, (n, c)).astype(dtype)


def ties(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Few different values, so that the maximum is shared; the first rows are constant."""
    x = rng.integers(-2, 2, (n, c)) * rng.normal(0, 10, (n, 1))
    x[: n // 4] = x[: n // 4, :1]
    return x.astype(dtype)


def close(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Every logit a few units in the last place from one number."""
    centre = rng.normal(0, 5, (n, 1)).astype(dtype)
    step = np.spacing(np.abs(centre)) * rng.integers(-3, 4, (n, c))
    return (centre + step).astype(dtype)


def offset(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Ordinary differences far from 0."""
    centre = rng.choice([-1e5, -3e3, -100, 100, 3e3, 1e5], (n, 1))
    return (rng.normal(0, 3, (n, c)) + centre).astype(dtype)


def spread(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Results from 1 down through the subnormal range to 0."""
    reach = 110 if np.dtype(dtype) == np.float32 else 760
    return rng.uniform(-reach, 0, (n, c)).astype(dtype)


def dominated(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """One class leads by a margin, anywhere in the row."""
    x = rng.normal(0, 1, (n, c))
    lead = rng.choice(margins(dtype), n)
    x[np.arange(n), rng.integers(0, c, n)] = x.max(axis=1) + lead
    return x.astype(dtype)


def rivals(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Two classes nearly tied, the others behind by a margin."""
    x = rng.normal(0, 1, (n, c)) - rng.choice(margins(dtype), (n, 1))
    x[np.arange(n), rng.integers(0, c, n)] = 0
    x[np.arange(n), rng.integers(0, c, n)] = rng.uniform(-1, 1, n)
    return x.astype(dtype)


def _masked(rng: np.random.Generator, n: int, c: int, dtype: Any, value: float) -> Array:
    x = rng.normal(0, 5, (n, c)).astype(dtype)
    hidden = rng.random((n, c)) < 0.5
    hidden[np.arange(n), rng.integers(0, c, n)] = False
    x[hidden] = value
    return x


def masked_billion(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return _masked(rng, n, c, dtype, -1e9)


def masked_lowest(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return _masked(rng, n, c, dtype, float(np.finfo(dtype).min))


def masked_infinity(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return _masked(rng, n, c, dtype, -np.inf)


def subnormal(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Logits in the subnormal range, zeros of both signs among them."""
    smallest = np.finfo(dtype).smallest_subnormal
    x = (smallest * rng.integers(-1000, 1000, (n, c))).astype(dtype)
    return np.where(rng.random((n, c)) < 0.2, np.asarray(-0.0, dtype=dtype), x)


def huge(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Logits up to the largest finite number: differences are huge, exact ties aside."""
    largest = float(np.finfo(dtype).max)
    x = rng.choice([-1, 1, 1e-3, -1e-20], (n, c)) * rng.choice([largest, largest / 3, 1e7], (n, 1))
    return x.astype(dtype)


def any_spread(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Standard deviations from 0.1 to 1000, one a row."""
    return (rng.normal(0, 1, (n, c)) * np.geomspace(0.1, 1000, n)[:, None]).astype(dtype)


def far(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Any distance from 0 up to 1e30: beyond some of them the logits are equal."""
    centre = rng.choice([-1, 1], (n, 1)) * 10 ** rng.uniform(0, 30, (n, 1))
    return (rng.normal(0, 10, (n, c)) + centre).astype(dtype)


def rising(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """Sorted, by steps of up to 30."""
    step = np.geomspace(1e-4, 30, n)[:, None]
    return (rng.normal(0, 5, (n, 1)) + step * np.arange(c)).astype(dtype)


def falling(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    return rising(rng, n, c, dtype)[:, ::-1].copy()


def outnumbered(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """One large class against about as much of all others together."""
    x = rng.normal(0, 0.5, (n, c))
    x[np.arange(n), rng.integers(0, c, n)] = np.log(c) + rng.uniform(-2, 6, n)
    return x.astype(dtype)


def cancelling(rng: np.random.Generator, n: int, c: int, dtype: Any) -> Array:
    """The logarithm of a sum near 1: maximum and logarithm cancel."""
    return (rng.normal(0, 1e-3, (n, c)) - np.log(c)).astype(dtype)


FAMILIES: dict[str, Family] = {
    f.__name__: f
    for f in (
        normal,
        wide,
        tiny,
        ties,
        close,
        offset,
        spread,
        dominated,
        rivals,
        masked_billion,
        masked_lowest,
        masked_infinity,
        subnormal,
        huge,
        any_spread,
        far,
        rising,
        falling,
        outnumbered,
        cancelling,
    )
}
