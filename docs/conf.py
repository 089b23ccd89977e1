"""How Sphinx makes the site of these pages and of the docstrings: `make docs`. The pages are read on GitHub, too."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain

import onestage
from onestage import cli
from onestage.settings import Setting, settings_of

ROOT = Path(__file__).parent.parent

project = "onestage"
version = release = onestage.__version__
html_title = f"onestage {release}"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["performance/*"]

html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}  # no repository to link to
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

highlight_language = "none"  # an indented block may be commands, output or a formula
myst_heading_anchors = 4  # the anchors that GitHub makes
linkcheck_timeout = 20

default_role = "py:obj"  # `name` in a docstring: a link where it is a documented name, else code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" as a list, not as one more entry of the reference each
napoleon_use_rtype = False

# Pages whose text is a file of the repository's root; on GitHub they link to it.
FILES = {
    "index": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "runtime": "runtime/README.md",
}
PAGES = {file: f"{page}.md" for page, file in FILES.items()}
TOCTREES = re.compile(r"^```\{toctree\}.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=]\()(?!https?:|#)([^)#\s]+)")
HELP = re.compile(r"^onestage (\w+) --help\n```$", re.MULTILINE)


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """A page's text: that of a file of the root where it stands for one; behind `--help` what that prints."""
    if page in FILES:
        text = (ROOT / FILES[page]).read_text(encoding="utf-8")
        toctrees = "\n\n".join(TOCTREES.findall(source[0]))
        source[0] = f"{LINK.sub(lambda link: _from_docs(link[0]), text)}\n\n{toctrees}\n"
    else:
        up = "../" * (page.count("/") + 1)  # to the root
        source[0] = LINK.sub(lambda link: _in_site(link[0], up), source[0])
    source[0] = HELP.sub(lambda command: f"{command[0]}\n\n```text\n{help_of(command[1])}\n```", source[0])


def _from_docs(link: str) -> str:
    """A link of a file of the root, as a page of docs/ has it."""
    return link.removeprefix("docs/") if link.startswith("docs/") else _in_site(f"../{link}", "../")


def _in_site(link: str, up: str) -> str:
    """A link of a page of docs/; one to a file of the root that the site has as a page leads there."""
    file = link.removeprefix(up)
    return up.removesuffix("../") + PAGES[file] if link.startswith(up) and file in PAGES else link


def help_of(command: str) -> str:
    """What `onestage COMMAND --help` prints."""
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        cli.main([command, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()).strip()


def describe_settings(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The settings of a settings class, with their help texts and defaults, below its docstring."""
    if told := _settings(thing):
        lines += ["", *(f":ivar {one.name}: {one.help}.{_default(one.default)}" for one in told), ""]


def _settings(thing: Any) -> list[Setting]:
    """The fields of a settings class that have help texts; none of anything else."""
    is_class = isinstance(thing, type) and dataclasses.is_dataclass(thing)
    return [one for one in settings_of(thing) if one.help] if is_class else []


def _default(value: Any) -> str:
    return "" if dataclasses.is_dataclass(value) or value is dataclasses.MISSING else f" Default: ``{value!r}``"


def prepare_docstring(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Indented lines of a module's docstring are code, as in Markdown; reStructuredText wants that said.

    Napoleon takes what is in front of a colon in a property's first line for its type. Python itself describes the
    fields of a NamedTuple as "Alias for field number 0".
    """
    if kind == "property":
        lines.insert(0, "\\")  # nothing, to reStructuredText
    elif lines[:1] and lines[0].startswith("Alias for field number"):
        lines.clear()
    elif kind == "module":
        text = "\n".join(lines)
        lines[:] = re.sub(r"(?<=\S)\n\n(?=    \S)", "\n\n.. code-block:: text\n\n", text).split("\n")


def shorten_signature(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str, str | None] | None:
    """No arguments of a settings class: they stand below it, each with its help text. A made default is "..."."""
    if _settings(thing):
        return "", None
    return (arguments.replace("<factory>", "..."), result) if arguments else None


def widen_prose(app: Sphinx, page: nodes.document, name: str) -> None:
    """Marks the long texts of wide tables, which else become columns of a word a line on a phone."""
    for cell in page.findall(nodes.entry):
        if cell.parent.parent.parent["cols"] >= 4 and len(cell.astext()) > 60:
            cell["classes"].append("prose")


def setup(app: Sphinx) -> None:
    fields = vars(PythonDomain.directives["class"].__base__)["doc_field_types"]
    next(one for one in fields if one.name == "variable").label = "Attributes"
    app.connect("doctree-resolved", widen_prose)
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", describe_settings)
    app.connect("autodoc-process-signature", shorten_signature)
