"""The format `onnx`: one file, from images of any size to final boxes, for ONNX Runtime and other engines."""

from __future__ import annotations

from pathlib import Path

from onestage.export.base import ExportFormat, ModelToExport
from onestage.runtime.exported_file import read_exported
from onestage.runtime.session import OnnxSession


def _write(model: ModelToExport, path: Path) -> None:
    from onestage.export.onnx_graph import write_onnx

    write_onnx(model, path)


def _open_session(path: Path, device: str | None) -> OnnxSession:
    return OnnxSession(read_exported(path), device=device)


ONNX = ExportFormat(".onnx", extra="onnx", write=_write, read=read_exported, open_session=_open_session)
