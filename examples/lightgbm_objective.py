"""Boost trees on real data with an objective of one's own, and compare them with LightGBM's.

    python examples/lightgbm_objective.py            # trains, compares, prints a table
    python examples/lightgbm_objective.py --quick    # the same with fewer rounds

LightGBM's ``multiclass`` gives every tree the gradient ``p - onehot`` of the cross-entropy and the
Hessian ``K / (K - 1) p (1 - p)`` for K classes. That is ``cross_entropy_grad_hess`` with
``hessian="lightgbm"``: the function below is the whole objective. The scores come in as float64 in
Fortran order; the results go back as float32 in the same order, without a copy on the way. Both
models start from scores of 0, ``boost_from_average=False``: left out, LightGBM would start its own
objective from the logarithms of the class frequencies. What an objective of one's own does not get
is the step from scores to probabilities in ``predict``, so the raw scores are compared, and the
softmax of both.

The data are scikit-learn's iris, wine and digits, a quarter of each held out. The extra
``pipelines`` of the package installs what is needed. The exit status is 1 when the held-out
predictions differ by more than the rounding of float32 gradients accounts for.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import lightgbm as lgb
import logitkit as lk
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]

DATA = {"iris": load_iris, "wine": load_wine, "digits": load_digits}
ROUNDS = 20
PARAMETERS: dict[str, Any] = {
    "boost_from_average": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_leaves": 15,
    "num_threads": 1,
    "seed": 0,
    "verbose": -1,
}

TOLERANCE = 16 * float(np.finfo(np.float32).eps)
"""Of the largest score: gradients and Hessians are float32 on both sides."""


def softmax_objective(scores: Floats, data: lgb.Dataset) -> tuple[Floats, Floats]:
    """Return gradient and Hessian of the cross-entropy: all that LightGBM asks of an objective."""
    return lk.cross_entropy_grad_hess(
        scores, data.get_label(), sample_weight=data.get_weight(), hessian="lightgbm"
    )


class Comparison(NamedTuple):
    """Held-out scores and the seconds of training, of LightGBM's own objective and of ours."""

    built_in: Floats
    ours: Floats
    built_in_seconds: float
    our_seconds: float

    @property
    def difference(self) -> float:
        """The largest difference of two scores, over the largest score."""
        return float(np.abs(self.built_in - self.ours).max() / np.abs(self.built_in).max())

    @property
    def probability_difference(self) -> float:
        """The largest difference of two probabilities."""
        built_in, ours = (lk.softmax(scores, axis=1) for scores in (self.built_in, self.ours))
        return float(np.abs(built_in - ours).max())


def compare(name: str, rounds: int, repeats: int) -> Comparison:
    """Train both models on a data set, taking turns, and predict what was held out."""
    x, y = DATA[name](return_X_y=True)
    x_train, x_test, y_train, _ = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    parameters = PARAMETERS | {"num_class": int(y.max()) + 1}
    data = lgb.Dataset(x_train, label=y_train, params=PARAMETERS).construct()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        begin = time.perf_counter()
        built_in = lgb.train(parameters | {"objective": "multiclass"}, data, rounds)
        middle = time.perf_counter()
        ours = lgb.train(parameters | {"objective": softmax_objective}, data, rounds)
        times[0].append(middle - begin)
        times[1].append(time.perf_counter() - middle)
    return Comparison(
        np.asarray(built_in.predict(x_test, raw_score=True)),
        np.asarray(ours.predict(x_test, raw_score=True)),
        float(np.median(times[0])),
        float(np.median(times[1])),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare on every data set; 0 when all predictions agree, else 1."""
    parser = argparse.ArgumentParser(description="A custom objective beside LightGBM's own.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter timings")
    options = parser.parse_args(argv)
    rounds, repeats = (5, 1) if options.quick else (ROUNDS, 5)

    print(f"{rounds} rounds, one thread     largest difference         time of training")
    print("          held out  classes   score   probability    LightGBM   logitkit")
    failures = []
    for name in DATA:
        result = compare(name, rounds, repeats)
        held_out, classes = result.ours.shape
        built_in, ours = 1e3 * result.built_in_seconds, 1e3 * result.our_seconds
        print(
            f"{name:<8}{held_out:10}{classes:9}{result.difference:10.1e}"
            f"{result.probability_difference:12.1e}{built_in:9.1f} ms{ours:8.1f} ms"
        )
        if not result.difference <= TOLERANCE:
            failures.append(f"{name}: scores differ by {result.difference:.1e} of the largest")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
