"""A state dict on its way from another project's entry names to ours."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Renamed:
    """Where each entry of a state dict goes; every entry ends in exactly one of `names`, `left_out`, `unexplained`.

    Attributes:
        layout: whose entry names it had.
        values: our entry name -> tensor.
        names: our entry name -> theirs.
        changed: our entry name -> what was done to the values.
        left_out: their entry name -> why.
        unexplained: their entry names that nothing is known about; an import fails on them.
    """

    layout: str
    values: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)

    def add(self, ours: str, theirs: str, value: Tensor, *, change: str | None = None) -> None:
        """Give an entry its place; a second one for the same place is unexplained."""
        if ours in self.values:
            self.unexplained.append(theirs)
            return
        self.values[ours] = value
        self.names[ours] = theirs
        if change is not None:
            self.changed[ours] = change
