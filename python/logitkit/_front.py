"""The way of a call into a public function, and what is said about unknown keywords.

Each keyword-only parameter costs every call a look-up of its default; `**options` costs an empty
dict, as much as three or four of them, and no call can be told about an unknown keyword without it.
So users call the *front* of a function: it has the parameters of a plain call and `**options` for
all others. A plain call goes from there straight to the compiled module; every other one goes on to
the function as it is written, which is also what `help` and `inspect.signature` show.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Function = TypeVar("_Function", bound="Callable[..., Any]")

# What other libraries call the parameters.
_SYNONYMS = {
    "dim": ["axis"],
    "dims": ["axis"],
    "axes": ["axis"],
    "keepdim": ["keepdims"],
    "weight": ["class_weight", "sample_weight", "b"],
    "weights": ["class_weight", "sample_weight", "weight", "b"],
    "mask": ["where"],
    "smoothing": ["label_smoothing"],
    "T": ["temperature"],
    "tau": ["temperature"],
    "size_average": ["reduction"],
    "reduce": ["reduction"],
    "gradient": ["grad_output"],
}


def front(core: Callable[..., Any], arguments: str) -> Callable[[_Function], _Function]:
    """Decorate a public function; core(`arguments`) is what a plain call comes to.

    In `arguments` are parameters of the function and constants. Where a keyword-only parameter that
    is not among them is given, or a positional one that is not has not its default, or where `core`
    declines, the function itself is called.
    """

    def decorate(function: _Function) -> _Function:
        code = function.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

        def complete(*args: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in names:
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {keyword!r}: "
                        f"{advice(keyword, names)}"
                    )
            return function(*args, **keywords)

        passed = arguments.split(", ")
        positional = names[: code.co_argcount]
        keywords = [name for name in names[code.co_argcount :] if name in passed]
        defaults = dict(
            zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False)
        )
        plain = " and ".join(
            [
                "not options",
                *(f"{name} is {value}" for name, value in defaults.items() if name not in passed),
            ]
        )
        source = f"""
def make(core, complete):
    def function({", ".join([*positional, *(["*"] if keywords else []), *keywords])}, **options):
        if {plain}:
            result = core({arguments})
            if result is not NotImplemented:
                return result
        return complete({", ".join([*positional, *map("{0}={0}".format, keywords)])}, **options)
    return function
"""
        made: dict[str, Any] = {}
        exec(source, function.__globals__, made)
        entrance = made["make"](core, complete)
        entrance.__defaults__ = function.__defaults__
        keyword_defaults = function.__kwdefaults__ or {}
        entrance.__kwdefaults__ = {name: keyword_defaults[name] for name in keywords}
        return cast("_Function", functools.wraps(function)(entrance))

    return decorate


def advice(keyword: str, names: Sequence[str]) -> str:
    """What to write instead of a keyword that is not among `names`."""
    candidates = [name for name in _SYNONYMS.get(keyword, []) if name in names]
    if not candidates:
        from difflib import get_close_matches

        candidates = get_close_matches(keyword, names, n=1)
    return f"use {' or '.join(candidates)}" if candidates else f"it takes {', '.join(names)}"
