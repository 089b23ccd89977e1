"""A file that `onestage export --format torch` wrote, in torch.

`torch.export.load` may run code of the file that it loads. So a file goes there only once it was held against what ours
hold (`torch_archive`), and as an archive written anew from the parts that were looked at, so that nothing hides where
two readers of zip files differ. What is relied on beyond that: JSON and zip are read by Python's own library; operators
on the list compute and do no more, and torch checks their arguments. A stranger's program may still compute without end
or ask for more memory than there is.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  (registers the NMS that programs use)
from jaxtyping import UInt8
from torch.export.passes import move_to_device_pass

from onestage.errors import UserError
from onestage.runtime.exported_file import ExportedFile, check_header
from onestage.runtime.session import Outputs, Session
from onestage.torch_archive.archive import HEADER, pack_archive, parts_digest, read_archive
from onestage.torch_archive.rules import check_program
from onestage.training.precision import choose_compute


class TorchSession(Session):
    """In torch, on the processor or a GPU."""

    def __init__(self, path: str | os.PathLike[str], *, device: str | None = None) -> None:
        """Read the file and load its program.

        Args:
            device: None takes a GPU where there is one.

        Raises:
            UserError: a file that isn't ours, isn't safe or was changed, that this torch can't load, or a device that
                this machine lacks.
        """
        super().__init__(read_torch_program(path))
        self._device = choose_compute(device, "fp32").device
        try:
            with _quiet():
                program = torch.export.load(io.BytesIO(self.file.content))
                if self._device.type != "cpu":
                    program = move_to_device_pass(program, self._device)
                self._run = program.module()
        except Exception as error:  # of the loader: of any class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.file.name}: torch {torch.__version__} can't load it ({reason[:200]})") from error

    @torch.no_grad()
    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        images = torch.from_numpy(images_rgb).to(self._device)
        threshold = torch.tensor([score_threshold], device=self._device)
        return Outputs(*(part.cpu().numpy() for part in self._run(images, threshold)))


def read_torch_program(path: str | os.PathLike[str]) -> ExportedFile:
    """What a program says about itself, once nothing in it is found that ours don't hold.

    Returns:
        The file; its content is the archive written anew from what was looked at.

    Raises:
        UserError: nothing there, not ours, not safe, damaged or changed.
    """
    name, parts = os.fspath(path), read_archive(Path(path))
    header = check_header(parts[HEADER], parts_digest(parts), name)
    check_program(parts, name)
    return ExportedFile(name, pack_archive(parts), header)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's words to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
