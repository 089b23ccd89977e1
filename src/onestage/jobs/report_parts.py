"""What a model card takes from a report: its sentences and images, and the page without names of folders."""

from __future__ import annotations

import base64
import binascii
import html
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from markupsafe import escape

from onestage.errors import UserError

LARGEST_REPORT = 64 << 20  # bytes
NAMES_ONLY = ("data", "model")  # settings that users give as paths
_SETTING = re.compile(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>")  # of evaluation/report.html, as all of these
_SENTENCES = re.compile(r'<p class="words">(.*?)</p>', re.DOTALL)
_FIGURE = re.compile(r'<img src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)" alt="([^"<]*)"')
_TITLES = re.compile(r"(<title>|<h1>)([^<]*)(</title>|</h1>)")
_BEST = "<h2>Best images</h2>"


@dataclass(frozen=True)
class Figure:
    """An image of the report with its boxes drawn."""

    jpeg: bytes
    text: str  # what it shows, as "2 found, 1 not found"


@dataclass(frozen=True)
class ReportParts:
    """Parts of a report."""

    page: str  # the whole page, without names of folders
    settings: dict[str, str]  # by name; of data and models the last parts of their paths
    sentences: tuple[str, ...]
    wrong: tuple[Figure, ...]  # the worst first
    right: tuple[Figure, ...]  # the best first


def read_report(path: Path) -> ReportParts:
    """The parts of a report; those that it lacks are empty.

    Raises:
        UserError: it can't be read, or is too large for a report.
    """
    try:
        if path.stat().st_size > LARGEST_REPORT:
            raise UserError(f"{path}: over {LARGEST_REPORT:,} bytes; expected a report of onestage; evaluate again")
        page = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); evaluate again") from error
    as_given = {name: html.unescape(value) for name, value in _SETTING.findall(page)}
    settings = {name: without_folders(name, value) for name, value in as_given.items()}
    head, _, best = page.partition(_BEST)
    said = _SENTENCES.search(page)
    sentences = re.findall(r"<span>(.*?)</span>", said[1], re.DOTALL) if said else []
    return ReportParts(
        page=_without_folders(page, as_given),
        settings=settings,
        sentences=tuple(html.unescape(one) for one in sentences),
        wrong=_figures(head),
        right=_figures(best),
    )


def without_folders(name: str, value: str) -> str:
    """The value of a setting without folders of this machine, if it is an absolute path, or one of data or a model."""
    paths = value.split("+") if name == "data" else [value]  # VOC2007+VOC2012
    absolute = value.startswith(("/", "~", "\\", "file:")) or PureWindowsPath(value).drive
    if not absolute and name not in NAMES_ONLY:
        return value
    return "+".join(PurePosixPath(path.replace("\\", "/")).name or path for path in paths)


def _without_folders(page: str, as_given: dict[str, str]) -> str:
    """The page with the names of data and models in place of their paths, in its title and its settings."""
    paths = {
        escape(as_given[name]): escape(without_folders(name, as_given[name])) for name in NAMES_ONLY if name in as_given
    }

    def title(match: re.Match[str]) -> str:
        text = match[2]
        for path, name in paths.items():
            text = text.replace(path, name)
        return match[1] + text + match[3]

    def setting(match: re.Match[str]) -> str:
        value = escape(without_folders(match[1], html.unescape(match[2])))
        return f"<tr><td>{match[1]}</td><td>{value}</td></tr>"

    return _SETTING.sub(setting, _TITLES.sub(title, page))


def _figures(page: str) -> tuple[Figure, ...]:
    found = []
    for encoded, text in _FIGURE.findall(page):
        try:
            jpeg = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            continue
        if jpeg.startswith(b"\xff\xd8"):
            found.append(Figure(jpeg, html.unescape(text)))
    return tuple(found)
