"""What a data set on disk is read as, in plain tuples."""

from __future__ import annotations

import json
from pathlib import Path

from onestage.data import find_datasets, read_dataset
from onestage.data.table import Table


def write(root: Path, name: str, content: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def objects(table: Table, index: int = 0) -> list[tuple]:
    """(class, x0, y0, x1, y1) of the objects of an image; ignored ones end in True."""
    found = table.objects(index)
    rows = zip(found.labels.tolist(), found.boxes_xyxy.round(3).tolist(), found.ignored.tolist(), strict=True)
    return [(table.categories.names[label], *box, *([True] if hard else [])) for label, box, hard in rows]


def read(root: Path, kind: str, split: str = "all") -> tuple[Table, list[tuple[str, str]]]:
    """The table of a split, and (kind, line) of its problems; the format has to be found out."""
    assert [(one.kind, one.others) for one in find_datasets(root)] == [(kind, [])]
    table, problems = read_dataset(root, split)
    return table, [(problem.kind, str(problem)) for problem in problems]
