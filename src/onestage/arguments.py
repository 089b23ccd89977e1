"""The door of the Python interface: arguments of a wrong type are named before any work begins."""

import functools
import inspect
import os
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from onestage.errors import UserError

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    os.PathLike: "a path",
    dict: "a dictionary",
    Sequence: "a list",
    tuple: "a list",
    types.NoneType: "None",
}


@functools.cache
def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `onestage` whose arguments are checked by their annotations: a UserError for another type.

    Numbers of NumPy become Python's; a path is text where text is expected, and so is a device of torch. What is in
    lists is left alone.
    """
    signature, hints = inspect.signature(function), get_type_hints(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _fitted(hints[name], _plain(value), f"{function.__name__}: {name}")
        return function(*bound.args, **bound.kwargs)

    call.__module__ = "onestage"  # where it is found again, as by pickle
    return call


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, torch.device):
        return str(value)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _fitted(hint: Any, value: Any, where: str) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    # Which of its words a literal may be is checked where it is used, with a message of its own.
    types_ = [type(get_args(kind)[0]) if get_origin(kind) is Literal else get_origin(kind) or kind for kind in kinds]
    if any(_is_a(value, kind) for kind in types_):
        return value
    if isinstance(value, os.PathLike) and str in types_:
        return os.fspath(value)
    shown = repr(value)
    shown = shown if len(shown) <= 60 and "\n" not in shown else f"of type {type(value).__name__}"
    words = (_WORDS.get(kind, f"a {kind.__name__}") for kind in dict.fromkeys(types_))
    raise UserError(f"{where} is {shown}; expected {' or '.join(words)}")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    if kind in (Sequence, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return type(value) is kind if kind in (int, bool) else isinstance(value, kind)
