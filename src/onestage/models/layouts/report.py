"""What an import did, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """Where every entry of a file went, and where every entry of the network came from.

    Attributes:
        source: the file, or what else it came from.
        layout: whose entry names it had.
        loaded: our entry name -> the file's; the values are the file's own.
        changed: our entry name -> what was done to the file's values on the way.
        left_out: the file's entry name -> why it is not used.
        fresh: our entry names that the file does not have; they keep their initial values.
        notes: what else was set, a sentence each (the normalisation, the anchors).
    """

    source: str
    layout: str
    loaded: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def renamed(self) -> dict[str, str]:
        """Our entry name -> the file's, where they differ."""
        return {ours: theirs for ours, theirs in self.loaded.items() if ours != theirs}

    def __str__(self) -> str:
        """A few lines for people."""
        counts = [f"{len(self.loaded)} entries loaded ({len(self.renamed)} renamed)"]
        if self.changed:
            counts.append(f"{len(self.changed)} of them changed")
        if self.left_out:
            counts.append(f"{len(self.left_out)} left out")
        if self.fresh:
            counts.append(f"{len(self.fresh)} of the network's start fresh")
        lines = [f"{self.source} ({self.layout}): {', '.join(counts)}"]
        lines += [f"  {what}: {_some(names)}" for what, names in _grouped(self.changed).items()]
        lines += [f"  left out, {why}: {_some(names)}" for why, names in _grouped(self.left_out).items()]
        if self.fresh:
            lines.append(f"  start fresh: {_some(list(self.fresh))}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return groups


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
