"""Putting renamed tensors into a network, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from onestage.errors import UserError


@runtime_checkable
class Network(Protocol):
    """What an import needs of a detector; `onestage.detectors.Detector` says what each of these does."""

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def config(self) -> Any: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...

    def set_normalization(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None: ...

    def check_settings(self, settings: Mapping[str, Any]) -> None: ...

    def adopt(self, settings: Mapping[str, Any]) -> None: ...


def load_entries(
    network: Network, values: Mapping[str, Tensor], names: Mapping[str, str], *, wanted: Iterable[str], source: str
) -> None:
    """Copy tensors into a network by its own entry names, all of them or none.

    Args:
        network: the detector.
        values: our entry name -> tensor.
        names: our entry name -> the file's, for the messages.
        wanted: our entry names that must all be there.
        source: the file, for the messages.

    Raises:
        UserError: an entry missing, of another shape, not a number, or one that the network lacks.
    """
    own = network.state_dict()
    missing = sorted(set(wanted) - set(values))
    unknown = sorted(names[name] for name in set(values) - set(own))
    if unknown:
        raise UserError(f"{source}: {some(unknown)} have no place in {network.name}; was it made for another detector?")
    if missing:
        raise UserError(f"{source}: lacks {some(missing)} of {network.name}; was it made for another detector?")
    for name, value in values.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{source}, {names[name]}: shape {tuple(value.shape)}, expected {tuple(own[name].shape)} for {name} of "
                f"{network.name}; build the detector that the file was made for"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{source}, {names[name]}: holds NaN or infinite values; use another copy")
    network.load_state_dict({**own, **values})


def some(names: list[str]) -> str:
    """The first of some entry names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
