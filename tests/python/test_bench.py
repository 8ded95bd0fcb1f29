"""The comparison with other libraries runs, and notices a library whose numbers are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")

BENCHES = Path(__file__).parents[2] / "benches"
OPERATIONS = {
    "logsumexp",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "softmax_backward",
    "log_softmax_backward",
    "mse_loss",
    "mse_loss_value_and_grad",
    "classification_error",
}
FUNCTIONS = {
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_value_and_grad",
    "log_loss",
    "cross_entropy_grad_hess",
    "token_logprobs",
    "top_k_logprobs",
}
HALF = {"softmax", "log_softmax", "cross_entropy", "cross_entropy_value_and_grad"}
OF_CROSS_ENTROPY = {
    "class_weight",
    "sample_weight",
    "label_smoothing",
    "z_loss",
    "temperature",
    "probabilities",
    "where",
}
OPTIONS = {
    "logsumexp": {"b", "where"},
    "softmax": {"temperature", "return_lse", "where"},
    "cross_entropy": OF_CROSS_ENTROPY,
    "cross_entropy_value_and_grad": OF_CROSS_ENTROPY,
    "mse_loss": {"weight"},
    "mse_loss_value_and_grad": {"weight"},
    "classification_error": {"sample_weight"},
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished process of Python with these arguments."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def checked(path: Path, dtype: str, count: int) -> dict[str, Any]:
    """What a check of one dtype on one thread leaves in its file."""
    script = str(BENCHES / "compare.py")
    done = run(script, "--check", "--threads", "1", "--dtype", dtype, "--json", str(path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"check: {count} rows, 0 problem(s)" in done.stdout
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert content["dtype"] == dtype
    assert content["threads"] == 1
    assert not content["missing_loops"]
    return content


@pytest.mark.parametrize(("dtype", "count"), [("float32", 230), ("float64", 122)])
def test_every_library_computes_what_we_compute(dtype: str, count: int, tmp_path: Path) -> None:
    content = checked(tmp_path / "new folder" / "check.json", dtype, count)

    rows = [row for row in content["rows"] if row["section"] not in ("options", "functions")]
    assert {row["operation"] for row in rows} == OPERATIONS
    assert {row["result"] for row in rows if row["operation"] == "softmax"} == {"fresh", "out"}
    assert all({"logitkit", "NumPy"} <= row["median_us"].keys() for row in rows)
    assert any("SciPy" in row["median_us"] for row in rows)
    peers = {"SciPy", "NumPy", "JAX", "ONNX Runtime", "scikit-learn", "torch"}
    assert (
        peers
        == (content["versions"].keys() - {"Python", "logitkit"}) | content["missing_peers"].keys()
    )
    rest = [row for row in content["rows"] if row["section"] in ("options", "functions")]
    assert {row["operation"] for row in rest if row["option"] is None} == (
        FUNCTIONS if dtype == "float32" else set()
    )
    found: dict[str, set[str]] = {}
    for row in rest:
        if row["option"] is not None:
            found.setdefault(row["operation"], set()).add(row["option"])
            assert row["ours_otherwise_us"].keys() == {"plain"}
    assert found == (OPTIONS if dtype == "float32" else {})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_of_16_bits_are_compared_with_float32(dtype: str, tmp_path: Path) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    rows = checked(tmp_path / "check.json", dtype, 14)["rows"]

    assert {row["operation"] for row in rows} == HALF
    assert all(row["dtype"] == dtype for row in rows)
    assert all(row["ours_otherwise_us"].keys() == {"float32"} for row in rows)
    assert {row["limit_set_by"] for row in rows} <= {"read", "copy", "fresh copy"}


WITH_A_WRONG_PEER = """
import sys
sys.path.insert(0, sys.argv[1])
import compare
import compare_peers

