"""Turn another project's checkpoint into a model file."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from onestage.detectors import build, detector_config
from onestage.errors import UserError
from onestage.models.import_weights import checkpoint_settings, import_weights
from onestage.models.loading import Report
from onestage.models.model_file import save_model
from onestage.models.weight_files import read_state_dict
from onestage.structures import Categories, repeated
from onestage.terminal import Display, command_display
from onestage.texts import counted, decode_text

MAX_CATEGORIES_BYTES = 1 << 20


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
    """Import a checkpoint strictly, write a model file, and print and return the report. No code in the file is run.

    Args:
        detector: name of the network that the checkpoint holds.
        categories: text file with one class name a line, in the order of the labels, without background. torchvision's
            list is taken as it is: `__background__` is passed over, and each `N/A` gets a number.
        layout: as in `import_weights`.
        anchor_sizes: anchor sizes that it was trained with, one a level and one more, in pixels of the input; None: the
            paper's for VOC. torchvision's checkpoints always get torchvision's.

    Raises:
        UserError: a file that can't be read, or an entry that is unknown or does not fit.
    """
    display = command_display(display)
    file, categories, out = Path(file), Path(categories), Path(out)
    names = _class_names(categories)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a model file ends in .safetensors")
    config = detector_config(detector).adjusted({"anchor_sizes": anchor_sizes and tuple(map(float, anchor_sizes))})
    state_dict, source = read_state_dict(file), str(file)
    settings = checkpoint_settings(state_dict, config, layout, source=source)
    network = build(detector, len(names), config=replace(config, **settings))
    report = import_weights(network, state_dict, layout, source=source)
    display.say(*report.lines())
    save_model(out, network, Categories.from_names(names), imported_from=report.layout)
    display.say(f"written: {out}, {detector} with {counted(len(names), 'class')} from {file}")
    return report


def _class_names(file: Path) -> list[str]:
    """The names in a list of classes; a UserError for a file that is none, or that names a class twice."""
    if file.stat().st_size > MAX_CATEGORIES_BYTES:
        raise UserError(f"{file}: over {MAX_CATEGORIES_BYTES:,} bytes; expected one class name a line")
    names = [line.strip() for line in decode_text(file.read_bytes()).splitlines() if line.strip()]
    if names[:1] == ["__background__"]:
        del names[0]
    gaps = count(1)  # ids of COCO that no class has
    names = [f"N/A {next(gaps)}" if name == "N/A" else name for name in names]
    if not names:
        raise UserError(f"{file}: no class name in it; write one a line")
    if (twice := repeated(names)) is not None:
        raise UserError(f"{file}: two classes are called {twice[:80]!r}; give each its own name")
    return names
