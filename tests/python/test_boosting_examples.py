"""A custom objective does what the built-in one of XGBoost and of LightGBM does, on real data."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn")

Array = npt.NDArray[Any]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(params=["xgboost", "lightgbm"])
def library(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    pytest.importorskip(name)
    return name


@pytest.fixture
def example(library: str) -> dict[str, Any]:
    """Return what the script defines."""
    return runpy.run_path(str(EXAMPLES / f"{library}_objective.py"))


def test_command(example: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert example["main"](["--quick"]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[2:]] == ["iris", "wine", "digits"]
    assert "FAILED" not in printed.err


def test_fails_when_the_objective_is_another_one(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = lk.cross_entropy_grad_hess

    def slightly_wrong(*args: Any, **options: Any) -> tuple[Array, Array]:
        grad, hess = right(*args, **options)
        return grad, hess * np.float32(1 + 1e-4)

    monkeypatch.setattr(lk, "cross_entropy_grad_hess", slightly_wrong)
    assert example["main"](["--quick"]) == 1
    assert capsys.readouterr().err.count("FAILED") == 3


def test_objective_takes_what_the_library_hands_over(
    library: str, example: dict[str, Any], rng: np.random.Generator
) -> None:
    """Scores, labels and weights as the library stores them go in without a conversion."""
    module = pytest.importorskip(library)
    x, labels = rng.normal(0, 1, (60, 4)), rng.integers(0, 3, 60)
    weight = rng.uniform(0.5, 2, 60)
    seen = []

    def objective(scores: Array, data: Any) -> tuple[Array, Array]:
        got = example["softmax_objective"](scores, data)
        want = lk.cross_entropy_grad_hess(
            np.ascontiguousarray(scores),
            labels,
            sample_weight=weight.astype(np.float32),
            hessian="upper" if library == "xgboost" else "lightgbm",
            hess_floor=1e-16 if library == "xgboost" else 0.0,
        )
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.float32
            assert a.flags.f_contiguous == scores.flags.f_contiguous
        seen.append(scores.dtype)
        return got

    parameters = example["PARAMETERS"] | {"num_class": 3}
    if library == "xgboost":
        data = module.DMatrix(x, label=labels, weight=weight)
        module.train(parameters | {"disable_default_eval_metric": True}, data, 3, obj=objective)
        assert seen == [np.float32] * 3
    else:
        data = module.Dataset(x, label=labels, weight=weight)
        module.train(parameters | {"objective": objective}, data, 3)
        assert seen == [np.float64] * 3
