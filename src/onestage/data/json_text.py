"""The text of JSON files that strangers wrote."""

from __future__ import annotations

import json
from typing import Any

from onestage.errors import UserError
from onestage.structures import repeated
from onestage.texts import decode_text


def parse_json(data: bytes, name: str, once: bool = True) -> Any:
    """The value of a JSON text; a UserError that names it if it is none, or (`once`) if a key stands twice.

    Which of two values is meant, nobody knows, and JSON's readers keep the last alone.
    """
    try:
        return json.loads(data, object_pairs_hook=_once if once else None)
    except UnicodeDecodeError:  # by a tool that writes its machine's own encoding
        return parse_json(decode_text(data).encode(), name, once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not JSON ({error}); write it again") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ValueError for one with a key that stands twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"the key {str(repeated(key for key, _ in pairs))[:80]!r} stands twice")
    return record
