"""As if a package were not installed: what imports it is imported anew, and is as it was after the test."""

from __future__ import annotations

import sys

import pytest


def remove_package(monkeypatch: pytest.MonkeyPatch, package: str, *, importers: str) -> None:
    """Hides `package` from all modules whose names begin with `importers`, until the end of the test.

    A module stands in two places, `sys.modules` and its parent package: an import writes both, so both are put back.
    """
    monkeypatch.setitem(sys.modules, package, None)
    for name in sorted((name for name in sys.modules if name.startswith(importers)), reverse=True):  # inner ones first
        parent, _, own_name = name.rpartition(".")
        monkeypatch.delattr(sys.modules[parent], own_name, raising=False)
        monkeypatch.delitem(sys.modules, name)
