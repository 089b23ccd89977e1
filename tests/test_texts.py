"""Text of strangers, read and written. Reliability case: nasty-names."""

from __future__ import annotations

import json
import os

import pytest
from nasty_names import FILE_NAMES, NASTY_NAMES, NO_UTF_8, is_seen

from onestage.texts import as_file_name, as_unicode, decode_file_names, json_text, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x\x1b[31mRED\x1b[0m", r"x\x1b[31mRED\x1b[0m"),
        ("one\ntwo\r\n\tthree", r"one\ntwo\r\n\tthree"),
        (NO_UTF_8, r"caf\xe9"),
        ("half \ud83d", r"half \ud83d"),
        ("\u202eevil\u200b\ufeff", r"\u202eevil\u200b\ufeff"),
        ("a\u2028b\x85", r"a\u2028b\x85"),
        ("käse 漢字 [m6] <b> :car: \\n", "käse 漢字 [m6] <b> :car: \\n"),
        ("👩\u200d🚒 क्\u200dष", "👩\u200d🚒 क्\u200dष"),  # joiners that a script and an emoji need
        ("", ""),
    ],
)
def test_nasty_names_become_a_line_in_which_everything_is_seen(text: str, line: str) -> None:
    assert one_line(text) == line
    assert one_line(line) == line


def test_nasty_names_are_all_seen() -> None:
    for name in (*NASTY_NAMES, NO_UTF_8, "\ud800"):
        assert is_seen(one_line(name))
        assert is_seen(as_file_name(name))
        assert one_line(as_file_name(name)) == as_file_name(name)


def test_nasty_names_stay_as_they_are_where_a_format_holds_all_of_unicode() -> None:
    assert [as_unicode(name) for name in NASTY_NAMES] == list(NASTY_NAMES)
    assert as_unicode("\udcc3\udca9") == "é"  # UTF-8 that a system in another encoding took for single bytes


def test_nasty_names_in_json_are_unicode_whatever_reads_it() -> None:
    text = json_text({NO_UTF_8: ["\ud83d", ("🦊", 1, None)], "a\n": "b"})
    assert text.isascii()
    assert json.loads(text) == {r"caf\xe9": [r"\ud83d", ["🦊", 1, None]], "a\n": "b"}


def test_names_of_new_files_can_stand_on_a_line() -> None:
    names = [" a\n\\b .png ", ".hidden.jpg", " .png", "b..", "käse 2.tar.gz"]
    assert [as_file_name(name) for name in names] == ["a__b.png", "hidden.jpg", "_.png", "b.", "käse 2.tar.gz"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_names_of_files_in_a_list_are_those_on_the_disk(mark: bytes) -> None:
    names = [name for name in FILE_NAMES if len(name.splitlines()) == 1]
    assert decode_file_names(mark + b"\n".join(map(os.fsencode, names))).split("\n") == names
    assert decode_file_names("käse.jpg".encode("utf-16")) == "käse.jpg"  # as PowerShell writes
