"""Frames read from videos and written to them: numbers, times, orientation, sound, damage."""

from __future__ import annotations

import random
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from films import HEIGHT, WIDTH, index_of, place, write_film
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.inference.sources import open_video
from onestage.inference.video import VideoReader
from onestage.inference.video_display import Colours
from onestage.inference.video_writer import VideoWriter
from onestage.runtime.tiles import Tiling

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


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("video_from.wmv", "wmv2", {}),
        ("video_from.mpg", "mpeg2video", {"bf": "2"}),
        ("video_from.ts", "libx264", {"bf": "2"}),
        ("intra_refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:bframes=0"}),
        ("b_frames.avi", "libx264", {"bf": "2"}),
        ("b_frames.avi", "mpeg4", {"bf": "2"}),
    ],
)
def test_video_from_mpg_wmv_ts_avi_and_intra_refresh_gives_the_frames_of_the_whole(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write_film(tmp_path / name, 40, rate=25, codec=codec, options=options)
    whole = read(path)
    assert [(index, content) for index, _, content in whole] == [(i, i) for i in range(40)]
    np.testing.assert_allclose([time for _, time, _ in whole], np.arange(40) / 25, atol=0.001)
    for start_s in (0.01, 0.5, 0.99):
        assert read(path, start_s=start_s) == [frame for frame in whole if frame[1] >= start_s]


def test_a_film_whose_beginning_was_cut_away_by_an_edit_list_is_whole(tmp_path: Path) -> None:
    """As telephones trim: frames 0 to 15 are in the file and are not shown."""
    path, said = tmp_path / "trimmed.mp4", []
    with av.open(str(write_film(tmp_path / "film.mp4", 60, rate=25))) as film, av.open(str(path), "w") as trimmed:
        shown = film.streams.video[0]
        stream = trimmed.add_stream_from_template(shown)
        for packet in film.demux(shown):
            if packet.dts is not None:
                packet.pts -= round(16 / 25 / shown.time_base)
                packet.dts -= round(16 / 25 / shown.time_base)
                packet.stream = stream
                trimmed.mux(packet)
    whole = read(path, report=said.append)
    assert whole == [(i, i / 25, i + 16) for i in range(44)]
    for start_s in (0.2, 1.0):
        assert read(path, start_s=start_s, report=said.append) == [one for one in whole if one[1] >= start_s]
    assert said == []


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_video_cut_times_at_a_frames_own_time_belong_to_the_later_part(tmp_path: Path, rate: Fraction) -> None:
    """0.28 as a float is a hair above 7/25; detections.json has 0.2336 for 7 * 1001 / 30000."""
    path = write_film(tmp_path / "film.mp4", 20, rate=rate)
    for number in (1, 3, 7):
        written = round(float(number / Fraction(rate)), 4)
        assert read(path, start_s=written)[0][0] == number
        assert read(path, end_s=written)[-1][0] == number - 1


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
    ("matrix", "shown"),  # a, b, c, d of the matrix in a track's header (ISO 14496-12, 8.3.2)
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, 3)),  # clockwise, as phones write
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), np.fliplr),  # as front cameras write
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
        ((0, 0, 0, 0), lambda image: image),  # makes no sense
    ],
)
def test_video_mirrored_or_turned_is_read_as_it_is_shown(tmp_path: Path, matrix: tuple, shown: object) -> None:
    path = write_film(tmp_path / "film.mp4", 3, sample_aspect_ratio=Fraction(4, 3))

    def stored(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    data = path.read_bytes()
    at = data.index(stored(1, 0, 0, 1), data.index(b"tkhd"))
    path.write_bytes(data[:at] + stored(*matrix) + data[at + 36 :])
    frame = next(VideoReader(open_video(path)).frames())
    upright = shown(red_box(WIDTH, HEIGHT, place(0)))  # pyright: ignore[reportCallIssue]
    assert frame.image.shape == upright.shape
    assert np.abs(frame.image.astype(int) - upright).mean() < 5
    assert frame.pixel_aspect == (Fraction(4, 3) if upright.shape[1] == WIDTH else Fraction(3, 4))


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


@pytest.mark.parametrize(
    ("name", "codec", "sound", "container"),
    [
        ("film.mp4", "libx264", None, {"movflags": "faststart"}),
        ("film.mp4", "libx264", "aac", {"movflags": "faststart"}),
        ("film.mkv", "libx264", None, {"cluster_time_limit": "400"}),
        ("film.avi", "mjpeg", "pcm_s16le", {}),
        ("film.flv", "flv", None, {}),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 0.5])
def test_video_cut_off_is_told_with_its_name(
    tmp_path: Path, name: str, codec: str, sound: str | None, container: dict[str, str], start_s: float
) -> None:
    path = write_film(tmp_path / name, 60, rate=25, codec=codec, sound=sound, container_options=container)
    said: list[str] = []
    assert len(read(path, start_s=start_s, report=said.append)) == (60 if start_s == 0 else 47)
    assert said == []
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    frames = read(path, start_s=start_s, report=said.append)
    assert 5 < len(frames) < 55
    assert all(index == round(25 * time) for index, time, _ in frames)
    assert any(f"{name}: cut off or damaged" in line for line in said)


@pytest.mark.parametrize("name", ["film.mkv", "film.ts"])
def test_video_damage_keeps_numbers_of_the_frames_after_it(tmp_path: Path, name: str) -> None:
    """A film of constant rate: a frame's number is its time by the rate, also where frames were lost."""
    options = {"cluster_time_limit": "400"} if name.endswith("mkv") else {}
    path = write_film(tmp_path / name, 60, rate=25, container_options=options)
    data, some = bytearray(path.read_bytes()), random.Random(1)
    begin = len(data) * 4 // 10
    data[begin : begin + 900] = some.randbytes(900)
    path.write_bytes(data)
    said: list[str] = []
    frames = read(path, report=said.append)
    assert 10 < len(frames) < 60
    assert frames[-1][0] == 59
    assert all(index == round(25 * time) for index, time, _ in frames)
    assert any("lost data" in line for line in said)


def test_a_pause_in_a_variable_rate_is_no_damage_and_numbers_go_on_counting(tmp_path: Path) -> None:
    ticks = [0, 10, 20, 50, 60, 100, 110]  # whole tenths of a second, as when a screen is recorded
    said: list[str] = []
    frames = read(write_film(tmp_path / "film.mkv", 7, ticks=ticks), report=said.append)
    assert [(index, round(100 * time)) for index, time, _ in frames] == list(enumerate(ticks))
    assert said == []


def jpeg_avi(path: Path, images: list[tuple[int, int]], rate: tuple[int, int] = (1, 5)) -> Path:
    """A motion JPEG whose header says 64 x 64, with grey frames of these sizes; `rate` is dwScale and dwRate."""

    def part(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    frames = [
        cv2.imencode(".jpg", np.full((*size_hw, 3), 90, np.uint8), (cv2.IMWRITE_JPEG_QUALITY, 10))[1].tobytes()
        for size_hw in images
    ]
    main = struct.pack("<14I", 200_000, 0, 0, 0, len(frames), 0, 1, 0, 64, 64, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<IHHIIIIIIII4H", 0, 0, 0, 0, *rate, 0, len(frames), 0, 0, 0, 0, 0, 64, 64)
    shape = struct.pack("<IiiHH4sIiiII", 40, 64, 64, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    header = part(b"LIST", b"strl" + part(b"strh", stream) + part(b"strf", shape))
    body = b"AVI " + part(b"LIST", b"hdrl" + part(b"avih", main) + header)
    path.write_bytes(part(b"RIFF", body + part(b"LIST", b"movi" + b"".join(part(b"00dc", one) for one in frames))))
    return path


def test_video_frames_that_grow_beyond_the_limit_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onestage.inference.video.MAX_PIXELS", 100_000)
    monkeypatch.setattr("onestage.inference.video.MOST_DECODED", "110000")
    path = jpeg_avi(tmp_path / "film.avi", [(64, 64), (1000, 1000), (320, 320), (300, 320)])
    said: list[str] = []
    frames = list(VideoReader(open_video(path), report=said.append).frames())
    assert [(frame.index, frame.image.shape) for frame in frames] == [
        (0, (64, 64, 3)),
        (3, (300, 320, 3)),
    ]
    assert "film.avi: a broken frame was passed over" in said[0]


@pytest.mark.parametrize("rate", [(0x7FFFFFFF, 1), (1, 0x7FFFFFFF), (1, 0)])
@pytest.mark.parametrize("every", [1, 10**9])
def test_video_absurd_rates_give_frames_at_the_usual_one(tmp_path: Path, rate: tuple[int, int], every: int) -> None:
    path = jpeg_avi(tmp_path / "film.avi", [(64, 64)] * 4, rate)
    reader = VideoReader(open_video(path), every=every, report=lambda line: None)
    writer = VideoWriter(tmp_path / "copy.mp4", (64, 64), reader.rate / every, reader.time_base, reader.source)
    assert reader.expected_frames <= 10**9
    frames = list(reader.frames())
    for frame in frames:
        writer.write(frame.image, frame.time)
    writer.close()
    assert [frame.index for frame in frames] == [0, 1, 2, 3][: 4 if every == 1 else 1]
    assert len(read(tmp_path / "copy.mp4")) == len(frames)


@pytest.mark.parametrize("content", [b"<svg/>", b"[FORMAT] AVS" + 1000 * b"x"])
def test_video_unknown_codec_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_film(tmp_path / "a.mp4", 3)
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"film\.mp4: [^\n]+$"):
        VideoReader(open_video(path))


def test_video_name_with_colons_is_a_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "a.mp4", 3).rename("2024-01-01T12:30:00.mp4")
    assert [index for index, _, _ in read(Path("2024-01-01T12:30:00.mp4"))] == [0, 1, 2]
    writer = VideoWriter(Path("o:1.mp4"), (HEIGHT, WIDTH), Fraction(10), Fraction(1, 10))
    writer.write(red_box(WIDTH, HEIGHT, place(0)), Fraction(0))
    writer.close()
    assert len(read(tmp_path / "o:1.mp4")) == 1


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.1(side)", "6.1", "7.0", "7.1(wide)"])
def test_video_avi_with_pcm_keeps_its_sound(tmp_path: Path, layout: str) -> None:
    path = write_film(tmp_path / "film.avi", 10, codec="mpeg4", sound="pcm_s16le", layout=layout)
    reader = VideoReader(open_video(path))
    writer = VideoWriter(tmp_path / "copy.mp4", (HEIGHT, WIDTH), reader.rate, reader.time_base, reader.source)
    for frame in reader.frames():
        writer.write(frame.image, frame.time)
    writer.close()
    mono = av.AudioResampler("s16", "mono")
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        heard = [part.to_ndarray()[0] for frame in copy.decode(audio=0) for part in mono.resample(frame)]
    assert sum(map(len, heard)) == pytest.approx(44_100, abs=3000)
    assert np.abs(np.concatenate(heard)).max() > 1000


def test_sound_that_can_not_be_copied_is_left_out_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.inference.video_writer.AAC_RATES", (5,))
    source = open_video(write_film(tmp_path / "film.avi", 3, codec="mpeg4", sound="pcm_s16le"))
    said: list[str] = []
    size_hw, tick = (HEIGHT, WIDTH), Fraction(1, 10)
    writer = VideoWriter(tmp_path / "copy.mp4", size_hw, Fraction(10), tick, source, report=said.append)
    writer.write(red_box(WIDTH, HEIGHT, place(0)), Fraction(0))
    writer.close()
    assert len(read(tmp_path / "copy.mp4")) == 1
    assert "it is written without sound" in said[0]


@pytest.mark.parametrize(
    ("colours", "matrix"),
    [(Colours(1, 1, 1), 1), (Colours(9, 9, 16), 9), (Colours(5, 5, 6), 5), (Colours(), 6), (Colours(0, 1, 13), 6)],
)
def test_a_copy_keeps_colour_tags_and_the_shape_of_pixels_and_red_is_red(
    tmp_path: Path, colours: Colours, matrix: int
) -> None:
    """Kr and Kb of ITU-T H.273, table 4: 0.299, 0.114 (BT.601), 0.2126, 0.0722 (BT.709), 0.2627, 0.0593 (BT.2020)."""
    writer = VideoWriter(
        tmp_path / "film.mp4",
        (HEIGHT, WIDTH),
        Fraction(10),
        Fraction(1, 10),
        colours=colours,
        pixel_aspect=Fraction(4, 3),
    )
    writer.write(np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8), Fraction(0))
    writer.close()
    kr, kb = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        frame = next(film.decode(stream))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (
            matrix, colours.primaries, colours.transfer, 1,
        )  # fmt: skip
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        luma, blue, red = frame.to_ndarray()[[10, HEIGHT + 4, HEIGHT + HEIGHT // 4 + 4], 10].astype(int)
    assert luma == pytest.approx(16 + 219 * kr, abs=2)
    assert blue == pytest.approx(128 - 112 * kr / (1 - kb), abs=2)
    assert red == pytest.approx(128 + 112, abs=2)
    image = next(VideoReader(open_video(tmp_path / "film.mp4")).frames()).image
    np.testing.assert_allclose(image[HEIGHT // 2, WIDTH // 2], (255, 0, 0), atol=4)


def test_a_frame_of_another_size_is_written_at_the_size_of_the_video(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "film.mp4", (HEIGHT, WIDTH), Fraction(10), Fraction(1, 10))
    for size_hw in ((HEIGHT, WIDTH), (50, 301)):
        writer.write(np.full((*size_hw, 3), 200, np.uint8), Fraction(writer.last_tick + 1, 10))
    writer.close()
    frames = list(VideoReader(open_video(tmp_path / "film.mp4")).frames())
    assert [frame.image.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 2


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


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"start_s": -1.0}, {"start_s": float("nan")}, {"start_s": 2.0, "end_s": 1.0}]
)
def test_a_part_that_makes_no_sense_is_refused(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"give 1 or more|the end must come after"):
        VideoReader(open_video(write_film(tmp_path / "film.mp4", 3)), **settings)


@pytest.mark.parametrize("tiling", [None, Tiling(60, 25)])
def test_a_predictor_finds_the_same_in_a_video_as_in_its_images(tmp_path: Path, tiling: Tiling | None) -> None:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    predictor.tiling = tiling
    predictions = list(predictor.predict_video(write_film(tmp_path / "film.mp4", 21), batch_size=4))
    assert [one.frame.index for one in predictions] == list(range(21))
    for one in predictions:
        np.testing.assert_allclose(one.found.boxes_xyxy[0].numpy(), place(one.frame.index), atol=2.0)


def test_without_pyav_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(tmp_path / "film.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'onestage\[video\]'"):
        VideoReader(open_video(path))
