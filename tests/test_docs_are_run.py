"""Every command and every Python block of the documentation is run on drawn data, or its page says why it isn't."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_pages import PAGES, ROOT, Step, inline_commands, steps
from doc_world import stand_in
from small_model import trace_each_model_once

import onestage
from onestage import cli, runtime
from onestage.command import Command

# Their commands are run, with more to look at, by test_docs_commands.py.
ELSEWHERE = ("docs/training_further.md", "docs/what_to_label_next.md")


PAGE = """# A

    onestage info a

<!-- not run: a reason -->

    onestage info b
    onestage info c

Text.

    onestage info d

## B

<!-- not run in this section: another -->

### C

```python
print(1)
```

## D

```sh
make e  # so
```

```text
make no command
```
"""


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    yield from trace_each_model_once()


@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")  # torch.export.save's
@pytest.mark.parametrize("page", [page for page in PAGES if steps(page)])
def test_what_a_page_says_to_type_works(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_run = [step for step in steps(page) if not step.not_run]
    named = {path for step in steps(page) for path in re.findall(r"tests/[\w/.]*\w", step.not_run)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    stand_in(tmp_path, "\n".join(step.text for step in to_run), monkeypatch)
    monkeypatch.setitem(sys.modules, "onestage_runtime", runtime)  # as which the small distribution ships it
    names: dict[str, Any] = {"image": np.zeros((60, 80, 3), np.uint8), "image_id": 7}
    for step in to_run:
        where = f"{page}:{step.line}: {step.text}"
        if step.kind == "python":
            exec(compile(step.text, where, "exec"), names)
        else:
            for command in step.text.split(" && "):
                run(shlex.split(command, comments=True), where, by_pages_test=page not in ELSEWHERE)


def run(words: list[str], where: str, by_pages_test: bool) -> None:
    """Run a command of onestage; look whether what another one names is there."""
    program, *arguments = words
    if program == "onestage":
        if by_pages_test:
            with pytest.raises(SystemExit) as ended:
                cli.main(arguments)
            assert (where, ended.value.code) == (where, 0)
    elif program == "make":
        assert subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True).returncode == 0, where
    elif program == "pip":
        assert arguments[0] == "install", where
        assert extras_of(arguments[1:]) <= set(project()["optional-dependencies"]), where
    elif program == "python" and arguments[0].startswith("benchmarks/"):
        source = (ROOT / arguments[0]).read_text(encoding="utf-8")
        options = [word[2:].replace("-", "_") for word in arguments if word.startswith("--")]
        assert [one for one in options if not re.search(rf"\b{one}: |\"--{one}\"", source)] == [], where
    else:
        pytest.fail(f"{where}: this test can't run {program}; say in the page why, by <!-- not run: ... -->")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def extras_of(requirements: list[str]) -> set[str]:
    found = (re.search(r"\[(.+)\]", one) for one in requirements)
    return {extra for one in found if one is not None for extra in one[1].split(",")}


def test_commands_in_running_text_have_options_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Command, "status", lambda self: 0)
    tried = 0
    for page in PAGES:
        for command in inline_commands(page):
            with pytest.raises(SystemExit) as ended:
                cli.main(shlex.split(command)[1:])
            assert (page, command, ended.value.code) == (page, command, 0)
            tried += 1
    assert tried > 10


def test_every_public_name_and_every_command_is_in_the_reference() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = re.findall(r"^\.\. auto(?:function|class|exception):: onestage\.(\w+)$", pages, re.MULTILINE)
    assert sorted(documented) == sorted(onestage.__all__)
    shown = [step.text.split()[1] for step in steps("docs/commands.md") if not step.not_run]
    assert shown == list(cli.COMMANDS)


def test_a_page_says_why_something_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    assert steps("page.md") == [
        Step("command", "onestage info a", 3, ""),
        Step("command", "onestage info b", 7, "a reason"),
        Step("command", "onestage info c", 8, "a reason"),
        Step("command", "onestage info d", 12, ""),
        Step("python", "print(1)", 20, "another"),
        Step("command", "make e # so", 27, ""),
    ]
