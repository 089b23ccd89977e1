"""The words of `onestage predict MODEL SOURCE...` -> images and videos from files, folders, cameras and addresses."""

import glob
import io
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import chain, dropwhile, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from onestage.data.predictions import written_by_predict
from onestage.errors import UserError
from onestage.runtime.decode import EXTENSIONS, MAX_FILE_BYTES, UNREAD_EXTENSIONS, ImageError
from onestage.texts import decode_file_names

IMAGE_SUFFIXES = frozenset(chain(*EXTENSIONS.values(), UNREAD_EXTENSIONS))  # the last are named and passed over
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp", ".m3u8"}
)
ONLY_BY_NAME = frozenset({".ts", ".m3u8"})  # left out of folders, where they are often TypeScript and playlists
STREAM_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt"})
VIDEO_FILE_TYPES = frozenset({"video/mp4", "video/webm", "video/quicktime", "video/x-matroska", "video/x-msvideo"})
CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation"}  # FFmpeg's, by `sys.platform`
SECONDS_TO_ANSWER = 15.0
LEAST_BYTES_PER_SECOND = 20_000  # an image that comes more slowly is given up after `SECONDS_TO_ANSWER`


@dataclass(frozen=True)
class ImageSource:
    """An image to detect in.

    `output_name` is the image's path below the folder that was named, .jpg for a JPEG and .png for any other. It is
    unique among the sources of one call even without its suffix, so that no result overwrites another.
    """

    content: Path | str | bytes  # a file, an address (http, https), or an encoded image
    name: str  # the path, address or word that named it
    output_name: str  # path of the drawn image below the output folder, with forward slashes, never leading upwards


@dataclass(frozen=True)
class VideoSource:
    """A video file, a camera or a stream."""

    address: str  # the path or address that FFmpeg opens
    name: str  # the path, address or word that named it
    output_name: str  # path of the drawn video below the output folder, .mp4; unique as an image's is
    live: bool = False  # True for cameras and streams, which have no end and don't wait for their reader
    device_format: str | None = None  # FFmpeg's name of the interface to a camera


Source: TypeAlias = ImageSource | VideoSource


def open_sources(texts: Sequence[str]) -> list[Source]:
    """The images and videos that the words name, in the order of the words, each file once.

    A word is

    - a file: a video if its suffix is a video's, else an image, whatever its suffix;
    - a folder: its images and videos and those of its subfolders, sorted by path, without hidden ones and without what
      `predict` wrote into a subfolder;
    - a glob such as `street/*.jpg` or `**/cam1/*` (its matches are sorted), likewise without what `predict` wrote;
    - `@list.txt`: a file with one such word on each line; empty lines and lines that start with # are skipped;
    - `camera:0`; the address of a stream (rtsp, rtmp, http, ...) or of an image (http, https);
    - `-`: an image on standard input.

    Raises:
        UserError: no words, or a word that names no image and no video.
    """
    found = [source for text in texts for source in _named(text)]
    if not found:
        raise UserError("no source given; name an image, a video, a folder, a glob such as 'street/*.jpg' or camera:0")
    first_of: dict[str, Source] = {}
    for source in found:
        is_file = not _scheme(source.name) and source.name != "-"
        first_of.setdefault(os.path.realpath(source.name) if is_file else source.name, source)
    return _with_unique_names(first_of.values())


def open_video(text: str | os.PathLike[str]) -> VideoSource:
    """The video file, camera or stream that a word names.

    Raises:
        UserError: the word names an image, several things, or nothing.
    """
    sources = open_sources([os.fspath(text)])
    if len(sources) == 1 and isinstance(sources[0], VideoSource):
        return sources[0]
    raise UserError(f"{os.fspath(text)}: no video; its suffix would be one of {' '.join(sorted(VIDEO_SUFFIXES))}")


def _named(text: str) -> list[Source]:
    """The sources that one word names; their output names may still clash with those of other words."""
    if text == "-":
        return [ImageSource(_standard_input(), text, "stdin.png")]
    if text.startswith("@") and not os.path.exists(text):
        return [source for word in _words_of_list(text[1:]) for source in _named(word)]
    if _scheme(text):
        return [_camera(text) if _scheme(text) == "camera" else _at_address(text)]
    path = Path(text)
    if path.is_file():
        return [_file(path, path.name)]
    if path.is_dir():
        found, holds, mend = list(_in_folder(path)), "the folder holds", "name another"
    elif path.exists():
        raise UserError(f"{text}: neither a file nor a folder; give a pipe's content as -, or name a file")
    elif glob.has_magic(text):
        found, holds, mend = list(_matching(text)), "the glob matches", "try it with ls"
    else:
        raise UserError(f"{text}: no such file or folder; name an image, a video, a folder or a glob")
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise UserError(f"{text}: {holds} no image and no video ({suffixes}); {mend}")
    return found


