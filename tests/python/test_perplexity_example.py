"""The example of a language model's evaluation runs, is right, and notices when it is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "perplexity.py"


@pytest.fixture(scope="module")
def perplexity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_perplexity", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_runs(perplexity: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert perplexity.main(["--tokens", "8"]) == 0
    printed = capsys.readouterr()
    assert "Logits (2, 8, 128256), float32: 8 MB" in printed.out
    name, ours, theirs = next(s for s in printed.out.splitlines() if "perplexity" in s).split()
    assert name == "perplexity"
    assert ours == theirs
    assert printed.out.count("%") == perplexity.SHOWN
    assert printed.err == ""


def test_the_batch_is_worth_evaluating(perplexity: ModuleType) -> None:
    """Some tokens match and some do not, none is certain, and there is padding."""
    batch = perplexity.make_batch(32)
    evaluation = perplexity.evaluate(batch)
    padding = batch.labels == perplexity.PADDING
    assert padding.sum() == 8
    assert 0.1 < evaluation.is_argmax[~padding].mean() < 0.9
    assert evaluation.logprob.dtype == np.float32
    assert (evaluation.logprob[~padding] < 0).all()
    assert evaluation.logprob[~padding].max() > -0.1
    assert evaluation.logprob[~padding].min() < -3
    np.testing.assert_array_equal(perplexity.make_batch(32).logits, batch.logits)


def test_perplexity_of_a_uniform_model(perplexity: ModuleType) -> None:
    """As many as there are tokens; only the first of equal ones matches."""
    labels = np.array([[0, 3, perplexity.PADDING]])
    batch = perplexity.Batch(np.zeros((1, 3, 1000), np.float32), labels)
    for evaluate in (perplexity.evaluate, perplexity.evaluate_numpy):
        value, match = perplexity.summary(batch, evaluate(batch))
        assert value == pytest.approx(1000, rel=1e-6)
        assert match == 0.5


def test_differences_are_noticed(perplexity: ModuleType) -> None:
    batch = perplexity.make_batch(12, vocabulary=300)
    right = perplexity.evaluate(batch)
    theirs = perplexity.evaluate_numpy(batch)
    assert perplexity.differences(batch, right, theirs) == []
    off = right._replace(logprob=right.logprob * np.float32(1 + 1e-6))
    assert "log-probability differs" in perplexity.differences(batch, off, theirs)[0]
    flipped = right._replace(is_argmax=~right.is_argmax)
    assert "greedy match" in perplexity.differences(batch, flipped, theirs)[0]
    padded = right._replace(logprob=right.logprob - 1)
    assert "padding has a log-probability" in perplexity.differences(batch, padded, theirs)


def test_it_fails_when_numbers_differ(
    perplexity: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = np.zeros(5, np.float32), np.arange(5)
    monkeypatch.setattr(perplexity.lk, "top_k_logprobs", lambda row, k: wrong)
    assert perplexity.main(["--tokens", "1"]) == 1
    assert "FAILED: the best tokens differ from those of a full sort" in capsys.readouterr().err
