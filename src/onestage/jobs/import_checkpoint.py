"""Turn another project's checkpoint into a model file of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onestage.detectors import build, detector_config
from onestage.errors import UserError
from onestage.models.import_weights import Report, import_weights, settings_of
from onestage.models.model_file import save_model
from onestage.structures import Categories
from onestage.terminal import Display

MOST_CATEGORIES_BYTES = 1 << 20


def import_checkpoint(
    file: str | os.PathLike[str],
    *,
    detector: str,
    categories: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layout: str | None = None,
    anchor_sizes: Sequence[float] | None = None,
    display: Display | None = None,
) -> Report:
    """Import a checkpoint strictly and write a self-describing model file.

    Args:
        file: .safetensors or .pth; loading it runs no code.
        detector: the network it holds.
        categories: a text file, one class name a line, in label order, without background.
        out: the `.safetensors` to write.
        layout: whose entry names (`onestage.models.import_weights.LAYOUTS`); None finds out.
        anchor_sizes: that it was trained with, one a level and one more, pixels of the input; None: the paper's for
            VOC. torchvision's are always its own.
        display: where the report is printed.

    Raises:
        UserError: a file that cannot be read, or an entry that does not fit or is not known.
    """
    display = display or Display()
    names = read_names(Path(categories))
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a model file ends in .safetensors")
    file = Path(file)
    config = detector_config(detector).adjusted({"anchor_sizes": anchor_sizes and tuple(map(float, anchor_sizes))})
    network = build(detector, len(names), config=replace(config, **settings_of(file, config, layout)))
    report = import_weights(network, file, layout=layout)
    display.say(str(report))
    save_model(out, network, network.state_dict(), Categories.from_names(names), imported_from=report.layout)
    display.say(f"written: {out}")
    return report


def read_names(path: Path) -> list[str]:
    """The class names of a text file, one a line; blank lines are passed over."""
    if path.stat().st_size > MOST_CATEGORIES_BYTES:
        raise UserError(f"{path}: over {MOST_CATEGORIES_BYTES:,} bytes; expected one class name a line")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path}: no class name in it; write one a line")
    return names