def _standard_input() -> bytes:
    try:
        if sys.stdin is None:
            raise OSError("it is closed")
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"-: standard input can't be read ({error}); give an image, as in < street.jpg") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"standard input: more than the {MAX_FILE_BYTES:,} bytes allowed for an image")
    return data


def _words_of_list(text: str) -> list[str]:
    if os.path.exists(text) and not os.path.isfile(text):
        raise UserError(f"@{text}: neither a file nor a folder; name a file that lists sources line by line")
    try:
        lines = decode_file_names(Path(text).read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"@{text}: the list can't be read ({getattr(error, 'strerror', None) or error})") from error
    words = [word for word in map(str.strip, lines) if word and not word.startswith("#")]
    for word in words:
        if word.startswith("@") or word == "-":
            raise UserError(f"@{text}: {word} in a list; give it by itself")
    return words


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder in and below this one with the names of its files, sorted, without hidden ones.

    Links to folders are followed, and each folder comes once: links may lead back to where they are.
    """
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in visible}
        folders[:] = [name for name in visible if not (real[name] in seen or seen.add(real[name]))]
        yield parent, sorted(name for name in files if not name.startswith("."))


def matching(pattern: str) -> Iterator[str]:
    """The paths that a glob matches; `**` is any folder that `walk` gives, so that loops of links have an end."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    stars = parts.index("**")
    rest = list(dropwhile(lambda part: part == "**", parts[stars:])) or ["*"]
    for top in glob.iglob(os.path.join(*parts[:stars])) if stars else ["."]:
        for folder, _ in walk(top):
            yield from (path.removeprefix("./") for path in matching(os.path.join(glob.escape(folder), *rest)))


def _in_folder(folder: Path, prefix: str = "", written: Collection[Path] = ()) -> Iterator[Source]:
    """The images and videos below a folder, without those that an earlier `predict` wrote there, or `written`."""
    written = set(written)
    for parent, files in walk(str(folder)):
        if Path(parent) != folder:
            written |= _written_into(Path(parent))
        for path in (Path(parent, name) for name in files):
            missing = path.is_symlink() and not path.exists()  # will be said to be so
            if _is_wanted(path) and (path.is_file() or missing) and path not in written:  # no pipe
                yield _file(path, prefix + path.relative_to(folder).as_posix())


def _matching(pattern: str) -> Iterator[Source]:
    """What a glob matches, without what an earlier `predict` wrote below the folder that the glob names."""
    named = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    paths = {path: path.is_dir() for path in map(Path, sorted(set(matching(pattern))))}
    folders = {folder for path, is_dir in paths.items() for folder in (*path.parents, *([path] if is_dir else []))}
    written: set[Path] = set().union(*(_written_into(folder) for folder in folders if named in folder.parents))
    for path, is_dir in paths.items():
        if is_dir:  # `street/*` includes the files in matched folders
            yield from _in_folder(path, f"{path.name}/", written)
        elif _is_wanted(path) and path.is_file() and path not in written:
            yield _file(path, path.name)


def _written_into(folder: Path) -> set[Path]:
    return {folder / name for name in written_by_predict(folder)}


def _is_wanted(path: Path) -> bool:
    wanted = IMAGE_SUFFIXES | VIDEO_SUFFIXES - ONLY_BY_NAME
    return path.suffix.lower() in wanted and not path.name.startswith(".")


def _file(path: Path, output_name: str) -> Source:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(str(path), str(path), output_name)
    return ImageSource(path, str(path), output_name)


def _scheme(text: str) -> str:
    """The scheme of an address: `rtsp` for `rtsp://...`, `camera` for `camera:0`; empty for a path (`C:/a.jpg` too)."""
    if re.fullmatch(r"camera:\d+", text):
        return "camera"
    scheme, separator, _ = text.partition("://")
    return scheme.lower() if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme) else ""


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise ImageError(f"{address}: no address ({error}); write it as http://host:port/path") from error
    return parts


