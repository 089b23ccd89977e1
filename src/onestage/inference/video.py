"""Reads videos, cameras and streams as upright frames with numbers and times.

PyAV brings its own FFmpeg (`pip install 'onestage[video]'`). Frames keep their times, so that a variable frame rate
stays one and a drawn video is as long as its original.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any

import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.inference.sources import SECONDS_TO_ANSWER, VideoSource
from onestage.inference.video_display import Colours, as_shown, display_matrix, pixel_aspect
from onestage.runtime.decode import MAX_PIXELS

USUAL_RATE = Fraction(25)  # frames a second of a source that does not say
LOWEST_RATE, HIGHEST_RATE = Fraction(1, 3600), Fraction(1_000_000)  # outside, a header's number is taken for a mistake
TIME_DIGITS = 4  # times are written, and compared with what users type, to a tenth of a millisecond
# What FFmpeg may open for a source: a playlist in a folder can't lead it to the network, nor a stream to local files.
LOCAL_PROTOCOLS = "file"
REMOTE_PROTOCOLS = "http,https,tcp,tls,crypto,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt"
SECONDS_OF_SILENCE = 60.0  # after which a stream that sends nothing has ended
# Elsewhere FFmpeg looks for a keyframe by guesses, and times after it differ
FORMATS_WITH_AN_INDEX = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
FORMATS_WITHOUT_TIMES = frozenset({"mpjpeg", "mjpeg", "h264", "hevc"})  # FFmpeg makes them up, by 25 frames a second
ARRIVAL_TICK_S = Fraction(1, 1000)
DEPENDENT_PICTURES = (2, 3)  # FFmpeg's numbers of P and B pictures, which are coded by what differs from others
MOST_DECODED = str(MAX_PIXELS * 11 // 10)  # FFmpeg's limit is on memory, in which rows are a bit longer
BROKEN_FRAMES_REPORTED = 3
LONGEST_PAUSE_S = 1800  # between two frames of a video; a longer one, or a second back, is a clock that began anew
LONGEST_GAP_BYTES = 500  # between two packets of a Matroska file; headers take less


def import_av() -> Any:
    """The module PyAV; where it is missing, an error with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos and cameras need PyAV: pip install 'onestage[video]'") from error
    return av


class VideoError(UserError):
    """A video that can't be read or written; the text is one line that names it and says why."""


@dataclass(frozen=True)
class Frame:
    """One image of a video."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB, upright
    index: int  # counted from 0 through all frames of the video
    time: Fraction  # seconds since the video's first frame
    pixel_aspect: Fraction = Fraction(1)  # width / height of a pixel of the image when it is shown


class FrameNumbers:
    """Numbers the frames of a video, also past frames that are broken or lost.

    They are counted. Where data were lost in a video of constant rate, the time says how many frames are missing.
    """

    def __init__(self, rate: Fraction, tick_s: Fraction) -> None:
        """`tick_s` is the length of a tick of the video's clock, seconds."""
        self.rate, self.tolerance = float(rate), 0.1 + float(rate * tick_s)
        self.last, self.broken = -1, 0
        self.constant = True  # so far each frame was at its number / rate
        self.damaged = False

    def note_damage(self, frames: int) -> None:
        """Some frames are broken here, and others may be lost."""
        self.damaged = True
        self.broken += frames

    def next(self, time: Fraction | None) -> int:
        """The number of the next frame; `time` is in seconds since the first frame."""
        place = self.last + 1 if time is None else round(float(time) * self.rate)
        near = time is not None and abs(float(time) * self.rate - place) <= self.tolerance
        follows = place == self.last + 1 or (self.damaged and place > self.last)
        self.constant = self.constant and near and follows
        self.last = place if self.constant else self.last + 1 + self.broken
        self.broken = 0
        return self.last


def check_chosen_frames(every: int, start_s: float, end_s: float | None) -> None:
    """Raise a UserError where these arguments of `VideoReader` make no sense."""
    if every < 1:
        raise UserError(f"every {every}: give 1 or more")
    if not 0 <= start_s < math.inf or (end_s is not None and not end_s > start_s):
        raise UserError(f"from {start_s:g} s to {end_s} s: the end must come after the beginning")


