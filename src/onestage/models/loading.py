"""Put renamed tensors into a detector, all of them or none, and report where each entry went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onestage.detectors import Detector
from onestage.errors import UserError


@dataclass
class Renamed:
    """A checkpoint under our entry names. Each of its entries is in one of `names`, `left_out` and `unknown`.

    Attributes:
        layout: layout that it had.
        values: our entry -> tensor.
        names: our entry -> theirs.
        changed: our entry -> what was done to the values.
        left_out: their entry -> why it is not used.
        unknown: their entries that the layout does not know; an import fails on them.
    """

    layout: str
    values: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, ours: str, theirs: str, value: Tensor, change: str | None = None) -> None:
        """Take an entry; a second one of the same name is unknown."""
        if ours in self.values:
            self.unknown.append(theirs)
            return
        self.values[ours], self.names[ours] = value, theirs
        if change is not None:
            self.changed[ours] = change


@dataclass(frozen=True)
class Report:
    """Where every entry of a file went, and where every entry of the network came from.

    Attributes:
        source: the file, or where else the tensors came from.
        layout: layout of its entry names.
        loaded: our entry -> the file's.
        changed: our entry -> what was done to the file's values.
        left_out: the file's entry -> why it is not used.
        fresh: our entries that the file lacks; they keep their initial values.
        notes: what else was set (normalisation, anchors), a sentence each.
    """

    source: str
    layout: str
    loaded: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        renamed = sum(ours != theirs for ours, theirs in self.loaded.items())
        counts = [f"{len(self.loaded)} entries loaded ({renamed} renamed)"]
        if self.changed:
            counts.append(f"{len(self.changed)} of them changed")
        if self.left_out:
            counts.append(f"{len(self.left_out)} left out")
        if self.fresh:
            counts.append(f"{len(self.fresh)} of the network's start fresh")
        lines = [f"{self.source} ({self.layout}): {', '.join(counts)}"]
        lines += [f"  {what}: {some(names)}" for what, names in _by_reason(self.changed).items()]
        lines += [f"  left out, {why}: {some(names)}" for why, names in _by_reason(self.left_out).items()]
        if self.fresh:
            lines.append(f"  start fresh: {some(self.fresh)}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load_entries(
    detector: Detector,
    renamed: Renamed,
    *,
    source: str,
    expected: Sequence[str],
    optional: Collection[str] = (),
    notes: tuple[str, ...] = (),
) -> Report:
    """Copy a renamed checkpoint into a detector, which stays as it is if an error is raised.

    Args:
        detector: changed in place.
        renamed: the checkpoint.
        source: the file, for messages and the report.
        expected: our entries that the file should fill.
        optional: those of them that it may lack; they stay fresh.
        notes: notes of the report.

    Raises:
        UserError: an entry that is missing, has another shape, is not finite, or has no place in the detector.
    """
    own = detector.state_dict()
    values, names = renamed.values, renamed.names
    no_place = sorted(names[name] for name in values.keys() - own.keys())
    if no_place:
        raise UserError(
            f"{source}: {some(no_place)} have no place in {detector.name}; was it made for another detector?"
        )
    fresh = tuple(name for name in expected if name not in values)
    missing = sorted(set(fresh).difference(optional))
    if missing:
        raise UserError(f"{source}: lacks {some(missing)} of {detector.name}; was it made for another detector?")
    for name, value in values.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{source}, {names[name]}: shape {tuple(value.shape)}, expected {tuple(own[name].shape)} for {name} of "
                f"{detector.name}; build the detector that the file was made for"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{source}, {names[name]}: holds NaN or infinite values; use another copy")
    detector.load_state_dict({**own, **values})
    return Report(source, renamed.layout, names, renamed.changed, renamed.left_out, fresh, notes)


def some(names: Sequence[str]) -> str:
    """The first few entry names and the number of the others."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names
