"""The rules of CONTRIBUTING.md that no linter has."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import onestage
from onestage import runtime

SOURCES = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_stays_under_400_lines_and_its_functions_under_50(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [f"{f.name} ({lines} lines)" for f in functions if (lines := _code_lines(f)) >= 50]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_is_a_room_without_a_purpose(path: Path) -> None:
    assert path.stem not in {"util", "utils", "helper", "helpers", "misc", "common"}


def test_both_distributions_have_one_version() -> None:
    root = Path(__file__).parent.parent
    files = [root / "pyproject.toml", root / "runtime" / "pyproject.toml"]
    told = [tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"] for file in files]
    assert {*told, onestage.__version__, runtime.__version__} == {onestage.__version__}


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the `def` to the last line, without the docstring: shapes, errors and sources may take their room."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    lines_of_docstring = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - lines_of_docstring
