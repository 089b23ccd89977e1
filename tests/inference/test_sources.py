"""The images and videos that the words of `onestage predict MODEL SOURCE...` name."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace

import pytest
from nasty_names import FILE_NAMES

from onestage.errors import UserError
from onestage.inference.sources import ImageSource, VideoSource, open_sources, open_video


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "frame.dat")
    (source,) = open_sources([str(tmp_path / "frame.dat")])
    assert isinstance(source, ImageSource)
    assert source.content == tmp_path / "frame.dat"
    assert source.output_name == "frame.png"


def test_a_folder_gives_its_images_sorted_with_those_of_the_folders_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "notes.txt", "night/c.webp", "night/deep/d.tiff", ".hidden.jpg", ".trash/e.jpg")
    names = [source.output_name for source in open_sources([str(tmp_path)])]
    assert names == ["a.jpg", "b.png", "night/c.png", "night/deep/d.png"]


def test_predict_folder_leaves_nothing_out_but_pipes(tmp_path: Path) -> None:
    """Pipes would wait for somebody to write (video_pipe_in_folder)."""
    names = ["a.jpg", "b.jfif", "c.jpe", "d.dib", "e.avif", "f.heic", "g.mp4"]
    touch(tmp_path, *(f"in/{name}" for name in names), "store/deep/h.jpg")
    (tmp_path / "in/linked").symlink_to("../store")
    for pipe in ("x.jpg", "y.mp4"):
        os.mkfifo(tmp_path / "in" / pipe)
    sources = open_sources([str(tmp_path / "in")])
    assert [Path(source.name).name for source in sources] == [*names, "h.jpg"]
    assert [source.output_name for source in sources[1:4]] == ["b.jpg", "c.jpg", "d.png"]
    assert sources[-1].output_name == "linked/deep/h.jpg"
    found = open_sources([str(tmp_path / "in/*")])
    assert [Path(source.name).name for source in found] == [*names, "h.jpg"]


def test_a_folder_gives_what_predict_wrote_below_it_only_where_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "out/a.jpg", "out/torn.jpg", "out/redrawn.jpg", "out/mine.jpg")
    drawn = (tmp_path / "out/a.jpg").stat()
    lines = [["a.jpg", [drawn.st_size, drawn.st_mtime_ns]], ["torn.jpg", None], ["redrawn.jpg", [1, 2]]]
    (tmp_path / "out/.onestage-predict.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    for word in (".", "*", "**/*.jpg"):
        assert [source.name for source in open_sources([word])] == ["a.jpg", "out/mine.jpg", "out/redrawn.jpg"]
    assert len(open_sources(["out/*"])) == 4  # the folder is named


@pytest.mark.parametrize(
    "word", ["tree", "tree/**", "tree/**/*.jpg", "**/*.jpg", "**/**/x.jpg", "tree/a/*", "*/**/a/**"]
)
def test_predict_glob_link_loops_end_and_give_each_file_once(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "tree/a/x.jpg", "tree/a/notes.txt", "tree/.hidden/y.jpg")
    for link in ("back", "again"):
        (tmp_path / "tree/a" / link).symlink_to("..")
    monkeypatch.chdir(tmp_path)
    assert [Path(source.name).resolve() for source in open_sources([word])] == [tmp_path.resolve() / "tree/a/x.jpg"]


def test_a_glob_gives_the_images_it_matches_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "2.jpg", "10.jpg", "1.png", "1.xml")
    assert [s.output_name for s in open_sources([str(tmp_path / "*.jpg")])] == ["10.jpg", "2.jpg"]
    assert [s.output_name for s in open_sources([str(tmp_path / "*")])] == ["1.png", "10.jpg", "2.jpg"]


def test_two_stars_reach_into_folders_and_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "cam1/a.jpg", "cam2/b.jpg")
    sources = open_sources([str(tmp_path / "**")])
    assert [Path(s.name).relative_to(tmp_path).as_posix() for s in sources] == ["cam1/a.jpg", "cam2/b.jpg"]


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
        (["texts"], "texts: the folder holds no image and no video"),
        (["texts/*.jpg"], r"texts/\*.jpg: the glob matches no image and no video"),
        (["good", "missing"], "missing: no such file or folder"),
        (["a\0b.jpg"], "no such file or folder"),
        (["pipe.jpg"], "pipe.jpg: neither a file nor a folder"),
        (["@pipe.jpg"], "@pipe.jpg: neither a file nor a folder"),
    ],
)
def test_a_word_that_stands_for_nothing_is_named(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "texts/readme.txt", "good/1.jpg")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jpg")
    with pytest.raises(UserError, match=message):
        open_sources(words)


def test_a_video_is_known_by_its_suffix_and_drawn_as_mp4(tmp_path: Path) -> None:
    touch(tmp_path, "a.AVI", "a.jpg", "b.mkv", "notes.ts")
    sources = open_sources([str(tmp_path)])
    assert [(type(s), s.output_name) for s in sources] == [
        (VideoSource, "a.mp4"),
        (ImageSource, "a-2.jpg"),
        (VideoSource, "b.mp4"),
    ]
    assert isinstance(open_sources([str(tmp_path / "notes.ts")])[0], VideoSource)  # named, it is taken at its word


def test_a_list_names_sources_line_by_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c/d.jpg")
    names = tmp_path / "list.txt"
    names.write_text(f"{tmp_path}/b.jpg\n\n# not this one\n{tmp_path}/c\n", encoding="utf-8")
    assert [s.output_name for s in open_sources([f"@{names}"])] == ["b.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("line", "message"), [("@other.txt", "in a list"), ("-", "in a list"), ("missing.jpg", "no such")]
)
def test_a_line_that_a_list_can_not_hold_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        open_sources([f"@{tmp_path}/list.txt"])


def test_a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list.txt: the list can't be read"):
        open_sources([f"@{tmp_path}/list.txt"])


@pytest.mark.parametrize(
    ("text", "output_name", "live"),
    [
        ("rtsp://camera.local/stream1", "stream1.mp4", True),
        ("rtsp://camera.local", "camera.local.mp4", True),
        ("https://example.org/films/street.mp4?token=1", "street.mp4", False),
        ("https://example.org/live/index.m3u8", "index.mp4", True),
    ],
)
def test_an_address_is_a_stream_or_a_film(text: str, output_name: str, live: bool) -> None:
    (source,) = open_sources([text])
    assert isinstance(source, VideoSource)
    assert (source.address, source.name, source.output_name, source.live) == (text, text, output_name, live)


def test_an_image_has_an_address() -> None:
    (source,) = open_sources(["https://example.org/a/b.jpg?size=big"])
    assert isinstance(source, ImageSource)
    assert source.output_name == "b.jpg"


@pytest.mark.parametrize(
    ("kind", "output_name", "live"),
    [
        ("image/jpeg", "download.png", None),
        ("video/mp4", "download.mp4", False),
        ("multipart/x-mixed-replace", "download.mp4", True),
    ],
)
def test_an_address_without_a_suffix_is_what_the_server_says(
    kind: str, output_name: str, live: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(headers=message_from_string(f"Content-Type: {kind}\n\n"))
    monkeypatch.setattr("onestage.inference.sources._answer", lambda address: nullcontext(answer))
    (source,) = open_sources(["https://example.org/download?id=5"])
    assert isinstance(source, ImageSource if live is None else VideoSource)
    assert (source.output_name, getattr(source, "live", None)) == (output_name, live)


@pytest.mark.parametrize("word", ["http://[::1", "https://[x]/a.jpg", "rtsp://[::1", "http://a:99999/b.jpg"])
def test_predict_bad_addresses_are_named_in_one_line(word: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+: no address \([^\n]+$") as refused:
        open_sources([word])
    assert word in str(refused.value)


def test_predict_closed_stdin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input can't be read"):
        open_sources(["-"])


def test_other_addresses_are_refused() -> None:
    with pytest.raises(UserError, match="addresses begin with"):
        open_sources(["ftp://example.org/a.jpg"])


@pytest.mark.parametrize(
    ("platform", "address", "device_format"), [("linux", "/dev/video1", "v4l2"), ("darwin", "1", "avfoundation")]
)
def test_a_camera_is_a_device(platform: str, address: str, device_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    (source,) = open_sources(["camera:1"])
    assert source == VideoSource(address, "camera:1", "camera-1.mp4", live=True, device_format=device_format)


def test_an_image_is_no_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"a.jpg: no video"):
        open_video(tmp_path / "a.jpg")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_list(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg", "käse.jpg")
    Path("list.txt").write_bytes("a.jpg\r\nkäse.jpg\r\n".encode(encoding))
    assert [source.name for source in open_sources(["@list.txt"])] == ["a.jpg", "käse.jpg"]


def test_nasty_names_stand_in_lists_as_they_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{name}.jpg" for name in FILE_NAMES if len(name.splitlines()) == 1]
    touch(tmp_path, *names)
    Path("list.txt").write_bytes(b"\n".join(map(os.fsencode, names)))
    assert [source.name for source in open_sources(["@list.txt"])] == names
