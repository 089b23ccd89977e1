"""Frames read from videos and written to them: numbers, times, orientation, sound, damage."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import HEIGHT, WIDTH, index_of, place, write_film
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.inference.sources import open_video
from onestage.inference.video import VideoReader
from onestage.inference.video_writer import VideoWriter

CODECS = [("film.mp4", "libx264"), ("film.avi", "mpeg4"), ("film.mkv", "libx264"), ("film.webm", "libvpx")]


def read(path: Path, **settings: object) -> list[tuple[int, float, int]]:
    """Number, time and content of each frame."""
    reader = VideoReader(open_video(path), **settings)
    return [(frame.index, float(frame.time), index_of(frame.image)) for frame in reader.frames()]


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_frames_come_in_order_with_their_numbers_and_times(tmp_path: Path, name: str, codec: str) -> None:
    frames = read(write_film(tmp_path / name, 40, codec=codec))
    assert [index for index, _, _ in frames] == list(range(40))
    assert [content for _, _, content in frames] == list(range(40))
    np.testing.assert_allclose([time for _, time, _ in frames], np.arange(40) / 10, atol=0.002)


@pytest.mark.parametrize(("name", "codec"), CODECS)
@pytest.mark.parametrize(
    ("start_s", "end_s", "every"), [(0.0, 1.0, 1), (1.55, None, 1), (2.0, 3.05, 3), (0.0, None, 7)]
)
def test_a_part_of_a_video_has_the_frames_of_the_whole(
    tmp_path: Path, name: str, codec: str, start_s: float, end_s: float | None, every: int
) -> None:
    path = write_film(tmp_path / name, 40, codec=codec)
    indices = [i for i in range(40) if i / 10 >= start_s - 1e-6 and (end_s is None or i / 10 < end_s)][::every]
    frames = read(path, start_s=start_s, end_s=end_s, every=every)
    assert [index for index, _, _ in frames] == indices
    assert [content for _, _, content in frames] == indices


def test_the_number_of_frames_is_known_beforehand(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", 40)
    assert VideoReader(open_video(path)).expected_frames == 40
    assert VideoReader(open_video(path), start_s=2.0, end_s=3.0, every=2).expected_frames == 5


def test_a_variable_frame_rate_keeps_its_times_through_reading_and_writing(tmp_path: Path) -> None:
    ticks = [0, 3, 4, 50, 51, 52, 130, 200]
    reader = VideoReader(open_video(write_film(tmp_path / "film.mkv", 8, ticks=ticks)))
    writer = VideoWriter(tmp_path / "copy.mp4", (HEIGHT, WIDTH), reader.rate, reader.time_base)
    for frame in reader.frames():
        writer.write(frame.image, frame.time)
    writer.close()
    copied = read(tmp_path / "copy.mp4")
    np.testing.assert_allclose([time for _, time, _ in copied], np.array(ticks) / 100, atol=0.001)
    assert [content for _, _, content in copied] == list(range(8))


@pytest.mark.parametrize(
    ("matrix", "quarter_turns"),  # a, b, c, d of the matrix in a track's header (ISO 14496-12, 8.3.2)
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["90 degrees clockwise, as phones write", "180 degrees", "90 degrees counter-clockwise"],
)
def test_a_turned_video_is_read_upright(tmp_path: Path, matrix: tuple[int, int, int, int], quarter_turns: int) -> None:
    path = write_film(tmp_path / "film.mp4", 3)

    def stored(a: int, b: int, c: int, d: int) -> bytes:
        values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        return b"".join(value.to_bytes(4, "big", signed=True) for value in values)

    data = path.read_bytes()
    header = data.index(b"tkhd")
    at = data.index(stored(1, 0, 0, 1), header)
    path.write_bytes(data[:at] + stored(*matrix) + data[at + 36 :])
    frame = next(VideoReader(open_video(path)).frames())
    upright = np.rot90(red_box(WIDTH, HEIGHT, place(0)), quarter_turns)
    assert frame.image.shape == upright.shape
    assert np.abs(frame.image.astype(int) - upright).mean() < 5


def test_a_broken_frame_is_reported_and_passed_over_and_keeps_its_number(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.avi", 30, codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 30
    data[starts[7] : starts[8] - 8] = bytes(starts[8] - 8 - starts[7])
    path.write_bytes(data)
    said: list[str] = []
    frames = read(path, report=said.append)
    assert [content for _, _, content in frames] == [i for i in range(30) if i != 7]
    assert [index for index, _, _ in frames] == [i for i in range(30) if i != 7]
    assert len(said) == 1
    assert "film.avi: a broken frame was passed over" in said[0]


def test_a_video_that_was_cut_off_gives_the_frames_it_has(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.avi", 30, codec="mjpeg")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\xff\xd8\xff") - 200])
    frames = read(path, report=lambda line: None)
    assert [content for _, _, content in frames[:28]] == list(range(28))


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le", "libmp3lame"])
@pytest.mark.parametrize("start_s", [0.0, 1.0])
def test_sound_is_kept_beside_the_images(tmp_path: Path, sound: str, start_s: float) -> None:
    path = write_film(tmp_path / "film.mov", 40, sound=sound)
    reader = VideoReader(open_video(path), start_s=start_s)
    sound_from = reader.begin + Fraction(start_s)
    size_hw = (HEIGHT, WIDTH)
    writer = VideoWriter(tmp_path / "copy.mp4", size_hw, reader.rate, reader.time_base, reader.source, sound_from)
    for frame in reader.frames():
        writer.write(frame.image, frame.time - Fraction(start_s))
    writer.close()
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in copy.decode(audio=0)])
        rate = copy.streams.audio[0].rate
    assert len(samples) / rate == pytest.approx(4.0 - start_s, abs=0.12)
    loudest = np.abs(np.fft.rfft(samples[rate : 2 * rate])).argmax()  # of one second: the bin is the frequency
    assert loudest == pytest.approx(440, abs=1)


def test_the_copy_of_a_video_without_sound_has_none(tmp_path: Path) -> None:
    source = open_video(write_film(tmp_path / "film.mp4", 3))
    writer = VideoWriter(tmp_path / "copy.mp4", (HEIGHT, WIDTH), Fraction(10), Fraction(1, 10), source)
    writer.write(red_box(WIDTH, HEIGHT, place(0)), Fraction(0))
    writer.close()
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        assert copy.streams.best("audio") is None


def test_what_is_written_is_what_browsers_play(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "film.mp4", (45, 61), Fraction(10), Fraction(1, 10))
    for index in range(20):
        writer.write(np.full((45, 61, 3), 12 * index, dtype=np.uint8), Fraction(index, 10))
    writer.close()
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (62, 46)  # an even number of columns and rows
        assert stream.average_rate == 10
        assert stream.frames == 20
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(2.0)
    data = (tmp_path / "film.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can begin before it has all


def test_a_playlist_does_not_send_the_reader_to_the_network(tmp_path: Path) -> None:
    playlist = tmp_path / "film.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match=r"film\.m3u8"):
        list(VideoReader(open_video(playlist)).frames())


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "can't be opened"), (b"<html>not a video</html>", "can't be opened")]
)
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"film.mp4: {message}"):
        VideoReader(open_video(path))


@pytest.mark.parametrize("settings", [{"every": 0}, {"start_s": -1.0}, {"start_s": 2.0, "end_s": 1.0}])
def test_a_part_that_makes_no_sense_is_refused(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"give 1 or more|the end must come after"):
        VideoReader(open_video(write_film(tmp_path / "film.mp4", 3)), **settings)


def test_a_predictor_finds_the_same_in_a_video_as_in_its_images(tmp_path: Path) -> None:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    predictions = list(predictor.predict_video(write_film(tmp_path / "film.mp4", 21), batch_size=4))
    assert [one.frame.index for one in predictions] == list(range(21))
    for one in predictions:
        np.testing.assert_allclose(one.found.boxes_xyxy[0].numpy(), place(one.frame.index), atol=2.0)


def test_without_pyav_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "film.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'onestage\[video\]'"):
        VideoReader(open_video(path))
