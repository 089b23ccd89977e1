"""The pages of docs/: commands are understood, links lead somewhere, pictures are what the code draws."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro
from tyro.conf import DisallowNone

from onestage.cli import COMMANDS
from onestage.commands.training import train_with_settings

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def commands() -> list[tuple[Path, list[str]]]:
    """The words of each line `    onestage ...` that has an option which no line of its command had before."""
    found, seen = list[tuple[Path, list[str]]](), set[tuple[str, str]]()
    for page in PAGES:
        for line in re.findall(r"^ {4,}(onestage [a-z]+ [^\n]*)$", page.read_text(), re.MULTILINE):
            words = shlex.split(re.split(r" {3,}", line)[0], comments=True)[1:]
            options = {(words[0], word) for word in ("", *words) if not word or word.startswith("-")}
            if not options <= seen and "[" not in line and not {"...", "|"} & set(words):
                found.append((page, words))
                seen |= options
    return found


def test_the_commands_of_all_pages_are_understood() -> None:
    kinds, wrong = {**COMMANDS, "train": train_with_settings()}, list[str]()
    for page, (command, *words) in commands():
        try:
            tyro.cli(kinds[command], args=words, config=(DisallowNone,), console_outputs=False)
        except SystemExit:
            wrong.append(f"{page.name}: onestage {command} {shlex.join(words)}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in headings(file), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_pictures_are_what_the_code_draws() -> None:
    pictures = runpy.run_path(str(DOCS / "pictures.py"))["PICTURES"]
    assert {path.stem for path in (DOCS / "pictures").glob("*.svg")} == set(pictures)
    for name, draw in pictures.items():
        committed, drawn = (DOCS / "pictures" / f"{name}.svg").read_text(), draw()
        assert NUMBER.sub("", committed) == NUMBER.sub("", drawn), name
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (committed, drawn)]
        assert numbers[1] == pytest.approx(numbers[0], abs=0.11), name  # a tenth, where a processor rounds otherwise
        assert len(committed) < 60_000
