"""What the words of `onestage predict MODEL SOURCE...` stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from onestage.errors import UserError
from onestage.inference.sources import open_sources


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "frame.dat")
    (source,) = open_sources([str(tmp_path / "frame.dat")])
    assert source.path == tmp_path / "frame.dat"
    assert source.output_name == "frame.png"


def test_a_folder_gives_its_pictures_sorted_with_those_of_the_folders_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "notes.txt", "night/c.webp", "night/deep/d.tiff", ".hidden.jpg", ".trash/e.jpg")
    names = [source.output_name for source in open_sources([str(tmp_path)])]
    assert names == ["a.jpg", "b.png", "night/c.png", "night/deep/d.png"]


def test_a_glob_gives_the_pictures_it_matches_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "2.jpg", "10.jpg", "1.png", "1.xml")
    assert [s.output_name for s in open_sources([str(tmp_path / "*.jpg")])] == ["10.jpg", "2.jpg"]
    assert [s.output_name for s in open_sources([str(tmp_path / "*")])] == ["1.png", "10.jpg", "2.jpg"]


def test_two_stars_reach_into_folders_and_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "cam1/a.jpg", "cam2/b.jpg")
    sources = open_sources([str(tmp_path / "**")])
    assert [s.path.relative_to(tmp_path).as_posix() for s in sources] == ["cam1/a.jpg", "cam2/b.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].jpg", "a1.jpg")
    assert [s.output_name for s in open_sources([str(tmp_path / "a[1].jpg")])] == ["a[1].jpg"]


def test_sources_keep_the_given_order_and_each_file_comes_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    sources = open_sources([str(tmp_path / "b.jpg"), str(tmp_path), str(tmp_path / "c.jpg")])
    assert [s.output_name for s in sources] == ["b.jpg", "a.jpg", "c.jpg"]


def test_names_differ_before_the_suffix_so_that_no_result_overwrites_another(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "x/1.png", "x/1-2.jpg", "y/1.jpg", "y/1.JPG")
    sources = open_sources([str(tmp_path / "x"), str(tmp_path / "y")])
    assert [s.output_name for s in sources] == ["1-2.jpg", "1.jpg", "1-3.png", "1-4.jpg", "1-5.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no source given"),
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["texts"], "texts: the folder holds no picture"),
        (["texts/*.jpg"], r"texts/\*.jpg: the glob matches no picture"),
        (["good", "missing"], "missing: no such file or folder"),
        (["a\0b.jpg"], "no such file or folder"),
    ],
)
def test_a_word_that_stands_for_nothing_is_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "texts/readme.txt", "good/1.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_sources(words)
