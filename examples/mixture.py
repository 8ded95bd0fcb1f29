"""Fit a Gaussian mixture to the iris flowers, its E-step one call of log_softmax.

    python examples/mixture.py

With the log-density of every flower in every component plus the log of the component's weight,
``weighted_log_prob`` of shape (flowers, components), the E-step of [1]_, section 9.2.2, is

    log_resp, log_likelihood = lk.log_softmax(weighted_log_prob, axis=1, return_lse=True)

log_resp holds the logarithms of the responsibilities (equation 9.23), and log_likelihood the
log-density of every flower under the mixture (the terms of equation 9.28): both from one pass. An
outlier a thousand units away costs no digits, where exponentials of the log-densities would
underflow to 0 / 0.

It is compared with scikit-learn's `GaussianMixture` twice: one E-step of a fitted mixture, outliers
included, and the log-likelihood after each of some EM iterations from the same start. The exit
status is 1 when they differ by more than rounding, or when an iteration lowers the log-likelihood.

.. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import TYPE_CHECKING, NamedTuple

import logitkit as lk
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating]

COMPONENTS = 3
ITERATIONS = 30
REGULARISATION = 1e-6
"""Added to the diagonal of every covariance, as scikit-learn does by default."""

TOLERANCE = 1e-12
"""Relative: the densities go through a Cholesky factor, which amplifies rounding."""


class Mixture(NamedTuple):
    """Weights (components,), means (components, features), and one covariance per component."""

    weights: Floats
    means: Floats
    covariances: Floats


# --- expectation maximisation ---------------------------------------------------------------------


def weighted_log_prob(x: Floats, mixture: Mixture) -> Floats:
    """Return the log-density of each row in each component plus the log of its weight."""
    columns = []
    for weight, mean, covariance in zip(*mixture, strict=True):
        factor = scipy.linalg.cholesky(covariance, lower=True)
        whitened = scipy.linalg.solve_triangular(factor, (x - mean).T, lower=True)
        log_det = 2 * np.log(np.diag(factor)).sum()
        distance = np.square(whitened).sum(axis=0)
        columns.append(np.log(weight) - 0.5 * (distance + log_det + x.shape[1] * np.log(2 * np.pi)))
    return np.stack(columns, axis=1)


def e_step(x: Floats, mixture: Mixture) -> tuple[Floats, Floats]:
    """Return log-responsibilities (rows, components) and log-likelihoods (rows,)."""
    log_resp, log_likelihood = lk.log_softmax(
        weighted_log_prob(x, mixture), axis=1, return_lse=True
    )
    return log_resp, log_likelihood


def m_step(x: Floats, resp: Floats) -> Mixture:
    """Return the mixture that is most likely, given the responsibilities."""
    size = resp.sum(axis=0)
    means = resp.T @ x / size[:, np.newaxis]
    ridge = REGULARISATION * np.eye(x.shape[1])
    centred = x - means[:, np.newaxis]  # (components, rows, features)
    scatter = np.einsum("nk,kni,knj->kij", resp, centred, centred, optimize=True)
    return Mixture(size / size.sum(), means, scatter / size[:, np.newaxis, np.newaxis] + ridge)


def start(x: Floats) -> Mixture:
    """Return a start that knows nothing: equal weights, three flowers, the whole covariance."""
    covariance = np.cov(x.T, bias=True)
    return Mixture(
        np.full(COMPONENTS, 1 / COMPONENTS),
        x[[0, 60, 120]],
        np.repeat(covariance[np.newaxis], COMPONENTS, axis=0),
    )


def fit(x: Floats, mixture: Mixture, iterations: int) -> tuple[Mixture, list[float]]:
    """Iterate; return the mixture and the mean log-likelihood that each E-step has found."""
    history = []
    for _ in range(iterations):
        log_resp, log_likelihood = e_step(x, mixture)
        history.append(float(log_likelihood.mean()))
        mixture = m_step(x, np.exp(log_resp))
    return mixture, history


# --- the same by scikit-learn ---------------------------------------------------------------------


def fit_sklearn(x: Floats, mixture: Mixture, iterations: int) -> GaussianMixture:
    """Fit scikit-learn's mixture from the same start, for a given number of iterations."""
    model = GaussianMixture(
        COMPONENTS,
        tol=0,
        reg_covar=REGULARISATION,
        max_iter=iterations,
        weights_init=mixture.weights,
        means_init=mixture.means,
        precisions_init=np.linalg.inv(mixture.covariances),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are counted
        return model.fit(x)


def difference(ours: Floats | float, theirs: Floats | float) -> float:
    """Return the largest difference, relative to the number or, below 1, as it is."""
    return float(np.max(np.abs(np.subtract(ours, theirs)) / np.maximum(np.abs(theirs), 1)))


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Compare with scikit-learn; 0 when E-step and iterations agree, else 1."""
    parser = argparse.ArgumentParser(description="Gaussian mixture of the iris flowers.")
    parser.add_argument(
        "--iterations", type=int, default=ITERATIONS, help="of expectation maximisation"
    )
    options = parser.parse_args(argv)
    if options.iterations < 2:
        parser.error("--iterations must be at least 2")

    x = load_iris().data
    mixture, history = fit(x, start(x), options.iterations)
    model = fit_sklearn(x, start(x), options.iterations)
    theirs = Mixture(model.weights_, model.means_, model.covariances_)

    print(f"{len(x)} flowers, {COMPONENTS} components: mean log-likelihood after EM iterations")
    for done in sorted({0, 1, 2, 5, 10, 20, options.iterations - 1}):
        if done < options.iterations:
            print(f"  {done:3d} {history[done]:12.8f}")
    print("Differences from scikit-learn")
    outliers = x.mean(axis=0) + np.array([[1e3], [-1e3], [1e5]])
    everything = np.concatenate([x, outliers])
    log_resp, log_likelihood = e_step(everything, theirs)
    differences = {
        "responsibilities": difference(np.exp(log_resp), model.predict_proba(everything)),
        "log-likelihood of each flower": difference(
            log_likelihood, model.score_samples(everything)
        ),
        f"log-likelihood, iteration {options.iterations}": difference(
            history[-1], model.lower_bound_
        ),
        "weights": difference(mixture.weights, theirs.weights),
        "means": difference(mixture.means, theirs.means),
        "covariances": difference(mixture.covariances, theirs.covariances),
    }
    for name, value in differences.items():
        print(f"  {name:<32}{value:8.1e}")

    failures = [
        f"{name}: {value:.1e} from scikit-learn"
        for name, value in differences.items()
        if not value <= TOLERANCE
    ]
    if not np.isfinite(log_resp).all():
        failures.append("a log-responsibility is not finite")
    if np.diff(history).min() < -TOLERANCE:
        failures.append("an iteration has lowered the log-likelihood")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
