"""Read weight files from strangers: no code in them runs, and sizes are bounded before anything is parsed.

A file's kind is recognised by its first bytes, not by its name. The header of safetensors is measured before it is
parsed (13 MB take seconds). A .pth file has a pickle, which is a program: its instructions are listed first, without
running them, and the file is refused if they name anything but the few functions that rebuild a plain tensor. Then
`torch.load(weights_only=True)` reads it, whose own list is longer, and can be extended by any library that is imported.
"""

import os
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from onestage.errors import UserError
from onestage.terminal import tell
from onestage.texts import as_unicode

MAX_HEADER_BYTES = 1_000_000  # of a safetensors file
MAX_PICKLE_BYTES = 16_000_000  # of a .pth file, without the values of its tensors

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED_NAMES = frozenset(
    {
        "collections OrderedDict",
        "collections Counter",  # a step schedule's milestones
        "torch Size",
        "torch device",
        "torch.nn.parameter Parameter",
        *(f"torch._utils _rebuild_{what}" for what in ("parameter", "tensor", "tensor_v2")),
        "torch.storage UntypedStorage",
        *(f"{module} {kind}Storage" for module in ("torch", "torch.cuda") for kind in _STORAGES),
        *(f"torch {kind}" for kind in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
    }
)

# Packages whose names say less of a file than those of the project that wrote it
_USUAL = frozenset({*sys.stdlib_module_names, "__builtin__", "numpy", "torch"})

# torch before 1.6 wrote five pickles, then the values of the tensors. The first pickle is always the same number.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by their entry names, on the CPU.

    Takes safetensors and both formats of PyTorch's .pth / .pt. In a training checkpoint the entry that holds the
    weights is found. What DataParallel, torch.compile and Lightning put before every name is taken off.

    Raises:
        UserError: no such file, not a weight file, a damaged one, too large a header, a pickle that would run code, or
            a file of onestage's own.
    """
    start = _first_bytes(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        state_dict = _plain_state_dict(_read_pickled(path, zipped=start.startswith(b"PK")), path)
    elif start[8:9] == b"{":
        state_dict, about = read_safetensors(path)
        if "onestage" in about:
            raise UserError(
                f"{path}: a file of onestage, not another project's weights; take it as it is, also by --from"
            )
    else:
        raise UserError(
            f"{path}: not a weight file (it starts with {start[:12]!r}); expected .safetensors or a PyTorch .pth"
        )
    prefix = re.match(r"((module|_orig_mod|model)\.)*", os.path.commonprefix(list(state_dict)))  # noqa: RUF071
    return {name[prefix.end() if prefix else 0 :]: value for name, value in state_dict.items()}


def is_safetensors(path: Path) -> bool:
    """True for a safetensors file, by its first bytes; a UserError for one that is missing or can't be read."""
    return _first_bytes(path)[8:9] == b"{"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and the metadata of a safetensors file.

    Raises:
        UserError: no such file, not a safetensors file, a damaged one, or a header of more than 1 MB.
    """
    start = _first_bytes(path)
    size = path.stat().st_size
    header_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 2 <= header_bytes <= size - 8:
        raise UserError(f"{path}: not a safetensors file, or cut short ({size} bytes); use another copy")
    if header_bytes > MAX_HEADER_BYTES:
        raise UserError(
            f"{path}: its header has {header_bytes} bytes; expected at most {MAX_HEADER_BYTES}; use another copy"
        )
    try:
        with path.open("rb") as opened:
            # safetensors takes names in UTF-8 only
            name = path if as_unicode(str(path)) == str(path) else f"/dev/fd/{opened.fileno()}"
            with safe_open(name, framework="pt", device="cpu") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: damaged safetensors file ({first_line(error)}); use another copy") from error


def _first_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as .safetensors or .pth")
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _read_pickled(path: Path, *, zipped: bool) -> Any:
    with path.open("rb") as file:
        try:
            if zipped:
                names = _names_in_zip(file, path)
            elif file.read(len(_LEGACY_START)) == _LEGACY_START:
                names = {name for _ in range(4) for name in _names_in_pickle(file, path)}
            else:
                raise UserError(
                    f"{path}: damaged, or a pickle that torch did not write; bring .safetensors or a PyTorch .pth"
                )
        except UserError:
            raise
        except (ValueError, OSError, IndexError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: damaged .pth file ({first_line(error)}); use another copy") from error
        refused = sorted(names - ALLOWED_NAMES, key=lambda name: (name.split()[0].partition(".")[0] in _USUAL, name))
        if refused:
            called = " and ".join(name.replace(" ", ".") for name in refused[:2])
            mend = "save the state dict alone, as .safetensors"
            if refused[0].startswith(("ultralytics", "models.yolo")):
                mend = "it is a YOLO, which has no network here, so train a detector anew"
            raise UserError(
                f"{path}: loading it would call {called}, which no table of tensors needs; it was not loaded; {mend}"
            )
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in torch's readers in many ways
            raise UserError(f"{path}: cannot be read as weights ({first_line(error)}); use another copy") from error


def _names_in_zip(file: BufferedReader, path: Path) -> set[str]:
    """Names in a .pth file since torch 1.6: a zip archive without compression, with one pickle."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(f"{path}: a compressed archive; torch writes its files uncompressed; unpack it first")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if [Path(entry.filename).name for entry in pickles] != ["data.pkl"]:
            raise UserError(f"{path}: not a .pth file of tensors (a TorchScript program?); bring a state dict")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise UserError(f"{path}: its table has {pickles[0].file_size} bytes; expected at most {MAX_PICKLE_BYTES}")
        return _names_in_pickle(BytesIO(archive.read(pickles[0])), path)


def _names_in_pickle(stream: BufferedIOBase, path: Path) -> set[str]:
    """The names ("module name") that the next pickle of a stream would fetch; nothing in it is run."""
    names: set[str] = set()
    start = stream.tell()
    for opcode, argument, position in pickletools.genops(cast(IO[bytes], stream)):
        # Opcodes that fetch a function other than by GLOBAL, whose name is checked
        if opcode.name in {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "PERSID"}:
            raise UserError(f"{path}: its pickle uses {opcode.name}, which torch's files do not; it was not loaded")
        if opcode.name == "GLOBAL":
            names.add(str(argument))
        if (position or 0) - start > MAX_PICKLE_BYTES:
            raise UserError(f"{path}: its table is longer than {MAX_PICKLE_BYTES} bytes; it was not loaded")
    return names


def _plain_state_dict(payload: Any, path: Path) -> dict[str, Tensor]:
    # in a training program's checkpoint, averaged weights first, as timm reads its own and torchvision tests its own
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "weights"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping) and payload[key]:
            payload = {name: value for name, value in payload[key].items() if name != "n_averaged"}
            if key.endswith("_ema"):
                tell(f"{path}: the averaged weights in it are taken ({key})")
            break
    if not isinstance(payload, Mapping) or not payload:
        raise UserError(f"{path}: holds {type(payload).__name__}, not a state dict (entry names with their tensors)")
    for name, value in payload.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UserError(f"{path}: entry {name!r} is {type(value).__name__}; expected tensors only in a state dict")
    return {name: value.detach() for name, value in payload.items()}


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters of it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
