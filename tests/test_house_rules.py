"""The rules of CONTRIBUTING.md that no linter has."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import onestage
from onestage import runtime

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


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


def test_both_distributions_and_the_citation_have_one_version() -> None:
    files = [ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml"]
    told = [tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"] for file in files]
    told.append(yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"])
    assert {*told, onestage.__version__, runtime.__version__} == {onestage.__version__}


def test_the_lock_has_a_version_within_its_range_for_all_that_development_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    dev = [Requirement(line) for line in extras["dev"]]
    (itself,) = (one for one in dev if one.name == project["name"])
    lines = [*project["dependencies"], *(line for extra in itself.extras for line in extras[extra])]
    asked = [*map(Requirement, lines), *(one for one in dev if one is not itself)]
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lock if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in locked.items()}
    assert len(asked) > 40
    assert [one for one in asked if versions.get(canonicalize_name(one.name), "none") not in one.specifier] == []


def test_the_hooks_before_a_commit_are_the_commands_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    lint = re.search(r"^lint: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert lint
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == commands


def test_every_target_of_make_is_explained_by_make_help_and_in_contributing() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    explained = re.findall(r"^(\w+): .*## .", MAKEFILE, re.MULTILINE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert sorted(explained) == sorted(phony[1].split())
    assert set(explained) - set(re.findall(r"make (\w+)", contributing)) == set()


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the `def` to the last line, without the docstring: shapes, errors and sources may take their room."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    lines_of_docstring = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - lines_of_docstring
