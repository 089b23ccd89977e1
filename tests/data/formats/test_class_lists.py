"""Lists of classes in text files, beside labels that have numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_image
from read_back import objects, read, write

from onestage.data.reading import listed_names
from onestage.errors import UserError


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["dog", "", "cat"], ("dog", "cat")),
        (["0 dog", "1 guide dog"], ("dog", "guide dog")),
        (["1: dog", "2: cat"], ("dog", "cat")),
        (["0,dog", "1,cat"], ("dog", "cat")),
        (["1. dog", "2. cat"], ("dog", "cat")),
        (["dog,cat, guide dog"], ("dog", "cat", "guide dog")),
        (["['dog', \"cat\"]"], ("dog", "cat")),
        # numbers that are part of names
        (["1 cent", "2 cent", "5 cent"], ("1 cent", "2 cent", "5 cent")),
        (["1 euro", "2 euro"], ("1 euro", "2 euro")),
        (["0.5 mm", "1.5 cm"], ("0.5 mm", "1.5 cm")),
        (["0 dog", "cat"], ("0 dog", "cat")),
        (["1 dog", "0 cat"], ("1 dog", "0 cat")),
        (["0", "1"], ("0", "1")),
        (["0 dog"], ("0 dog",)),
        (["one, two", "three"], ("one, two", "three")),
        ([], ()),
    ],
)
def test_names_in_a_list_of_classes(lines: list[str], names: tuple[str, ...]) -> None:
    assert listed_names(lines) == names


@pytest.mark.parametrize("content", ["0 dog\n1 cat\n", "dog,cat\n"])
def test_yolo_takes_the_names_of_such_lists(tmp_path: Path, content: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "classes.txt", content)
    write(tmp_path, "a.txt", "1 0.5 0.5 0.25 0.5\n")
    table, problems = read(tmp_path, "yolo")
    assert table.categories.names == ("dog", "cat")
    assert (objects(table), problems) == ([("cat", 30, 15, 50, 45)], [])


def test_an_empty_line_in_a_list_that_labels_count_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "classes.txt", "dog\n\ncat\n\n")
    write(tmp_path, "a.txt", "2 0.5 0.5 0.25 0.5\n")
    with pytest.raises(UserError, match=r"classes.txt: line 2 is empty, and labels may count it; name its class"):
        read(tmp_path, "yolo")


def test_a_class_has_one_spelling_however_its_letters_are_composed(tmp_path: Path) -> None:
    composed, apart = "K\u00e4fer", "Ka\u0308fer\u200b"
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "classes.txt", f"\ufeff{apart}\ncat\n")
    write(tmp_path, "labels.csv", f"filename,class,x1,y1,x2,y2\na.jpg,{composed},1,2,3,4\na.jpg,{apart},5,6,7,8\n")
    assert objects(read(tmp_path, "csv")[0]) == [(composed, 1, 2, 3, 4), (composed, 5, 6, 7, 8)]
    (tmp_path / "labels.csv").unlink()
    write(tmp_path, "a.txt", "0 0.5 0.5 0.25 0.5\n")
    assert objects(read(tmp_path, "yolo")[0]) == [(composed, 30, 15, 50, 45)]
