"""Settings of a run over a collection, for the tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onestage.inference.collection.results import RunSettings
from onestage.selection import Selection
from onestage.structures import Categories


def run_settings(**changed: Any) -> RunSettings:
    categories = Categories.from_names(("ball", "wall", "star"))
    settings = RunSettings("1.0", "ssd300-test_efficientnet", categories, Selection(), ("/a",), ("bytes",))
    return replace(settings, **changed)
