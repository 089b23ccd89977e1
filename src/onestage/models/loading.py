"""Put renamed tensors into a detector, all of them or none, and report where each entry went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onestage.detectors import Detector
from onestage.errors import UserError


@dataclass
class Renamed:
    """A checkpoint under our entry names. Each of its entries is in one of `names`, `left_out` and `unknown`."""

    layout: str  # of its entry names
    values: dict[str, Tensor] = field(default_factory=dict)  # by our entries
    names: dict[str, str] = field(default_factory=dict)  # our entry -> theirs
    changed: dict[str, str] = field(default_factory=dict)  # our entry -> what was done to the values
    left_out: dict[str, str] = field(default_factory=dict)  # their entry -> why it is not used
    unknown: list[str] = field(default_factory=list)  # their entries that the layout does not know; an import fails

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
    """Where every entry of a file went, and where every entry of the network came from."""

    source: str  # the file, or where else the tensors came from
    layout: str  # of its entry names
    loaded: Mapping[str, str] = field(default_factory=dict)  # our entry -> the file's
    changed: Mapping[str, str] = field(default_factory=dict)  # our entry -> what was done to the file's values
    left_out: Mapping[str, str] = field(default_factory=dict)  # the file's entry -> why it is not used
    fresh: tuple[str, ...] = ()  # our entries that the file lacks; they keep their initial values
    notes: tuple[str, ...] = ()  # what else was set (normalisation, anchors), a sentence each

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """What is printed: the counts, then what is special, a line each."""
        renamed = sum(ours != theirs for ours, theirs in self.loaded.items())
        counts = [f"{len(self.loaded)} entries loaded ({renamed} renamed)"]
        lengths = {"of them changed": len(self.changed), "left out": len(self.left_out)}
        lengths["of the network's start fresh"] = len(self.fresh)
        counts += [f"{length} {what}" for what, length in lengths.items() if length]
        left_out = [(name, f"left out, {why}") for name, why in self.left_out.items()]
        fresh = [(name, "start fresh") for name in self.fresh]
        by_reason: dict[str, list[str]] = {}
        for name, reason in (*self.changed.items(), *left_out, *fresh):
            by_reason.setdefault(reason, []).append(name)
        more = [*(f"{reason}: {some(names)}" for reason, names in by_reason.items()), *self.notes]
        return [f"{self.source} ({self.layout}): {', '.join(counts)}", *(f"  {line}" for line in more)]


def load_entries(
    detector: Detector,
    renamed: Renamed,
    *,
    source: str,
    prefix: str = "",
    optional: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Report:
    """Copy a renamed checkpoint into a detector, which stays as it is if an error is raised.

    Args:
        prefix: prefix of our entries that the file should fill.
        optional: prefixes of those of them that it may lack; they stay fresh.

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
    # Older files have no counts of batches.
    expected = [name for name in own if name.startswith(prefix) and not name.endswith("num_batches_tracked")]
    fresh = tuple(name for name in expected if name not in values)
    missing = sorted(name for name in fresh if not name.startswith(optional))
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
