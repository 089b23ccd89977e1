"""An exported ONNX file, read without trusting it.

Before an engine sees it: it holds one graph of standard operators, all its weights are inside (no path to another
file), and the graph is the one whose SHA-256 the exporter wrote. The fields are those of onnx.proto, IR version 10.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import UserError

FORMAT = 1
METADATA_KEY = "onestage"
BEFORE_RESIZING, RESIZED = "images_before_resizing", "images_resized"  # values of the graph, (B, 3, H, W)
MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_DEPTH = 32  # of graphs in attributes of nodes; ours have one

OpenVinoPrecision = Literal["fp32", "bf16", "int8"]  # what an export for OpenVINO says of its network

_Bytes = memoryview

# message -> field number -> the message that it holds; what is not listed is not looked into
_MESSAGES = {
    "model": {7: "graph", 8: "opset", 14: "property", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_NODE_OP_TYPE, _NODE_DOMAIN, _OPSET_DOMAIN = 4, 7, 1
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class ExportedFile:
    """A file that passed.

    Attributes:
        name: for messages.
        content: the whole file.
        header: what the exporter wrote: detector, categories, resize, selection, origin.
    """

    name: str
    content: bytes
    header: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Of every class, by label."""
        return tuple(self.header["categories"]["names"])

    @property
    def source_ids(self) -> tuple[int, ...]:
        """What the training data's file called each class."""
        return tuple(self.header["categories"]["source_ids"])


def read_exported(path: str | os.PathLike[str]) -> ExportedFile:
    """Read an exported file and hold it to the rules above.

    Raises:
        UserError: nothing there, not ONNX, not exported by onestage, damaged, or not safe to run.
    """
    name = os.fspath(path)
    try:
        if not Path(path).is_file():
            raise UserError(f"{name}: no such file; give one that `onestage export` wrote")
        size = os.path.getsize(path)
        if size > MAX_FILE_BYTES:
            raise UserError(f"{name}: {size:,} bytes; an ONNX file has at most {MAX_FILE_BYTES:,}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror})") from error
    try:
        header, graph = _look_through(content, name)
    except (ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: no ONNX file, or a damaged one; export it again") from error
    if header is None or graph is None:
        raise UserError(f"{name}: not exported by onestage (it has no {METADATA_KEY!r} entry); use `onestage export`")
    return ExportedFile(name, content, check_header(bytes(header), hashlib.sha256(graph).hexdigest(), name))


def graph_digest(content: bytes) -> str:
    """SHA-256 of a serialised model's graph, as its header holds it."""
    graphs = [value for number, value in _fields(memoryview(content)) if number == 7 and not isinstance(value, int)]
    return hashlib.sha256(graphs[0]).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look_through(content: bytes, name: str) -> tuple[_Bytes | None, _Bytes | None]:
    """The header's JSON and the graph; everything in the file is looked at on the way."""
    header = graph = None
    waiting: list[tuple[str, _Bytes, int]] = [("model", memoryview(content), 0)]
    while waiting:
        message, payload, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError("too deep")
        if message in ("training", "function"):
            raise UserError(f"{name}: holds a {message} beside its graph, which no export of onestage does; not run")
        fields = list(_fields(payload))
        _refuse_unsafe(message, fields, name)
        if message == "property":
            key, value = (next((v for n, v in fields if n == number), b"") for number in (1, 2))
            if not isinstance(key, int) and bytes(key) == METADATA_KEY.encode() and not isinstance(value, int):
                header = memoryview(value)
        for number, value in fields:
            inner = _MESSAGES.get(message, {}).get(number)
            if inner is None or isinstance(value, int):
                continue
            if message == "model" and inner == "graph":
                if graph is not None:
                    raise ValueError("two graphs")
                graph = value
            waiting.append((inner, value, depth + 1))
    return header, graph


def _refuse_unsafe(message: str, fields: list[tuple[int, int | _Bytes]], name: str) -> None:
    """Each occurrence of a field counts: readers differ in which one they take."""
    if message == "tensor":
        apart = (
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and v != 0) for number, v in fields
        )
        if any(apart):
            raise UserError(f"{name}: a weight lies in another file (external data); an export of onestage is one file")
    domain = {"node": _NODE_DOMAIN, "opset": _OPSET_DOMAIN}.get(message)
    for text in (_text(value) for number, value in fields if number == domain):
        if text not in _STANDARD:
            types = [_text(value) for number, value in fields if number == _NODE_OP_TYPE]
            operator = types[-1] if message == "node" and types else "operators"
            raise UserError(f"{name}: {operator} of the domain {text!r} is not of the ONNX standard; not run")


def _text(value: int | _Bytes | bytes) -> str:
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")


def check_header(header: bytes, digest: str, name: str) -> dict[str, Any]:
    """The header's entries, where it has those that a reader needs and names the weights that were found.

    Raises:
        UserError: damaged, of another version, or of other weights.
    """
    damaged = f"{name}: its header is damaged; export it again"
    try:
        values = json.loads(header)
        names, source_ids = values["categories"]["names"], values["categories"]["source_ids"]
        format_, expected = values["format"], values["sha256"]
        fits = len(names) == len(source_ids) > 0 and all(isinstance(n, str) for n in names)
        fits = fits and all(isinstance(i, int) for i in source_ids) and len(set(names)) == len(names)
        fits = fits and isinstance(values["detector"], str)
        fits = fits and isinstance(values["evaluation_score_threshold"], float)
        fits = fits and isinstance(values["selection"]["score_threshold"], float)
        fits = fits and all(isinstance(values[key], dict) for key in ("resize", "selection", "origin"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(damaged) from error
    if not fits:
        raise UserError(damaged)
    if format_ != FORMAT:
        raise UserError(f"{name}: export format {format_}; this version reads {FORMAT}; upgrade it")
    if digest != expected:
        raise UserError(f"{name}: was changed after its export (SHA-256 {digest[:12]}...); use another copy")
    return values


def _fields(message: _Bytes) -> Iterator[tuple[int, int | _Bytes]]:
    """Number and value of each field of a protobuf message: whole numbers, and the bytes of what has a length.

    Raises:
        ValueError, IndexError: not a message.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind, number = key & 7, key >> 3
        if key >> 32:
            raise ValueError("a field number of more than 29 bits, which readers cut in different ways")
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
        elif kind == 2:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("cut off")
            yield number, message[position : position + length]
            position += length
        elif kind in (1, 5):  # 8 and 4 bytes
            position += 8 if kind == 1 else 4
            if position > len(message):
                raise ValueError("cut off")
        else:
            raise ValueError(f"kind {kind}")


def _varint(message: _Bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")
