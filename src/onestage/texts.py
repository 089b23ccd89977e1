r"""Text of strangers: read whatever its encoding, and written so that it shows itself and does nothing else.

Names of classes and files, and messages with such names in them, are data. Every writer takes one of these:

| written to | by |
|---|---|
| the terminal, a page, an XML file, a list, a drawn image | `one_line` |
| CSV, Parquet and JSON, which hold all of Unicode | `as_unicode`, and `json_text` by it |
| the name of a new file, which lists and XML files name | `as_file_name` |

Markup is no matter of theirs: rich gets `Text` (`terminal.cell`), the templates of pages and XML escape what they get.
"""

import codecs
import json
import os
import re
from typing import Any

# Halves of characters (surrogates of UTF-16). Those from U+DC80 to U+DCFF are bytes of file names (PEP 383).
_HALVES = "\ud800-\udc7f\udd00-\udfff"
# What moves the cursor, ends a line or has no shape: control characters, soft hyphens, marks that turn the direction of
# text, separators, byte order marks, what is no character. Not the joiners that scripts and emoji need.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff"
)
_half, _unseen, _not_in_a_name = (re.compile(f"[{some}]") for some in (_HALVES, _UNSEEN, f"{_UNSEEN}\ud800-\udfff\\\\"))
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural where it is one: "1 image", "2,000 images"."""
    many = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def as_unicode(text: str) -> str:
    r"""Text for any encoder: bytes of a file name that are no UTF-8 become `\xe9`, halves of characters `\ud800`."""
    text = _half.sub(_spelled, text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    r"""Text as one line in which everything can be seen: `as_unicode`, and `\n`, `\x1b` or `\u202e` spelled out too."""
    return _unseen.sub(_spelled, as_unicode(text))


def as_file_name(name: str) -> str:
    r"""A name for a new file that a line of a list can hold: `_` for what `one_line` spells out and for a backslash.

    It has no space around it and its stem, and is not hidden.
    """
    stem, suffix = os.path.splitext(_not_in_a_name.sub("_", name))
    stem = re.sub(r"^[\s.]+|[\s.]+$", "", stem) or "_"
    return stem + suffix.strip()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON, in ASCII, whose every string is `as_unicode`: parsers may refuse halves of characters (RFC 8259, 8.2)."""
    text = json.dumps(value, indent=indent)
    return json.dumps(_all_as_unicode(value), indent=indent) if "\\ud" in text else text


def _all_as_unicode(value: Any) -> Any:
    if isinstance(value, dict):
        return {_all_as_unicode(key): _all_as_unicode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_all_as_unicode(item) for item in value]
    return as_unicode(value) if isinstance(value, str) else value


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def decode_text(data: bytes) -> str:
    """Text by its byte order mark, else UTF-8, else Windows' Latin; bytes that are none are replaced."""
    if data.startswith(_UTF_16):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig" if is_utf8(data) else "cp1252", errors="replace")


def decode_file_names(data: bytes) -> str:
    """Names of files by a byte order mark, else as the file system has them, also where that is no UTF-8."""
    if data.startswith(_UTF_16):
        return decode_text(data)
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def is_utf8(data: bytes) -> bool:
    """True for UTF-8, also if its last character is cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True
