"""Arguments of the Python interface: what is of a wrong type is named before any work begins."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import onestage
from onestage.arguments import checked
from onestage.data_options import DataOptions
from onestage.errors import UserError
from onestage.settings import Setting


def given(
    text: str | None = None,
    count: int | None = None,
    share: int | float | None = None,
    minutes: float = 5.0,
    word: Literal["drop", "label"] = "drop",
    resume: bool = False,
    names: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    options: DataOptions | None = None,
) -> dict[str, Any]:
    return {name: value for name, value in locals().items() if value is not None}


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("text", Path("a/b"), "a/b"),
        ("text", torch.device("cuda:1"), "cuda:1"),
        ("count", np.int64(2), 2),
        ("count", np.array(2), 2),
        ("share", np.int64(8), 8),
        ("share", np.float32(0.5), 0.5),
        ("minutes", 3, 3),
        ("minutes", np.float32(0.5), 0.5),
        ("resume", np.bool_(True), True),
        ("names", ["a"], ["a"]),
        (
            "settings",
            {"batch_size": np.int64(4), "tiles": {"side": np.int64(96)}},
            {"batch_size": 4, "tiles": {"side": 96}},
        ),
    ],
)
def test_numbers_of_numpy_become_pythons_and_paths_text(name: str, value: Any, taken: Any) -> None:
    found = checked(given)(**{name: value})[name]
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text", 3, "text is 3; expected text or None"),
        ("text", b"a", "text is b'a'; expected text or None"),
        ("count", "1", "count is '1'; expected a whole number or None"),
        ("count", True, "count is True; expected a whole number or None"),
        ("count", 1.0, "count is 1.0; expected a whole number or None"),
        ("share", "8", "share is '8'; expected a whole number or a number or None"),
        ("minutes", "5", "minutes is '5'; expected a number"),
        ("minutes", None, "minutes is None; expected a number"),
        ("word", None, "word is None; expected text"),
        ("resume", "yes", "resume is 'yes'; expected True or False"),
        ("names", "ab", "names is 'ab'; expected a list"),
        ("settings", [("a", 1)], "settings is [('a', 1)]; expected a dictionary or None"),
        ("options", {}, "options is {}; expected a DataOptions or None"),
        ("text", Setting("a\nb" * 40, int, 1, ""), "text is of type Setting; expected text or None"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named_with_what_was_expected(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        checked(given)(**{name: value})
    assert str(refused.value) == f"given: {message}"


@pytest.mark.parametrize(
    "arguments",
    [{"steps": "1"}, {"minutes": "1"}, {"save_minutes": "5"}, {"recipe": {"detector": "x"}}, {"start_from": object()}],
)
def test_train_refuses_it_before_the_data_is_looked_for(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(UserError, match=f"^train: {name} is "):
        onestage.train("nowhere", **arguments)


def test_the_functions_of_the_interface_stay_themselves() -> None:
    assert pickle.loads(pickle.dumps(onestage.train)) is onestage.train
    assert onestage.train.__doc__
