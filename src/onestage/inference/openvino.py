"""A file that `onestage export --format openvino` wrote, in its engine."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from jaxtyping import UInt8

from onestage.compute.signal_stack import kept_signal_stack
from onestage.errors import UserError
from onestage.inference.exported_header import resize_of
from onestage.runtime.exported_file import (
    BEFORE_RESIZING,
    METADATA_KEY,
    RESIZED,
    ExportedFile,
    check_header,
    file_digest,
)
from onestage.runtime.session import Outputs, Session, cores

MAX_XML_BYTES = 1 << 27
PRECISION = "f32"  # of what a file does not itself have in bfloat16 or int8


class OpenVinoSession(Session):
    """In OpenVINO, on the processor.

    Attributes:
        without_resizing: compiled, for images that have the network's size, as predictors give them.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str | None = None, threads: int | None = None) -> None:
        """Read the files and hand them to OpenVINO.

        Raises:
            UserError: files that aren't ours or were changed, OpenVINO is missing or can't run them, another device.
        """
        super().__init__(read_openvino(path))
        if device not in (None, "cpu"):
            raise UserError(f"{device}: OpenVINO's files run on the processor here; give cpu")
        try:
            import openvino
        except ImportError as error:
            raise UserError("OpenVINO is missing: pip install openvino") from error
        self._resize = resize_of(self.file)
        self._settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": threads or cores()}
        with self._in_one_line(), kept_signal_stack():
            self._core: Any = openvino.Core()
            # Mapped weights would be read from the file as long as it runs: exporting over it would end the process.
            self._core.set_property({"ENABLE_MMAP": False})
            self._model: Any = self._core.read_model(os.fspath(path))
        sized = self._model.clone()
        skip_resizing(sized)
        self.without_resizing = self._compiled(sized)

    @cached_property
    def with_resizing(self) -> Any:
        """The whole file, compiled when it is first asked for."""
        return self._compiled(self._model)

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        size_hw = images_rgb.shape[1:3]
        model = self.without_resizing if self._resize.image_hw(size_hw) == size_hw else self.with_resizing
        threshold = np.array([score_threshold], dtype=np.float32)
        found = model({"images": images_rgb, "score_threshold": threshold})
        return Outputs(*(found[name] for name in Outputs._fields))

    def _compiled(self, model: Any) -> Any:
        with self._in_one_line(), kept_signal_stack():
            return self._core.compile_model(model, "CPU", self._settings)

    @contextmanager
    def _in_one_line(self) -> Generator[None, None, None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.file.name}: OpenVINO can't run it ({reason})") from error


def skip_resizing(model: Any) -> None:
    """Lead images past the resizing, which leaves those of the network's size as they are, in place.

    It is a quarter of a light network's time. Files of versions that did not name the two places stay whole.
    """
    places = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    if BEFORE_RESIZING in places and RESIZED in places:
        for reader in places[RESIZED].get_target_inputs():
            reader.replace_source_output(places[BEFORE_RESIZING])
        model.validate_nodes_and_infer_types()


def read_openvino(path: str | os.PathLike[str]) -> ExportedFile:
    """What an xml of ours says about itself, and that its bin is the one that was written with it.

    Raises:
        UserError: nothing there, not ours, damaged or changed.
    """
    name, weights = os.fspath(path), Path(path).with_suffix(".bin")
    for file in (Path(path), weights):
        if not file.is_file():
            raise UserError(f"{file}: no such file; an export for OpenVINO is an .xml and a .bin of one name")
    if os.path.getsize(path) > MAX_XML_BYTES:
        raise UserError(f"{name}: over {MAX_XML_BYTES:,} bytes; export it again")
    content = Path(path).read_bytes()
    try:
        entry = fromstring(content).find(f"./rt_info/{METADATA_KEY}")
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UserError(f"{name}: no export for OpenVINO, or a damaged one; export it again") from error
    if entry is None:
        raise UserError(f"{name}: not exported by onestage (it has no {METADATA_KEY!r} entry); use `onestage export`")
    header = check_header(entry.get("value", "").encode(), file_digest(weights), name)
    return ExportedFile(name, content, header)
