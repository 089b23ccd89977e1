"""HTML of which every value is escaped, as names are strangers': for pages, and for results in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import DictLoader, Environment, Template
from markupsafe import Markup

from onestage.texts import one_line


def templates(loader: DictLoader | None = None) -> Environment:
    """Templates that make every value safe: it is escaped, and a line without control characters."""

    def safe(value: Any) -> Any:
        return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(loader=loader, autoescape=True, finalize=safe, trim_blocks=True, lstrip_blocks=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A titled table with lines below it, in the notebook's own style; the first column holds names."""
    return _table().render(title=title, columns=columns, rows=rows, notes=notes)


@lru_cache(maxsize=1)
def _table() -> Template:
    return templates().from_string("""\
<strong>{{ title }}</strong>
<table>
<thead>
<tr>{% for name in columns %}<th{% if loop.first %} align="left"{% endif %}>{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in rows %}
<tr>{% for value in row %}<td{% if loop.first %} align="left"{% endif %}>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% for note in notes %}
<div>{{ note }}</div>
{% endfor %}
""")
