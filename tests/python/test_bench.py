"""The comparison with other libraries runs, and notices a library whose numbers are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished process of Python with these arguments."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(("dtype", "count"), [("float32", 154), ("float64", 122)])
def test_every_library_computes_what_we_compute(dtype: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "check.json"
    script = str(BENCHES / "compare.py")
    done = run(script, "--check", "--threads", "1", "--dtype", dtype, "--json", str(path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"check: {count} rows, 0 problem(s)" in done.stdout
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["dtype"] == dtype
    assert content["threads"] == 1
    assert not content["missing_loops"]
    rows = content["rows"]
    assert {row["operation"] for row in rows} == OPERATIONS
    assert {row["result"] for row in rows if row["operation"] == "softmax"} == {"fresh", "out"}
    assert all({"logitkit", "NumPy"} <= row["median_us"].keys() for row in rows)
    assert any("SciPy" in row["median_us"] for row in rows)
    peers = {"SciPy", "NumPy", "JAX", "ONNX Runtime", "scikit-learn", "torch"}
    assert (
        peers
        == (content["versions"].keys() - {"Python", "logitkit"}) | content["missing_peers"].keys()
    )


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
