"""Every public function is documented, and the examples in the documentation are true."""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

import logitkit as lk
import pytest

FUNCTIONS = sorted(name for name in lk.__all__ if callable(getattr(lk, name)))


def run(documented: Any, name: str) -> int:
    """Run the examples of a docstring, fail when one is wrong, and return their number."""
    text = inspect.getdoc(documented) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    lines: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=lines.append)
    assert not lines, "".join(lines)
    return len(test.examples)


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples(name: str) -> None:
    assert run(getattr(lk, name), name) > 0, f"{name} has no example"


def test_package_examples() -> None:
    assert run(lk, "logitkit") > 0


def sections(name: str) -> dict[str, str]:
    """Return the sections of a NumPy-style docstring."""
    text = inspect.getdoc(getattr(lk, name)) or ""
    parts = re.split(r"^(\w[\w ]+)\n-{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sections(name: str) -> None:
    function = getattr(lk, name)
    signature = inspect.signature(function)
    found = sections(name)
    assert "Examples" in found
    if signature.return_annotation not in (None, "None"):
        assert "Returns" in found
    if signature.parameters:
        assert "Raises" in found
        assert "Parameters" in found
        for parameter in signature.parameters:
            heading = rf"^(\w+, )*{parameter}(, \w+)*( : .+)?$"
            documented = re.search(heading, found["Parameters"], flags=re.MULTILINE)
            assert documented, f"{name}: {parameter} is not documented"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_line(name: str) -> None:
    first, *rest = (inspect.getdoc(getattr(lk, name)) or "").splitlines()
    assert first.endswith(".")
    assert not rest or rest[0] == ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_annotations(name: str) -> None:
    signature = inspect.signature(getattr(lk, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter}"
