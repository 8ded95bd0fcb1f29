"""Evaluate language-model logits: perplexity, greedy match and the best next tokens.

    python examples/perplexity.py             # two sequences of 64 tokens, a vocabulary of 128,256
    python examples/perplexity.py --tokens 8  # shorter ones

A model's evaluation has one row of logits per token, as wide as its vocabulary. The log-probability
of the token that came next gives the perplexity, ``exp(-mean(logprob))``; how often it was also the
most probable token is the greedy match. ``token_logprobs`` finds both while it reads the logits
once, without an array of their size; the end of the shorter sequence is padding, which it ignores.
``top_k_logprobs`` lists the tokens that the model would rather have seen.

The logits are made by a random generator from a seed: some tokens are frequent, some positions are
easy and some hard. The exit status is 1 when a log-probability, a match or a rank differs from what
NumPy finds in float64.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import logitkit as lk
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VOCABULARY = 128_256
SEQUENCES = 2
TOKENS = 64
PADDING = -100
SHOWN = 5

TOLERANCE = 4e-7
"""Three units in the last place of float32, relative."""


class Batch(NamedTuple):
    """Logits (sequence, token, vocabulary), and the token that came next or `PADDING`."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


class Evaluation(NamedTuple):
    """Of each token: its log-probability, and whether it is the most probable one."""

    logprob: NDArray[np.floating]
    is_argmax: NDArray[np.bool_]


def make_batch(tokens: int, vocabulary: int = VOCABULARY, seed: int = 0) -> Batch:
    """Return logits in which frequent tokens are likely, and the next token more or less so."""
    rng = np.random.default_rng(seed)
    shape = (SEQUENCES, tokens, vocabulary)
    logits = rng.standard_normal(shape, dtype=np.float32)
    logits -= rng.permutation(np.log1p(np.arange(vocabulary))).astype(np.float32)  # Zipf's law
    labels = rng.integers(0, vocabulary, shape[:2])
    certainty = rng.normal(13, 5, (*shape[:2], 1)).astype(np.float32)
    index = labels[..., np.newaxis]
    np.put_along_axis(logits, index, np.take_along_axis(logits, index, -1) + certainty, -1)
    labels[-1, tokens - tokens // 4 :] = PADDING
    return Batch(logits, labels)


# --- the evaluation -------------------------------------------------------------------------------


def evaluate(batch: Batch) -> Evaluation:
    """Log-probabilities and greedy matches in one pass over the logits."""
    return Evaluation(*lk.token_logprobs(batch.logits, batch.labels, ignore_index=PADDING))


def evaluate_numpy(batch: Batch) -> Evaluation:
    """The same as one writes it with NumPy, in float64 and one row at a time."""
    logprob = np.zeros(batch.labels.shape)
    is_argmax = np.zeros(batch.labels.shape, dtype=np.bool_)
    for position in np.ndindex(batch.labels.shape):
        label = batch.labels[position]
        if label != PADDING:
            row = batch.logits[position].astype(np.float64)
            top = row.max()
            logprob[position] = row[label] - (top + np.log(np.exp(row - top).sum()))
            is_argmax[position] = row.argmax() == label
    return Evaluation(logprob, is_argmax)


def summary(batch: Batch, evaluation: Evaluation) -> tuple[float, float]:
    """Return the perplexity and the share of greedy matches of the tokens that are no padding."""
    count = np.count_nonzero(batch.labels != PADDING)
    mean = evaluation.logprob.sum(dtype=np.float64) / count
    return float(np.exp(-mean)), float(evaluation.is_argmax.sum() / count)


# --- checks ---------------------------------------------------------------------------------------


def differences(batch: Batch, ours: Evaluation, theirs: Evaluation) -> list[str]:
    """Say what differs from NumPy's float64 results."""
    failures = []
    if not np.allclose(ours.logprob, theirs.logprob, rtol=TOLERANCE, atol=1e-12):
        failures.append("a log-probability differs from NumPy's in float64")
    if not np.array_equal(ours.is_argmax, theirs.is_argmax):
        failures.append("a greedy match differs from NumPy's argmax")
    if ours.logprob[batch.labels == PADDING].any():
        failures.append("padding has a log-probability")
    return failures


def best_tokens(row: NDArray[np.float32], k: int) -> tuple[NDArray[np.floating], list[str]]:
    """Return ``(log-probability, token)`` of the best tokens, and what differs from a full sort."""
    values, tokens = lk.top_k_logprobs(row, k)
    wide = row.astype(np.float64)
    log_probs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    expected = np.argsort(-row, kind="stable")[:k]
    failures = []
    if not np.array_equal(tokens, expected):
        failures.append("the best tokens differ from those of a full sort")
    elif not np.allclose(values, log_probs[expected], rtol=TOLERANCE, atol=1e-12):
        failures.append("a log-probability of the best tokens differs from NumPy's in float64")
    return np.stack([values, tokens], axis=-1), failures


# --- the program ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Perplexity and greedy match of made-up logits.")
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, help="tokens of a sequence (%(default)s)"
    )
    options = parser.parse_args(argv)
    if options.tokens < 1:
        parser.error("--tokens must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, check, print; 0 when everything is as NumPy finds it in float64, else 1."""
    options = parse(argv)
    batch = make_batch(options.tokens)
    megabytes = batch.logits.nbytes / 1e6
    print(f"Logits {batch.logits.shape}, {batch.logits.dtype}: {megabytes:.0f} MB")

    begin = time.perf_counter()
    ours = evaluate(batch)
    middle = time.perf_counter()
    theirs = evaluate_numpy(batch)
    end = time.perf_counter()
    failures = differences(batch, ours, theirs)

    print(f"{'':<22}{'logitkit':>12}{'NumPy, float64':>18}")
    names = ("perplexity", "greedy match")
    for row in zip(names, summary(batch, ours), summary(batch, theirs), strict=True):
        print("  {:<20}{:12.4f}{:18.4f}".format(*row))
    print(f"  {'time':<20}{(middle - begin) * 1e3:9.1f} ms{(end - middle) * 1e3:15.1f} ms")

    # The token that surprised the model most, and those that it expected instead.
    place = np.unravel_index(np.argmin(ours.logprob), ours.logprob.shape)
    label, logprob = batch.labels[place], ours.logprob[place]
    print(f"The least expected token: {label}, probability {np.exp(logprob):.1e}; expected were")
    best, wrong = best_tokens(batch.logits[place], SHOWN)
    for value, token in best:
        print(f"  {int(token):>6}  {np.exp(value):8.4%}")

    failures += wrong
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
