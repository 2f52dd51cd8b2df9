"""Triton's interpreter without the work whose results it drops, which is half of what it does.

Which members of its language are built in it finds out again at each call of a function, its own
sums and maxima among them; which of numpy's types stands for a type, by a new table of all; and of
each sum and product of integers it computes whether it overflows, for an assertion that is off.
"""

import inspect
from typing import Any

import pytest


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes no result of an interpreted kernel."""
    from triton.runtime import interpreter

    is_builtin = interpreter.tl.core.is_builtin
    names: dict[Any, list[str]] = {}

    def patch_builtin(package: Any, *rest: Any) -> None:
        if package not in names:
            members = inspect.getmembers(package)
            names[package] = [name for name, member in members if is_builtin(member)]
        for name in names[package]:
            member = getattr(package, name)
            if is_builtin(member):
                interpreter._patch_attr(package, name, member, *rest)

    numpy_type = interpreter._get_np_dtype
    numpy_types: dict[str, Any] = {}

    def get_np_dtype(type_: Any) -> Any:
        name = type_.scalar.name
        if name not in numpy_types:
            numpy_types[name] = numpy_type(type_)
        return numpy_types[name]

    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    monkeypatch.setattr(interpreter, "_patch_builtin", patch_builtin)
    monkeypatch.setattr(interpreter, "_get_np_dtype", get_np_dtype)
