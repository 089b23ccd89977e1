"""Models as files for other engines: the table of formats. `write` imports the packages that only one format needs."""

import os
from pathlib import Path

from onestage.export.base import ExportFormat, ModelToExport
from onestage.export.openvino import OpenVinoSession, read_openvino
from onestage.models.hub import hub_name
from onestage.runtime.exported_file import read_exported
from onestage.runtime.session import OnnxSession


def _write_onnx(model: ModelToExport, path: Path) -> None:
    from onestage.export.onnx_graph import write_onnx

    write_onnx(model, path)


def _write_openvino(model: ModelToExport, path: Path) -> None:
    from onestage.export.openvino_graph import write_openvino

    write_openvino(model, path)


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(
        ".onnx",
        extra="onnx",
        write=_write_onnx,
        read=read_exported,
        open_session=lambda path, device: OnnxSession(read_exported(path), device=device),
    ),
    "openvino": ExportFormat(
        ".xml",
        extra="openvino",
        write=_write_openvino,
        read=read_openvino,
        open_session=OpenVinoSession,
        precisions=("fp32", "bf16", "int8"),
        beside=(".bin",),
    ),
}


def format_of(path: str | os.PathLike[str]) -> ExportFormat | None:
    """The format of an exported file, by its suffix; None for any other file, and for a hub's model."""
    if hub_name(path) is not None:
        return None
    return next((one for one in FORMATS.values() if one.suffix == Path(path).suffix), None)
