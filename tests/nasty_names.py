"""Names that do something where they are taken for more than text: one list for the tests of every writer."""

from __future__ import annotations

import os
import unicodedata

NASTY_NAMES = (
    "bolt [m6]",  # rich's markup
    "cat [/x]",
    "[bold]b[/bold]",
    "a:car:b",  # its emoji
    "<script>alert(1)</script>",
    "a&b \"c\" 'd' ]]>",
    "x\x1b[31mRED\x1b[0m",  # a colour
    "one\nonestage: all good\r\tthree",
    "\x00 and \x9b",
    "\u202ethe wrong way",
    "a\u2028b\x85c\ufffe",
    "{{ 7 * 7 }} %s {0} \\n",
    "=1+1",
    "käse 漢字 🦊 می‌خواهم",
)
NO_UTF_8 = os.fsdecode(b"caf\xe9")  # of a file alone: no class can have it
FILE_NAMES = (*(name for name in NASTY_NAMES if not {"/", "\0"} & set(name)), NO_UTF_8)


def is_seen(text: str) -> bool:
    """True for text that can be encoded and has a shape, each letter of it; joiners have one in what they join."""
    text.encode()
    return not any(unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in text.replace("\u200c", ""))
