"""`log.csv` of a run: a row every few steps."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class LogRow:
    """One interval of training: a row of `log.csv`. Losses are means over the interval, per positive anchor."""

    step: int
    epoch: float
    images: int  # seen since the run began
    lr: float
    loss: float
    classification_loss: float
    box_loss: float
    images_per_second: float
    seconds: float  # of training since the run began
    map_area: float | None = None  # VOC AP at IoU 0.5, in the rows where the run was evaluated


class LogFile:
    """`log.csv`, appended row by row; a resumed run drops the rows after its checkpoint."""

    def __init__(self, path: Path, *, resume_at_step: int = 0) -> None:
        kept = [row for row in read_log(path) if row.step <= resume_at_step] if resume_at_step else []
        self._file: TextIO = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, [f.name for f in fields(LogRow)])
        self._writer.writeheader()
        for row in kept:
            self.write(row)

    def write(self, row: LogRow) -> None:
        values = {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in asdict(row).items()}
        self._writer.writerow(values)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `log.csv`; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            LogRow(
                step=int(row["step"]),
                epoch=float(row["epoch"]),
                images=int(row["images"]),
                lr=float(row["lr"]),
                loss=float(row["loss"]),
                classification_loss=float(row["classification_loss"]),
                box_loss=float(row["box_loss"]),
                images_per_second=float(row["images_per_second"]),
                seconds=float(row["seconds"]),
                map_area=float(row["map_area"]) if row["map_area"] else None,
            )
            for row in csv.DictReader(file)
        ]
