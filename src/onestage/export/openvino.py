"""The format `openvino`: an xml and a bin beside it, in float32, bfloat16 or int8, run on the processor."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from jaxtyping import UInt8

from onestage.compute.threads import kept_signal_stack
from onestage.errors import UserError
from onestage.export.base import resize_of
from onestage.runtime import exported_file
from onestage.runtime.exported_file import METADATA_KEY, ExportedFile
from onestage.runtime.session import Outputs, Session
from onestage.runtime.threads import cpu_threads

MAX_XML_BYTES = 1 << 27
# With this package OpenVINO and NNCF tell Google Analytics of every import and conversion, from a fork of this process.
# They do without it, so it can't be imported here.
sys.modules.setdefault("openvino_telemetry", cast(Any, None))
PRECISION = "f32"  # OpenVINO's precision for whatever the file does not itself have in bfloat16 or int8


def read_openvino(path: str | os.PathLike[str]) -> ExportedFile:
    """Read our header in the xml, and check that the bin is the one that was written with it.

    Raises:
        UserError: a file is missing, is not ours, or was damaged or changed.
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
    digest = exported_file.file_digest(weights)
    return ExportedFile(name, content, exported_file.check_header(entry.get("value", "").encode(), digest, name))


class OpenVinoSession(Session):
    """An exported network in OpenVINO, on the processor. Threads take turns."""

    def __init__(self, path: str | os.PathLike[str], device: str | None = None) -> None:
        """Check the files and load them into OpenVINO.

        Raises:
            UserError: files that aren't ours or were changed, OpenVINO is missing or can't run them, another device.
        """
        super().__init__(read_openvino(path))
        self._turn = Lock()
        if device not in (None, "cpu"):
            raise UserError(f"{device}: OpenVINO's files run on the processor here; give cpu")
        try:
            import openvino
        except ImportError as error:
            raise UserError("OpenVINO is missing: pip install openvino") from error
        self._resize = resize_of(self.file)
        with self._calling_openvino():
            self._core: Any = openvino.Core()
            # OpenVINO maps weights by default: exporting over the file would then end the process that uses it.
            self._core.set_property({"ENABLE_MMAP": False})
            self._model: Any = self._core.read_model(os.fspath(path))
        sized = self._model.clone()
        skip_resizing(sized)
        # The network for images that have its input size already, as predictors give them
        self.without_resizing = self._compiled(sized)

    def __reduce__(self) -> Any:
        return _opened_again, (os.path.abspath(self.file.name), self.file.header["sha256"])

    @cached_property
    def with_resizing(self) -> Any:
        """The compiled network for images of any size; it is compiled when the first one comes."""
        return self._compiled(self._model)

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        if self.forked:
            raise UserError(
                f"{self.file.name}: opened before this process was forked, and OpenVINO works only where it was opened;"
                " load the file in each process"
            )
        size_hw = images_rgb.shape[1:3]
        inputs = {"images": images_rgb, "score_threshold": np.array([score_threshold], dtype=np.float32)}
        with self._turn:  # a compiled network has one place for what goes in and comes out
            model = self.without_resizing if self._resize.image_hw(size_hw) == size_hw else self.with_resizing
            found = model(inputs)
        return Outputs(*(found[name] for name in Outputs._fields))

    def _compiled(self, model: Any) -> Any:
        settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": cpu_threads()}
        with self._calling_openvino():
            return self._core.compile_model(model, "CPU", settings)

    @contextmanager
    def _calling_openvino(self) -> Iterator[None]:
        """Keep Ctrl-C working, and report OpenVINO's errors in one line."""
        try:
            with kept_signal_stack():
                yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.file.name}: OpenVINO can't run it ({reason})") from error


def _opened_again(path: str, digest: str) -> OpenVinoSession:
    """A pickled session, of the same file."""
    session = OpenVinoSession(path)
    if session.file.header["sha256"] != digest:
        raise UserError(f"{path}: was exported anew since the predictor was pickled; load it again")
    return session


def skip_resizing(model: Any) -> None:
    """Connect the input past the resizing, in place. Images of the network's size pass the resizing unchanged anyway.

    The resizing is a quarter of a light network's time. Files of versions that did not name the two values stay whole.
    """
    before, after = exported_file.BEFORE_RESIZING, exported_file.RESIZED
    values = {name: output for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    if before in values and after in values:
        for reader in values[after].get_target_inputs():
            reader.replace_source_output(values[before])
        model.validate_nodes_and_infer_types()
