"""The checker that the import hook of conftest.py puts around every function of the package."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

# An int is a float, as PEP 484 and pyright have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_with_shapes: Callable[..., Any] = jaxtyping.jaxtyped


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """jaxtyping's decorator where a signature has shapes; else the type checker alone, which takes a fifth of the time.

    Generators, classes and whatever else is decorated are left to jaxtyping. A function in a function is decorated at
    each call of the outer one, which took a third of the time of some tests; without shapes it stays as it is.
    """
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    waits = inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)
    if not inspect.isfunction(function) or waits or inspect.isasyncgenfunction(function):
        return _with_shapes(function, typechecker=typechecker)
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # names of where the function is defined, of which jaxtyping makes what it can
        return _with_shapes(function, typechecker=typechecker)
    if any(map(_has_shape, hints.values())):
        return _with_shapes(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        return function
    function.__annotations__ = hints
    checked = typechecker(function)

    @functools.wraps(function)
    def checked_or_not(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return checked_or_not


def _has_shape(hint: Any) -> bool:
    is_shape = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_shape or any(map(_has_shape, get_args(hint)))


@contextmanager
def unchecked() -> Iterator[None]:
    """For torch's tracing, whose sizes are symbols, not numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