def _at_address(text: str) -> Source:
    scheme, address = _scheme(text), _split(text)
    if scheme not in (*STREAM_SCHEMES, "http", "https"):
        raise UserError(f"{text}: addresses begin with {', '.join(sorted(STREAM_SCHEMES | {'http', 'https'}))}")
    output_name = PurePosixPath(address.path).name or address.hostname or scheme
    suffix = PurePosixPath(address.path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(text, text, output_name, live=scheme in STREAM_SCHEMES or suffix == ".m3u8")
    if scheme in STREAM_SCHEMES:
        return VideoSource(text, text, f"{output_name}.mp4", live=True)
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(text, text, output_name)
    with _answer(text) as answer:
        kind = answer.headers.get_content_type()  # as `image/jpeg`
    if kind.startswith("image/"):
        return ImageSource(text, text, f"{output_name}.png")
    return VideoSource(text, text, f"{output_name}.mp4", live=kind not in VIDEO_FILE_TYPES)


def _camera(text: str) -> Source:
    number = text.partition(":")[2]
    device_format = CAMERA_FORMATS.get(sys.platform)
    if device_format is None:
        raise UserError(f"{text}: cameras on {sys.platform} are not supported; give the address of a stream")
    address = f"/dev/video{number}" if sys.platform == "linux" else number
    return VideoSource(address, text, f"camera-{number}.mp4", live=True, device_format=device_format)


def _with_unique_names(sources: Iterable[Source]) -> list[Source]:
    named: dict[str, Source] = {}
    for source in sources:
        wanted = PurePosixPath(source.output_name)
        is_jpeg = wanted.suffix.lower() in EXTENSIONS["JPEG"]
        suffix = ".mp4" if isinstance(source, VideoSource) else ".jpg" if is_jpeg else ".png"
        unique, number = wanted.with_suffix(""), 1
        while str(unique).lower() in named:  # in lower case: a.JPG and A.jpg are one file on some disks
            number += 1
            unique = wanted.with_name(f"{wanted.stem}-{number}")
        named[str(unique).lower()] = replace(source, output_name=f"{unique}{suffix}")
    return list(named.values())


def is_address(text: str) -> bool:
    """True for an address on the web, False for a file's name."""
    return text.lower().startswith(("http://", "https://"))


def fetch_image(address: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of the image at an http or https address that the user named. `onestage serve` never fetches one.

    Raises:
        ImageError: the server doesn't answer, has nothing at the address, or the image is too large.
    """
    with _answer(address) as answer:
        data = answer.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ImageError(f"{address}: more than the {max_bytes:,} bytes allowed for an image")
    return data


class _Patience(io.RawIOBase):
    """What a connection sends, until it takes too long: a byte now and then keeps nobody waiting."""

    def __init__(self, connection: Any, incoming: io.BufferedReader, begun: float) -> None:
        super().__init__()
        self.connection, self.incoming, self.begun, self.received = connection, incoming, begun, 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.incoming.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        allowed_s = SECONDS_TO_ANSWER + self.received / LEAST_BYTES_PER_SECOND
        left_s = self.begun + allowed_s - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            self.connection.settimeout(left_s)
            count = self.incoming.readinto1(buffer)
        except TimeoutError:
            raise TimeoutError(f"only {self.received:,} bytes came in {allowed_s:.0f} s") from None
        self.received += count
        return count


def _opener() -> urllib.request.OpenerDirector:
    """Opens addresses on the web, and redirects to others on the web, all in one span of time."""
    begun = time.monotonic()

    class Response(HTTPResponse):
        def __init__(self, connection: Any, *args: Any, **options: Any) -> None:
            super().__init__(connection, *args, **options)
            self.fp = io.BufferedReader(_Patience(connection, self.fp, begun))

    class Connection(HTTPConnection):
        response_class = Response

    class SecureConnection(HTTPSConnection):
        response_class = Response

    class Web(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        def http_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(Connection, req)

        def https_open(self, req: urllib.request.Request) -> HTTPResponse:
            return self.do_open(SecureConnection, req)

    opener = urllib.request.OpenerDirector()  # not `build_opener`, which also opens ftp and files
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        Web,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def _answer(address: str) -> Iterator[HTTPResponse]:
    """What a server answers; an `ImageError` where it doesn't, or has nothing at the address."""
    if not is_address(address):
        raise ImageError(f"{address}: addresses of images begin with http:// or https://")
    _split(address)
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "onestage"})
        with _opener().open(request, timeout=SECONDS_TO_ANSWER) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        known = error.code in HTTPStatus._value2member_map_  # the server's own words may be anything
        reason = f" {HTTPStatus(error.code).phrase}" if known else ""
        raise ImageError(f"{address}: the server answers {error.code}{reason}") from error
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        reason = getattr(error, "reason", error)
        reason = " ".join(ascii(getattr(reason, "strerror", None) or str(reason))[1:-1].split())
        raise ImageError(f"{address}: no answer ({reason[:200]})") from error
