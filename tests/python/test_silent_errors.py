"""Wrong results that other libraries return without a warning, and the right ones from this one.

What the installed libraries return is printed (``pytest -rP``), not tested: it may be mended.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A call of this package, the truth, and the same call elsewhere: by modules to import."""

    ours: Callable[[], Any]
    truth: Any
    rtol: float
    theirs: dict[tuple[str, ...], Callable[..., Any]] = field(default_factory=dict)


def bfloat16() -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16


CONFIDENT = np.array([[17, 0, 0]], dtype=np.float32)
LOSS = float(np.log1p(2 * np.exp(-17.0)))
SCIPY, TORCH, JAX = ("scipy.special",), ("torch",), ("jax", "jax.numpy")


def torch_cross_entropy(torch: Any) -> tuple[Any, Any]:
    """Return torch's loss and gradient of the confident row."""
    logits = torch.tensor(CONFIDENT, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
    loss.backward()
    return loss.detach(), logits.grad


CASES = {
    "softmax of uint8": Case(
        lambda: lk.softmax(np.array([0, 255, 1], dtype=np.uint8)),
        [np.exp(-255.0), 1, np.exp(-254.0)],
        1e-15,
        {
            SCIPY: lambda special: special.softmax(np.array([0, 255, 1], dtype=np.uint8)),
            JAX: lambda jax, jnp: jax.nn.softmax(jnp.array([0, 255, 1], dtype=jnp.uint8)),
        },
    ),
    "softmax of many bfloat16 classes": Case(
        lambda: lk.softmax(np.zeros(70_000, dtype=bfloat16()))[0],
        1 / 70_000,
        2**-8,
        {
            SCIPY: lambda special: special.softmax(np.zeros(70_000, dtype=bfloat16()))[0],
            TORCH: lambda torch: torch.zeros(70_000, dtype=torch.bfloat16).softmax(0)[0],
            JAX: lambda jax, jnp: jax.nn.softmax(jnp.zeros(70_000, jnp.bfloat16))[0],
        },
    ),
    "logsumexp of many float16 classes": Case(
        lambda: lk.logsumexp(np.zeros(70_000, dtype=np.float16)),
        np.log(70_000),
        2**-11,
        {
            SCIPY: lambda special: special.logsumexp(np.zeros(70_000, dtype=np.float16)),
            TORCH: lambda torch: torch.zeros(70_000, dtype=torch.float16).logsumexp(0),
            JAX: lambda jax, jnp: jax.nn.logsumexp(jnp.zeros(70_000, jnp.float16)),
        },
    ),
    "logsumexp with weights that span magnitudes": Case(
        lambda: lk.logsumexp([0, -800], b=[1e-320, 1e300]),
        300 * np.log(10) - 800,
        2.1e-15,  # two units of the last place of 800
        {SCIPY: lambda special: special.logsumexp([0, -800], b=[1e-320, 1e300])},
    ),
    "logsumexp of a dominated row": Case(
        lambda: lk.logsumexp([0.0, -40.0]),
        np.log1p(np.exp(-40.0)),
        1e-15,
        {
            SCIPY: lambda special: special.logsumexp([0.0, -40.0]),
            TORCH: lambda torch: torch.tensor([0.0, -40.0]).double().logsumexp(0),
            JAX: lambda jax, jnp: jax.nn.logsumexp(jnp.array([0.0, -40.0])),
        },
    ),
    "cross-entropy of a confident row": Case(
        lambda: lk.cross_entropy(CONFIDENT, [0]),
        LOSS,
        2e-7,
        {
            SCIPY: lambda special: -special.log_softmax(CONFIDENT, 1)[0, 0],
            TORCH: lambda torch: torch_cross_entropy(torch)[0],
            JAX: lambda jax, jnp: -jax.nn.log_softmax(jnp.array(CONFIDENT))[0, 0],
        },
    ),
    "gradient of the cross-entropy of a confident row": Case(
        lambda: lk.cross_entropy_value_and_grad(CONFIDENT, [0])[1],
        [[np.expm1(-LOSS), np.exp(-17 - LOSS), np.exp(-17 - LOSS)]],
        4e-7,
        {
            TORCH: lambda torch: torch_cross_entropy(torch)[1],
            JAX: lambda jax, jnp: jax.grad(lambda x: -jax.nn.log_softmax(x)[0, 0])(
                jnp.array(CONFIDENT)
            ),
        },
    ),
}


def answer(modules: tuple[str, ...], call: Callable[..., Any]) -> str:
    """Return what another library says, in words."""
    try:
        imported = [importlib.import_module(name) for name in modules]
    except ImportError:
        return "not installed"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return str(call(*imported))


@pytest.mark.parametrize("name", CASES)
def test_silent_error(name: str) -> None:
    case = CASES[name]
    got = case.ours()
    for modules, call in case.theirs.items():
        print(f"{modules[0].partition('.')[0]}: {answer(modules, call)}")
    print(f"logitkit: {got}, truth: {case.truth}")
    np.testing.assert_allclose(np.asarray(got, dtype=np.float64), case.truth, rtol=case.rtol)
