"""The pages of the documentation as a test reads them: their commands and Python blocks, in order, and what isn't run.

A page says why something isn't run by a comment that GitHub and the site don't show: `<!-- not run: needs a GPU -->` in
front of a block, `<!-- not run in this section: ... -->` for all blocks up to the next heading that is as high.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parent.parent
# Their commands are measurements that took minutes to hours; each row says on which machine.
MEASURED = ("docs/ledger.md", "docs/performance.md")
OUTSIDE = ("README.md", "CONTRIBUTING.md", "runtime/README.md")
PAGES = sorted({*OUTSIDE, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))} - {*MEASURED})
PROGRAMS = ("onestage", "python", "python3", "pip", "make", "torchrun", "ray", "tensorboard", "curl", "unzip", "docker")
REASON = re.compile(r"^ *<!-- not run( in this section)?: (.+?) -->$")


class Step(NamedTuple):
    """A command or a Python block of a page."""

    kind: Literal["command", "python"]
    text: str
    line: int
    not_run: str  # the page's reason; "" where it has none


def steps(page: str) -> list[Step]:
    """All that a page tells its reader to type."""
    return list(_steps((ROOT / page).read_text(encoding="utf-8").splitlines()))


def inline_commands(page: str) -> list[str]:
    """Commands with their arguments in running text, as `onestage info runs/mine`; not patterns with "..."."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"`(onestage [a-z]+ [^`]+)`", text)
    return list(dict.fromkeys(" ".join(one.split()) for one in found if "..." not in one and "[" not in one))


def _steps(lines: list[str]) -> Iterator[Step]:
    fence, block, began, level = "", list[str](), 0, 0
    of_block, of_section, section_level = "", "", 0
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if fence:
            if line.strip() == "```":
                if fence == "python":
                    yield Step("python", "\n".join(block), began, of_block or of_section)
                fence, of_block = "", ""
            elif fence in ("sh", "bash", "console") and _is_command(words):
                yield Step("command", " ".join(words), number, of_block or of_section)
            else:
                block.append(line)
        elif line.strip().startswith("```"):
            fence, block, began = line.strip()[3:] or "text", [], number
        elif reason := REASON.match(line):
            if reason[1]:
                of_section, section_level = reason[2], level
            else:
                of_block = reason[2]
        elif line.startswith("    ") and _is_command(words):
            yield Step("command", line.strip(), number, of_block or of_section)
        elif line.startswith("#"):
            level = len(words[0])
            of_block, of_section = "", "" if level <= section_level else of_section
        elif words and not line.startswith("    "):
            of_block = ""


def _is_command(words: list[str]) -> bool:
    return bool(words) and words[0] in PROGRAMS