compare_peers.NumPy.softmax = lambda self, data, out: lambda: data.x
sys.exit(compare.main(["--check", "--threads", "1", "--only", "^softmax/fresh/1x10$"]))
"""


def test_check_fails_when_a_library_disagrees() -> None:
    done = run("-c", WITH_A_WRONG_PEER, str(BENCHES))

    assert done.returncode == 1, done.stdout + done.stderr
    assert "NumPy disagrees at softmax/fresh/1x10" in done.stdout
    assert "check: 1 rows, 1 problem(s)" in done.stdout


WITH_A_WRONG_OPTION = """
import sys
sys.path.insert(0, sys.argv[1])
import compare
import compare_functions

compare_functions.SciPy.logsumexp_with = lambda self, data, option: self.logsumexp(data)
arguments = ["--check", "--threads", "1", "--section", "options", "--only", "^logsumexp.*x10/b$"]
sys.exit(compare.main(arguments))
"""


def test_check_fails_when_a_library_leaves_the_option_out() -> None:
    done = run("-c", WITH_A_WRONG_OPTION, str(BENCHES))

    assert done.returncode == 1, done.stdout + done.stderr
    assert "SciPy disagrees at logsumexp/fresh/7x10/b" in done.stdout
    assert "check: 1 rows, 1 problem(s)" in done.stdout


BEYOND_ITS_BYTES = """
import sys
sys.path.insert(0, sys.argv[1])
from compare_cases import OPERATIONS, OPTIONS, Case, Layout
from compare_limits import limit_of
from compare_report import Row
from compare_targets import option

for one, wanted in (("where", 1.5), ("temperature", 2.0), ("return_lse", 1.9975)):
    chosen = next(o for o in OPTIONS if o.name == one)
    case = Case(OPERATIONS["softmax"], "out", Layout((8, 800)), option=chosen)
    kinds = {"read": 2.0, "copy": 3.0, "exp-and-sum": 1.0}
    limits = {kind: (time, kind) for kind, time in kinds.items()}
    row = Row(case, 2.0, {"plain": 1.0}, {}, {}, limits, 1.0, "", {}, {})
    assert abs(option(1.25).measure(row) - wanted) < 1e-9, (one, option(1.25).measure(row))
    assert abs(limit_of(case, kinds)[0] - (3.0 + 2.0 - wanted)) < 1e-9, one
"""


def test_what_an_option_brings_is_taken_off() -> None:
    done = run("-c", BEYOND_ITS_BYTES, str(BENCHES))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no such row"], "--only no such row: found in no row"),
        (["--only", "("], "'(' is no regular expression"),
        (["--threads", "0"], "--threads 0: this process may use 1 to"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], message: str) -> None:
    done = run(str(BENCHES / "compare.py"), "--check", *arguments)

    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr


def test_errors_of_every_library_are_measured() -> None:
    done = run(str(BENCHES / "accuracy.py"), "--quick", "--only", "/(normal|dominated|found)")

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line] for line in lines]
    kinds = [line[0] for line in table if line[1] == "bound"]
    assert kinds == ["float32", "float64"]
    columns = table[0].index("NumPy"), table[0].index("logitkit")
    for row in table:
        if row[0] in ("log_softmax", "cross_entropy", "gradient, label"):
            theirs, own = (float(row[column]) for column in columns)
            assert theirs > 1e6, row
            assert 0.5 < own <= float(row[1]), row


WITH_A_WRONG_RESULT = """
import sys
sys.path.insert(0, sys.argv[1])
import accuracy

right = accuracy.lk.logsumexp
accuracy.lk.logsumexp = lambda x, axis: right(x, axis) * x.dtype.type(1.000001)
sys.exit(accuracy.main(["--quick", "--only", "logsumexp/float32/normal"]))
"""


def test_the_measurement_of_errors_fails_beyond_a_bound() -> None:
    done = run("-c", WITH_A_WRONG_RESULT, str(BENCHES))

    assert done.returncode == 1, done.stdout + done.stderr
    assert "logsumexp, float32, normal: " in done.stdout
    assert "logsumexp_backward, float32" not in done.stdout
