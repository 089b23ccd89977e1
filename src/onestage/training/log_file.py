"""`log.csv` of a run: a row every few steps.

Its columns are `step`, `epoch`, `images` (seen since the run began), `lr`, `loss`, `NAME_loss` for each part of it
(means over the steps since the last row, per positive anchor), `images_per_second`, `seconds` (of training since the
run began) and `map_area` (VOC's, in the rows where the run was evaluated).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

LogRow = dict[str, float | None]  # numbers by column


def begin_log(path: Path, *, resume_at_step: int = 0) -> None:
    """Begin a `log.csv`; a resumed run keeps the rows up to its checkpoint."""
    kept = [row for row in read_log(path) if (row["step"] or 0) <= resume_at_step] if resume_at_step else []
    path.write_text("")
    append_rows(path, kept)


def append_rows(path: Path, rows: Iterable[LogRow]) -> None:
    """Write more rows, with the header before the first one of the file."""
    with path.open("a", newline="") as file:
        for row in rows:
            writer = csv.DictWriter(file, list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `log.csv`; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | None:
    if text.isdecimal():  # steps and images keep all their digits when they are written again
        return int(text)
    return float(text) if text else None