class VideoReader:
    """An open video file, camera or stream; `frames` decodes it frame by frame."""

    def __init__(
        self,
        source: VideoSource,
        *,
        every: int = 1,
        start_s: float = 0.0,
        end_s: float | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        """Open the source, for each n-th (`every`) of the frames from `start_s` to before `end_s`.

        Args:
            start_s, end_s: seconds since the first frame, exact to 0.1 ms.
            report: called with a message about broken frames.

        Raises:
            UserError: PyAV is missing, or settings that make no sense.
            VideoError: the source can't be opened or holds no video, or its frames are too large.
        """
        check_chosen_frames(every, start_s, end_s)
        self.source, self.every, self.start_s, self.end_s, self.report = source, every, start_s, end_s, report
        self._open()
        stream = self.stream
        rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        self.sane = LOWEST_RATE <= rate <= HIGHEST_RATE  # what the header says of times
        # Frames of such a camera are at the times when they come
        self.arriving = source.live and self.container.format.name in FORMATS_WITHOUT_TIMES
        # An AVI has no times; FFmpeg's guesses are wrong where frames are stored in another order than they are shown
        reordered = self.container.format.name == "avi" and stream.codec_context.has_b_frames
        self.clocked = self.sane and not reordered and not self.arriving
        if not self.sane:
            report(f"{source.name}: says {float(rate):.3g} frames a second; {USUAL_RATE} are taken")
            rate = USUAL_RATE
        self.rate = rate  # frames a second on average
        self.time_base = ARRIVAL_TICK_S if self.arriving else Fraction(stream.time_base)  # of the clock, seconds
        self.begin = (stream.start_time or 0) * self.time_base  # time of the first frame by that clock, seconds
        self.colours = Colours(stream.colorspace, stream.color_primaries, stream.color_trc)
        self.broken = self.packets = 0
        self.reformatter = import_av().video.reformatter.VideoReformatter()  # one for all frames: it has threads

    def _open(self) -> None:
        name = self.source.name
        self.container = open_container(self.source)
        self.stream = stream = self.container.streams.best("video")
        if stream is None:
            raise VideoError(f"{name}: holds no video")
        if stream.codec_context is None:
            raise VideoError(f"{name}: no decoder knows what it holds; is it a video? Convert it to MP4 with H.264")
        if not 0 < stream.width * stream.height <= MAX_PIXELS:
            raise VideoError(f"{name}: frames of {stream.width} x {stream.height} pixels; at most {MAX_PIXELS:,}")
        stream.codec_context.options = {"max_pixels": MOST_DECODED}  # later frames may be larger than the header's
        # Decoding several frames in parallel delays each by a few frames, which is too late for a live source.
        stream.thread_type = "SLICE" if self.source.live else "AUTO"

    @property
    def expected_frames(self) -> int:
        """Estimated number of frames that `frames` gives; 0 where the source does not say its length."""
        seconds = min(self._length_s(), self.end_s or math.inf) - self.start_s
        return 0 if self.source.live or not self.sane else max(0, round(seconds * float(self.rate) / self.every))

    def _length_s(self) -> float:
        """The video's length as its header says it, seconds; 0 where it does not."""
        return float((self.stream.duration or 0) * self.time_base) or (self.container.duration or 0) / 1_000_000

    def frames(self) -> Iterator[Frame]:
        """The chosen frames in order. A broken frame is reported and left out, and its number with it."""
        first: int | None = None
        try:
            for number, time, decoded in self._numbered():
                seconds = round(float(time), TIME_DIGITS)
                if seconds < round(self.start_s, TIME_DIGITS):
                    continue
                if self.end_s is not None and seconds >= round(self.end_s, TIME_DIGITS):
                    break
                first = number if first is None else first
                if (number - first) % self.every == 0:
                    yield self._frame(decoded, number, time)
        finally:
            self.container.close()
            if self.broken > BROKEN_FRAMES_REPORTED:
                self.report(f"{self.source.name}: {self.broken} broken frames in all were passed over")

    def _frame(self, decoded: Any, number: int, time: Fraction) -> Frame:
        colours = Colours(decoded.colorspace).known(decoded.height)
        rgb = self.reformatter.reformat(decoded, format="rgb24", src_colorspace=colours.swscale_name)
        upright, turned = as_shown(rgb.to_ndarray(), display_matrix(decoded))
        aspect = pixel_aspect(self.stream)
        return Frame(np.ascontiguousarray(upright), number, time, 1 / aspect if turned else aspect)

    def _numbered(self) -> Iterator[tuple[int, Fraction, Any]]:
        """Number and time of each frame, and PyAV's frame; those before `start_s` may be left out."""
        numbers = self._numbers()
        if self.start_s > 0 and not self.source.live and self.container.format.name in FORMATS_WITH_AN_INDEX:
            numbers = self._seek(numbers)
        last, pause = -1 / self.rate, Fraction(0)  # time of the frame before, and what its clock left out
        begun: float | None = None
        for decoded in self._decoded(numbers):
            begun = monotonic() if begun is None else begun
            if not self.clocked or decoded.pts is None:
                number = numbers.next(None)
                last = Fraction(round(monotonic() - begun, 3)) if self.arriving else number / self.rate
                yield number, last, decoded
                continue
            time = decoded.pts * self.time_base - self.begin + pause
            if numbers.last >= 0 and not last - 1 < time < last + LONGEST_PAUSE_S:
                pause += last + 1 / self.rate - time
                time = last + 1 / self.rate
            if time <= last and numbers.damaged:
                self._note_broken(numbers, "damaged times", frames=0)
                continue
            previous, number = numbers.last, numbers.next(time)
            if number > previous + 1 and not self.broken and not self.source.live:
                self._note_broken(numbers, "lost data", frames=0)
            last = time
            yield number, time, decoded

    def _numbers(self) -> FrameNumbers:
        rate = Fraction(self.stream.guessed_rate or self.rate) if self.clocked else self.rate
        numbers = FrameNumbers(rate, self.time_base if self.clocked else Fraction(0))
        if self.container.format.name not in FORMATS_WITH_AN_INDEX:  # these lose frames without a word
            numbers.note_damage(0)
        return numbers

    def _decoded(self, numbers: FrameNumbers) -> Iterator[Any]:
        """PyAV's frames without the broken ones, which are noted."""
        failure = import_av().FFmpegError
        try:
            for packet in self._packets(numbers):
                try:
                    decoded = packet.decode()
                except failure as error:
                    self._note_broken(numbers, error.strerror or str(error))
                    continue
                for frame in decoded:
                    if frame.is_corrupt or not frame.width * frame.height <= MAX_PIXELS:
                        self._note_broken(numbers, "damaged data" if frame.is_corrupt else "too many pixels")
                    else:
                        yield frame
        except failure as error:
            self.report(f"{self.source.name}: nothing after this can be read ({error.strerror or error})")

    def _note_broken(self, numbers: FrameNumbers, reason: str, frames: int = 1) -> None:
        numbers.note_damage(frames)
        self.broken += 1
        if self.broken <= BROKEN_FRAMES_REPORTED:
            self.report(f"{self.source.name}: a broken frame was passed over ({reason})")

    def _packets(self, numbers: FrameNumbers) -> Iterator[Any]:
        """The video's packets. Notes where bytes were lost, and says it if the file ends before its header does."""
        if self.source.live:
            yield from packets_of(self.container, self.stream)
            return
        ends: dict[int, int] = {}  # stream -> the end of its last packet, in its own ticks
        place, matroska = None, self.container.format.name == "matroska,webm"
        for packet in packets_of(self.container):
            stamp, ours = _stamp(packet), packet.stream is self.stream
            if packet.is_corrupt and ours:
                self._note_broken(numbers, "damaged data", frames=0)
            if matroska and packet.pos is not None:
                if place is not None and packet.pos - place > LONGEST_GAP_BYTES:
                    self._note_broken(numbers, "lost data", frames=0)
                place = packet.pos + packet.size
            if stamp is not None:
                index, end = packet.stream_index, stamp + (packet.duration or 0)
                ends[index] = max(end, ends.get(index, end))
            if ours:
                self.packets += packet.size > 0
                if packet.size == 0 and stamp is None:  # the last one, which makes the decoder give what it holds
                    self._check_end(numbers, ends)
                yield packet

    def _check_end(self, numbers: FrameNumbers, ends: dict[int, int]) -> None:
        """Say it if the file ended before it should: by its index of frames, or by the length in its header."""
        mp4 = self.container.format.name.startswith("mov")
        expected = len(getattr(self.stream, "index_entries", ())) if mp4 else 0  # older PyAV has none
        if expected:
            missing = f"{self.packets} of {expected} frames are there" if self.packets < expected else ""
        else:
            length_s = float(self.stream.frames / self.rate) or self._length_s()
            if self.stream.duration or self.stream.frames:  # else the length is that of the longest stream
                ends = {index: end for index, end in ends.items() if index == self.stream.index}
            end_s = max((end * self.container.streams[index].time_base for index, end in ends.items()), default=0)
            missing_s = length_s - float(end_s - self.begin)
            missing = f"it ends {missing_s:.1f} s before its header says" if missing_s > 2.5 / self.rate else ""
        if not missing or not self.sane:
            return
        numbers.note_damage(0)
        self.report(f"{self.source.name}: cut off or damaged, {missing}")

    def _seek(self, numbers: FrameNumbers) -> FrameNumbers:
        """Go to the last keyframe before `start_s`; the numbers after the frames that are left out.

        Frames, numbers and times must be those of a whole reading. Where that is not sure, none is left out.
        """
        keyframe, stamps = None, []
        with suppress(import_av().FFmpegError):
            keyframe, stamps = self._keyframe_before((Fraction(self.start_s) + self.begin) / self.time_base)
        if keyframe is None or not self._decodes_from(keyframe):
            self.container.close()
            self._open()
            return numbers
        self.container.seek(keyframe, stream=self.stream)
        self.packets = len(stamps)
        for time in sorted(stamp * self.time_base - self.begin for stamp in stamps):
            if time >= 0:  # what an MP4 has before its beginning was cut away by an edit list
                numbers.next(time if self.clocked else None)
        return numbers

    def _keyframe_before(self, wanted: Fraction) -> tuple[int | None, list[int]]:
        """The stamp of the last keyframe up to a time of the video's clock, and the stamps before it."""
        keyframe, stamps = None, []
        for packet in packets_of(self.container, self.stream):
            stamp = _stamp(packet)
            if stamp is None:
                continue
            if packet.is_keyframe and stamp > wanted:
                break
            keyframe = stamp if packet.is_keyframe else keyframe
            stamps.append(stamp)
        return keyframe, [stamp for stamp in stamps if keyframe is not None and stamp < keyframe]

    def _decodes_from(self, keyframe: int) -> bool:
        """True if a keyframe is found by its stamp and is coded by itself.

        H.264 with intra refresh marks frames from which a player may begin although it sees grey for a while.
        """
        av = import_av()
        try:
            self.container.seek(keyframe, stream=self.stream)
            packet = next(packets_of(self.container, self.stream))
            if _stamp(packet) != keyframe:
                return False
            decoded = [*packet.decode(), *self.stream.decode(None)]
        except av.FFmpegError:
            return False
        return bool(decoded) and not decoded[0].is_corrupt and decoded[0].pict_type not in DEPENDENT_PICTURES


def open_container(source: VideoSource) -> Any:
    """PyAV's container of a source, or a `VideoError` that names it."""
    av = import_av()
    address, options = source.address, {"max_pixels": MOST_DECODED}
    remote = "://" in address
    if source.device_format is None:
        options["protocol_whitelist"] = REMOTE_PROTOCOLS if remote else LOCAL_PROTOCOLS
        address = address if remote else f"file:{address}"  # or 12:30.mp4 would be an address with the protocol 12
    if address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # UDP loses packets, which turns images gray
    try:
        return av.open(
            address,
            mode="r",
            format=source.device_format,
            options=options,
            metadata_errors="replace",
            timeout=(SECONDS_TO_ANSWER, SECONDS_OF_SILENCE if remote else None),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{source.name}: can't be opened as a video ({getattr(error, 'strerror', error)})") from error


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """The packets of these streams, or of all, to the end."""
    with suppress(IndexError):  # PyAV's, at the end, where damage looked like a further stream
        yield from container.demux(*streams)


def _stamp(packet: Any) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts
