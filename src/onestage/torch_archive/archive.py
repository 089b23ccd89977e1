"""The archive that torch.export.save writes: a zip of parts, read without trusting it, and written.

Below one folder lie the program (JSON), a list of the weights and one of the constants (JSON), their bytes, and files
that were put beside them: our header. Of what else torch's reader looks for, some is always the same and the rest is
refused: libraries to load, pickles of constants and example inputs, its older formats.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from onestage.errors import UserError
from onestage.runtime.exported_file import METADATA_KEY

FOLDER = "archive/"  # torch's own word, where the file has no name yet
PROGRAM = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
WEIGHT_LIST, CONSTANT_LIST = f"{WEIGHTS}model_weights_config.json", f"{CONSTANTS}model_constants_config.json"
HEADER = f"extra/{METADATA_KEY}"
LISTS = (PROGRAM, WEIGHT_LIST, CONSTANT_LIST)
TENSOR_FILE = re.compile(r"data/weights/weight_\d{1,6}|data/constants/tensor_\d{1,6}")
ALWAYS = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    "data/sample_inputs/model.pt": b"",  # torch would unpickle it
}
MAX_BYTES, MAX_JSON_BYTES, MAX_PARTS = (1 << 31) - 1, 1 << 24, 20_000
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say: the same content gives the same file


def read_archive(path: Path) -> dict[str, bytes]:
    """The parts of an archive of ours, without those that are always the same.

    Raises:
        UserError: nothing there, no archive, or one that holds what ours don't.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give one that `onestage export --format torch` wrote")
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size:,} bytes; an exported program has at most {MAX_BYTES:,}")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = _read_parts(archive, path, size)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OverflowError, struct.error) as error:
        raise UserError(f"{path}: no exported program of torch, or a damaged one; export it again") from error
    missing = [part for part in (*LISTS, *ALWAYS) if part not in parts]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; export it again")
    return {part: content for part, content in parts.items() if part not in ALWAYS}


def _read_parts(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, bytes]:
    entries = archive.infolist()
    if len(entries) > MAX_PARTS or sum(entry.file_size for entry in entries) > size:
        raise UserError(f"{path}: unpacks to more than it holds; not read")
    if not any(entry.filename == FOLDER + HEADER for entry in entries):
        raise UserError(f"{path}: not exported by onestage (it has no {HEADER!r}); use `onestage export`")
    parts: dict[str, bytes] = {}
    for entry in entries:
        part = entry.filename.removeprefix(FOLDER)
        known = part in (*LISTS, *ALWAYS, HEADER) or TENSOR_FILE.fullmatch(part)
        if not known or part == entry.filename or part in parts or entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path}: holds {entry.filename[:80]!r}, which no export of onestage does; not read")
        if entry.file_size > MAX_JSON_BYTES and not TENSOR_FILE.fullmatch(part):
            raise UserError(f"{path}: {part} has {entry.file_size:,} bytes, at most {MAX_JSON_BYTES:,} are read")
        parts[part] = archive.read(entry)
        if parts[part] != ALWAYS.get(part, parts[part]):
            raise UserError(f"{path}: holds another {part} than exports of onestage do; not read")
    return parts


def pack_archive(parts: Mapping[str, bytes]) -> bytes:
    """An archive of these parts and of those that are always the same."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for part, value in sorted({**ALWAYS, **parts}.items()):
            archive.writestr(zipfile.ZipInfo(FOLDER + part, NO_DATE), value)
    return content.getvalue()


def parts_digest(parts: Mapping[str, bytes]) -> str:
    """SHA-256 of all parts but the header, which holds it."""
    digest = hashlib.sha256()
    for part in sorted(parts.keys() - {HEADER}):
        digest.update(f"{part} {len(parts[part])}\n".encode())
        digest.update(parts[part])
    return digest.hexdigest()
