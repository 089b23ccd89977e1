"""An exported ONNX file, read without trusting it.

An engine gets a file only if it holds one graph of standard operators with all its weights inside (no path to another
file), and if the SHA-256 of the graph is the one that the exporter wrote. Fields are numbered as in onnx.proto, IR
version 10.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calibration import ScoreCalibration
from .errors import UserError
from .tiles import Tiling

FORMAT = 1
METADATA_KEY = "onestage"
BEFORE_RESIZING, RESIZED = "images_before_resizing", "images_resized"  # two values of the graph, (B, 3, H, W)
MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_DEPTH = 32  # of messages in messages: graphs in attributes of nodes hold graphs

# message -> field number -> the message in it; other fields are not looked into
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
    """An exported file that passed the checks."""

    name: str  # its path, for messages
    content: bytes
    header: dict[str, Any]  # the exporter's entries: detector, categories, resize, selection, origin

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return tuple(self.header["categories"]["names"])

    @property
    def input_bits(self) -> int:
        """How many bits of 16-bit images hold values."""
        return checked_bits(self.header.get("input_bits"), self.name)

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut into tiles that go through the network one by one; None: whole images."""
        return Tiling.from_header(self.header.get("tiling"), self.name)

    @property
    def merging(self) -> tuple[float, bool]:
        """The IoU threshold by which detections of tiles are merged, and True if classes may suppress each other."""
        selection = self.header["selection"]
        iou_threshold, class_agnostic = selection.get("iou_threshold"), selection.get("class_agnostic")
        if not isinstance(iou_threshold, float) or not isinstance(class_agnostic, bool):
            raise UserError(f"{self.name}: the selection in its header is damaged; export it again")
        return iou_threshold, class_agnostic

    @property
    def score_thresholds(self) -> float | tuple[float, ...]:
        """The score above which the file's detections are kept, or that of each class, by label."""
        selection = self.header["selection"]
        own = selection.get("class_thresholds")
        return float(selection["score_threshold"]) if own is None else tuple(own)

    @property
    def calibration(self) -> ScoreCalibration | None:
        """What the scores mean; None where nobody has found it."""
        return ScoreCalibration.from_header(self.header.get("calibration"), len(self.names), self.name)

    @property
    def source_ids(self) -> tuple[int, ...]:
        """Ids of the classes in the training data's file, by label."""
        return tuple(self.header["categories"]["source_ids"])


def read_exported(path: str | os.PathLike[str]) -> ExportedFile:
    """Read an exported file and check it.

    Raises:
        UserError: no such file, not ONNX, not exported by onestage, damaged, or not safe to run.
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
        header, digest = _header_if_safe(content, name), graph_digest(content)
    except UserError:
        raise
    except (ValueError, IndexError) as error:
        raise UserError(f"{name}: no ONNX file, or a damaged one; export it again") from error
    if header is None:
        raise UserError(f"{name}: not exported by onestage (it has no {METADATA_KEY!r} entry); use `onestage export`")
    return ExportedFile(name, content, check_header(header, digest, name))


def graph_digest(content: bytes) -> str:
    """SHA-256 of a serialised model's one graph, as in the header; raises ValueError or IndexError for other bytes."""
    (graph,) = (value for number, value in _fields(memoryview(content)) if number == 7 and not isinstance(value, int))
    return hashlib.sha256(graph).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header_if_safe(content: bytes, name: str) -> bytes | None:
    """The header's JSON, if there is one, once every message of the file has been found safe."""
    header = None
    waiting = [("model", memoryview(content), 0)]
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
            if _text(key) == METADATA_KEY and not isinstance(value, int):
                header = bytes(value)
        inner = _MESSAGES.get(message, {})
        waiting += [(inner[n], v, depth + 1) for n, v in fields if n in inner and not isinstance(v, int)]
    return header


def _refuse_unsafe(message: str, fields: list[tuple[int, int | memoryview]], name: str) -> None:
    """Refuse weights in other files and foreign operators. A field may come twice; both are checked: readers differ."""
    for number, value in fields:
        elsewhere = number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        if message == "tensor" and elsewhere:
            raise UserError(f"{name}: a weight lies in another file (external data); an export of onestage is one file")
        if number == {"node": _NODE_DOMAIN, "opset": _OPSET_DOMAIN}.get(message) and _text(value) not in _STANDARD:
            types = [_text(value) for number, value in fields if number == _NODE_OP_TYPE]
            operator = types[-1] if message == "node" and types else "operators"
            raise UserError(f"{name}: {operator} of the domain {_text(value)!r} is not of the ONNX standard; not run")


def _text(value: int | memoryview | bytes) -> str:
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")


def check_header(header: bytes, digest: str, name: str) -> dict[str, Any]:
    """The header's entries, checked: all that a reader needs are there, and `digest` is the SHA-256 among them.

    Raises:
        UserError: the header is damaged, of another version, or of other weights.
    """
    try:
        values = json.loads(header)
        names, source_ids = values["categories"]["names"], values["categories"]["source_ids"]
        format_, expected = values["format"], values["sha256"]
        fits = len(names) == len(source_ids) == len(set(names)) == len(set(source_ids)) > 0 and (
            all(isinstance(class_name, str) for class_name in names)
            and all(isinstance(source_id, int) for source_id in source_ids)
            and isinstance(values["detector"], str)
            and isinstance(values["evaluation_score_threshold"], float)
            and 0 <= values["evaluation_score_threshold"] <= 1
            and isinstance(values["selection"]["score_threshold"], float)
            and _are_thresholds(values["selection"].get("class_thresholds"), len(names))
            and all(isinstance(values[key], dict) for key in ("resize", "selection", "origin"))
        )
        if not fits:
            raise ValueError("an entry of another kind")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: its header is damaged; export it again") from error
    if format_ != FORMAT:
        raise UserError(f"{name}: export format {format_}; this version reads {FORMAT}; upgrade it")
    if digest != expected:
        raise UserError(f"{name}: was changed after its export (SHA-256 {digest[:12]}...); use another copy")
    return values


def _are_thresholds(scores: Any, num_classes: int) -> bool:
    """True for a score from 0 to 1 for each class, and for None."""
    return scores is None or (
        isinstance(scores, list)
        and len(scores) == num_classes
        and all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value (a number, or bytes) of each field of a protobuf message; else ValueError or IndexError."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type, number = key & 7, key >> 3
        if key >> 32:
            raise ValueError("a field number of more than 29 bits, which readers cut in different ways")
        if wire_type == 0:
            value, position = _varint(message, position)
        elif wire_type in (1, 2, 5):  # 8 bytes; a length and so many bytes; 4 bytes
            length, position = _varint(message, position) if wire_type == 2 else (8 if wire_type == 1 else 4, position)
            if position + length > len(message):
                raise ValueError("cut off")
            value, position = message[position : position + length], position + length
        else:
            raise ValueError(f"wire type {wire_type}")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def checked_bits(bits: object, name: str) -> int:
    """How many bits of 16-bit images hold values, as a header says; 16 where it does not. Else a UserError."""
    if bits is None:
        return 16
    if not isinstance(bits, int) or not 8 <= bits <= 16:
        raise UserError(f"{name}: input_bits in its header is {bits!r}, expected 8 to 16; use another copy")
    return bits
