"""Boost trees on real data with an objective of one's own, and compare them with XGBoost's.

    python examples/xgboost_objective.py            # trains, compares, prints a table
    python examples/xgboost_objective.py --quick    # the same with fewer rounds

XGBoost's ``multi:softprob`` gives every tree the gradient ``p - onehot`` of the cross-entropy and
the Hessian ``max(2 p (1 - p), 1e-16)``. That is ``cross_entropy_grad_hess`` with
``hessian="upper"`` and ``hess_floor=1e-16``: the function below is the whole objective. Both models
start at the same scores, ``base_score=0``: left out, XGBoost would choose a start for its own
objective only. What an objective of one's own does not get is the step from scores to
probabilities in ``predict``, so the scores (margins) are compared, and the softmax of both.

XGBoost calls Python once a round. On small data that call is what a round costs more than with the
built-in objective; the function itself takes microseconds.

The data are scikit-learn's iris, wine and digits, a quarter of each held out. The extra
``pipelines`` of the package installs what is needed. The exit status is 1 when the held-out
predictions differ by more than the rounding of float32 scores accounts for.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import logitkit as lk
import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]

DATA = {"iris": load_iris, "wine": load_wine, "digits": load_digits}
ROUNDS = 20
PARAMETERS: dict[str, Any] = {"base_score": 0.0, "max_depth": 4, "nthread": 1, "seed": 0}

TOLERANCE = 16 * float(np.finfo(np.float32).eps)
"""Of the largest score: each is a float32 sum over the rounds."""


def softmax_objective(scores: Floats, data: xgb.DMatrix) -> tuple[Floats, Floats]:
    """Return gradient and Hessian of the cross-entropy: all that XGBoost asks of an objective."""
    weight = data.get_weight()
    return lk.cross_entropy_grad_hess(
        scores,
        data.get_label(),
        sample_weight=weight if weight.size else None,
        hessian="upper",
        hess_floor=1e-16,
    )


class Comparison(NamedTuple):
    """Held-out scores and the seconds of training, of XGBoost's own objective and of ours."""

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
    data, held_out = xgb.DMatrix(x_train, label=y_train), xgb.DMatrix(x_test)
    parameters = PARAMETERS | {"num_class": int(y.max()) + 1}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        begin = time.perf_counter()
        built_in = xgb.train(parameters | {"objective": "multi:softprob"}, data, rounds)
        middle = time.perf_counter()
        ours = xgb.train(
            parameters | {"disable_default_eval_metric": True}, data, rounds, obj=softmax_objective
        )
        times[0].append(middle - begin)
        times[1].append(time.perf_counter() - middle)
    return Comparison(
        built_in.predict(held_out, output_margin=True),
        ours.predict(held_out, output_margin=True),
        float(np.median(times[0])),
        float(np.median(times[1])),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare on every data set; 0 when all predictions agree, else 1."""
    parser = argparse.ArgumentParser(description="A custom objective beside XGBoost's own.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter timings")
    options = parser.parse_args(argv)
    rounds, repeats = (5, 1) if options.quick else (ROUNDS, 5)

    print(f"{rounds} rounds, one thread     largest difference         time of training")
    print("          held out  classes   score   probability     XGBoost   logitkit")
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
