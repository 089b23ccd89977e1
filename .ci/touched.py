"""Prints the test files of what was touched: `python .ci/touched.py [BASE]`, for `make quick`.

Touched is what differs from where this branch left BASE (main), and what is not committed yet. The tests of
src/onestage/X/y.py are tests/X/test_y*.py; where there are none, the tests that import it. A changed test is one of its
own, a changed helper of tests stands for the tests that import it, a page of docs for those that name it.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST = 12  # test files; more take longer than a minute
ALWAYS = "tests/test_house_rules.py"
OF_THE_PROJECT = (
    "runtime/",
    "pyproject.toml",
    "Makefile",
    "requirements-dev.lock",
    "CITATION.cff",
    ".pre-commit",
    ".ci/",
)


def touched(base: str) -> list[str]:
    """Paths that differ from where this branch left `base`, those that are not committed yet included."""
    left = _git("merge-base", base, "HEAD") or ["HEAD"]
    return _git("diff", "--name-only", "--diff-filter=d", left[0]) + _git("ls-files", "--others", "--exclude-standard")


def tests_of(path: str) -> list[Path]:
    """The test files of a path in the repository."""
    parts = Path(path).with_suffix("").parts
    if path.startswith(OF_THE_PROJECT):
        return [ROOT / "tests" / "test_distributions.py"]
    if path.startswith("tests/"):
        own = Path(path).name.startswith("test_")
        return [ROOT / path] if own else _naming(rf"^\s*(from|import) {re.escape(parts[-1])}\b")
    if not path.startswith("src/onestage/"):
        return _naming(re.escape(Path(path).name))
    parts = parts[2:]
    while len(parts) > 0:
        found = sorted((ROOT / "tests").joinpath(*parts[:-1]).glob(f"test_{parts[-1]}*.py"))
        if found:
            return found
        if path.endswith(".py") and parts[-1] != "__init__":
            *rooms, name = ("onestage", *parts)
            module, room = re.escape(".".join((*rooms, name))), re.escape(".".join(rooms))
            if found := _naming(rf"\b{module}\b|^from {room} import .*\b{name}\b"):
                return found
        parts = parts[:-1]  # what nobody imports, or is no module, belongs to its folder
    return []


def _naming(pattern: str) -> list[Path]:
    """Test files with a line in which the pattern is found."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [test for test in tests if re.search(pattern, test.read_text(encoding="utf-8"), re.MULTILINE)]


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def main() -> None:
    found = dict.fromkeys(test for path in touched(*sys.argv[1:2] or ["main"]) for test in tests_of(path))
    names = [test.relative_to(ROOT).as_posix() for test in found if test.exists()]
    names = [ALWAYS, *(name for name in names if name != ALWAYS)]
    if len(names) > MOST:
        print(f"{MOST} of {len(names)} test files; `make test` runs all", file=sys.stderr)
    print(*names[:MOST])


if __name__ == "__main__":
    main()
