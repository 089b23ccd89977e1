"""Reads videos, cameras and streams as upright frames with numbers and times; writes drawn frames as H.264 in MP4.

PyAV brings its own FFmpeg (`pip install 'onestage[video]'`). Frames keep their times, so that a variable frame rate
stays one and a drawn video is as long as its original.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.inference.sources import SECONDS_TO_ANSWER, VideoSource
from onestage.runtime.decode import MAX_PIXELS

USUAL_RATE = Fraction(25)  # frames a second of a source that does not say
# What FFmpeg may open for a source: a playlist in a folder can't lead it to the network, nor a stream to local files.
LOCAL_PROTOCOLS = "file"
REMOTE_PROTOCOLS = "http,https,tcp,tls,crypto,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt"
SOUND_CODECS_OF_MP4 = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
BROKEN_FRAMES_REPORTED = 3
# H.264 encoders by preference, each with options that keep thin lines sharp
ENCODERS: dict[str, dict[str, str]] = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {}}


def _av() -> Any:
    """The module PyAV; where it is missing, an error with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos and cameras need PyAV: pip install 'onestage[video]'") from error
    return av


@dataclass(frozen=True)
class Frame:
    """One image of a video."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB, upright
    index: int  # counted from 0 through all frames of the video
    time: Fraction  # seconds since the video's first frame


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
            start_s, end_s: seconds since the first frame.
            report: called with a message about broken frames.

        Raises:
            UserError: PyAV is missing, the source can't be opened or holds no video, or its frames are too large.
        """
        if every < 1:
            raise UserError(f"every {every}: give 1 or more")
        if start_s < 0 or (end_s is not None and end_s <= start_s):
            raise UserError(f"from {start_s:g} s to {end_s} s: the end must come after the beginning")
        self.source, self.every, self.start_s, self.end_s, self.report = source, every, start_s, end_s, report
        self.container = _open(source)
        stream = self.container.streams.best("video")
        if stream is None:
            raise UserError(f"{source.name}: holds no video")
        if not 0 < stream.width * stream.height <= MAX_PIXELS:
            raise UserError(f"{source.name}: frames of {stream.width} x {stream.height} pixels; at most {MAX_PIXELS:,}")
        # Decoding several frames in parallel delays each by a few frames, which is too late for a live source.
        stream.thread_type = "SLICE" if source.live else "AUTO"
        self.stream, self.broken = stream, 0
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)  # frames a second on average
        self.time_base = Fraction(stream.time_base)  # length of a tick of the source's clock, seconds
        self.begin = (stream.start_time or 0) * self.time_base  # time of the first frame by that clock, seconds

    @property
    def expected_frames(self) -> int:
        """Estimated number of frames that `frames` gives; 0 where the source does not say its length."""
        length_s = float((self.stream.duration or 0) * self.time_base) or (self.container.duration or 0) / 1_000_000
        seconds = min(length_s, self.end_s or length_s) - self.start_s
        return 0 if self.source.live else max(0, round(seconds * float(self.rate) / self.every))

    def frames(self) -> Iterator[Frame]:
        """The chosen frames in order. A broken frame is reported and left out, and its number with it."""
        first: int | None = None
        try:
            for number, decoded in enumerate(self._decoded(), start=self._seek() if self.start_s > 0 else 0):
                if decoded is None:
                    continue
                time = number / self.rate if decoded.pts is None else decoded.pts * self.time_base - self.begin
                if time < self.start_s:
                    continue
                if self.end_s is not None and time >= self.end_s:
                    break
                first = number if first is None else first
                if (number - first) % self.every == 0:
                    # The file's angle is counter-clockwise (FFmpeg's libavutil/display.h).
                    upright = np.rot90(decoded.to_ndarray(format="rgb24"), round(decoded.rotation / 90))
                    yield Frame(np.ascontiguousarray(upright), number, time)
        finally:
            self.container.close()
            if self.broken > BROKEN_FRAMES_REPORTED:
                self.report(f"{self.source.name}: {self.broken} broken frames in all were passed over")

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames; None in place of a broken one."""
        failure = _av().FFmpegError
        try:
            for packet in self.container.demux(self.stream):
                try:
                    decoded = packet.decode()
                except failure as error:
                    self._note_broken(str(error))
                    yield None
                    continue
                for frame in decoded:
                    if frame.is_corrupt:
                        self._note_broken("damaged data")
                    yield None if frame.is_corrupt else frame
        except failure as error:  # nothing after this can be read
            self._note_broken(str(error))

    def _note_broken(self, reason: str) -> None:
        self.broken += 1
        if self.broken <= BROKEN_FRAMES_REPORTED:
            self.report(f"{self.source.name}: a broken frame was passed over ({reason})")

    def _seek(self) -> int:
        """Go to the last keyframe before `start_s`; returns its number, counted from the packets before it."""
        wanted = (Fraction(self.start_s) + self.begin) / self.time_base
        keyframe, stamps = 0, []
        for packet in self.container.demux(self.stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None:
                continue
            if packet.is_keyframe and stamp > wanted:
                break
            keyframe = stamp if packet.is_keyframe else keyframe
            stamps.append(stamp)
        self.container.seek(keyframe, stream=self.stream)
        return sum(stamp < keyframe for stamp in stamps)


def _open(source: VideoSource) -> Any:
    av = _av()
    options = {}
    if source.device_format is None:
        options["protocol_whitelist"] = REMOTE_PROTOCOLS if "://" in source.address else LOCAL_PROTOCOLS
    if source.address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # UDP loses packets, which turns images gray
    try:
        return av.open(
            source.address, mode="r", format=source.device_format, options=options, timeout=(SECONDS_TO_ANSWER, None)
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{source.name}: can't be opened as a video ({getattr(error, 'strerror', error)})") from error


class VideoWriter:
    """Writes frames as an H.264 video that browsers play, with the sound of the video that they come from."""

    def __init__(
        self,
        path: Path,
        size_hw: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        sound_of: VideoSource | None = None,
        sound_from: Fraction = Fraction(0),
    ) -> None:
        """Begin the file, an `.mp4`.

        Args:
            size_hw: height and width of every frame. An odd side gets one more pixel: H.264 stores colours in pairs.
            rate: average number of frames a second.
            time_base: length of a tick, seconds; frames are shown at whole ticks.
            sound_of: the video whose sound is copied, if it is a file that has sound.
            sound_from: time of the first frame by that video's clock, seconds.

        Raises:
            UserError: no H.264 encoder, or a file that can't be written.
        """
        av = _av()
        encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise UserError(f"this build of PyAV has no H.264 encoder ({', '.join(ENCODERS)}); install PyAV from PyPI")
        try:
            self.container = av.open(str(path), mode="w", options={"movflags": "faststart"})
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror})") from error
        bottom, right = size_hw[0] % 2, size_hw[1] % 2
        self.padding = (0, bottom, 0, right)
        self.stream = self.container.add_stream(encoder, rate=rate, options=ENCODERS[encoder])
        self.stream.height, self.stream.width = size_hw[0] + bottom, size_hw[1] + right
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = time_base
        self.rate, self.time_base = rate, time_base
        self.last_tick, self.end_s = -1, Fraction(0)
        original = None if sound_of is None or sound_of.live else _open(sound_of)
        has_sound = original is not None and original.streams.best("audio") is not None
        self.sound = SoundCopy(original, sound_from, self.container) if has_sound else None

    def write(self, image_rgb: UInt8[np.ndarray, "H W 3"], time_s: Fraction) -> None:
        """Show an image from this time on; times rise from call to call."""
        if any(self.padding):
            image_rgb = cv2.copyMakeBorder(image_rgb, *self.padding, cv2.BORDER_REPLICATE)
        frame = _av().VideoFrame.from_ndarray(image_rgb, format="rgb24")
        self.last_tick = max(self.last_tick + 1, round(time_s / self.time_base))
        frame.pts, frame.time_base = self.last_tick, self.time_base
        if self.sound is not None:
            self.sound.copy(until_s=time_s)
        self.container.mux(self.stream.encode(frame))
        self.end_s = time_s + 1 / self.rate

    def close(self) -> None:
        """Finish the file; its sound ends with the last image."""
        self.container.mux(self.stream.encode(None))
        if self.sound is not None:
            self.sound.copy(until_s=self.end_s)
            self.sound.close()
        self.container.close()


class SoundCopy:
    """Copies a file's sound packet by packet while images are written; as AAC where MP4 can't hold its codec."""

    def __init__(self, container: Any, begin_s: Fraction, output: Any) -> None:
        """Announce the sound in the output, into which nothing was written yet.

        `container` is the video file, opened once more. Sound before `begin_s` of the file's clock is left out.
        """
        self.container, self.begin_s, self.output = container, begin_s, output
        stream = container.streams.best("audio")
        self.as_it_is = stream.codec_context.name in SOUND_CODECS_OF_MP4
        if self.as_it_is:
            self.stream = output.add_stream_from_template(stream)
        else:
            self.stream = output.add_stream("aac", rate=stream.rate, layout=stream.layout.name)
        self.packets = self._packets(stream)
        self.next_packet = next(self.packets, None)

    def _packets(self, stream: Any) -> Iterator[tuple[Any, int, Fraction]]:
        """Packets with their stamps and times in the output, up to the end or to damage: images go on without sound."""
        with suppress(_av().FFmpegError):
            for packet in self.container.demux(stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None and stamp * packet.time_base >= self.begin_s:
                    yield packet, stamp, stamp * packet.time_base - self.begin_s

    def copy(self, until_s: Fraction) -> None:
        """Copy the sound before this time of the output, so that sound and images lie side by side in the file."""
        while self.next_packet is not None and self.next_packet[2] < until_s:
            packet, stamp, _ = self.next_packet
            self._write(packet, stamp)
            self.next_packet = next(self.packets, None)

    def _write(self, packet: Any, stamp: int) -> None:
        if self.as_it_is:
            begin = round(self.begin_s / packet.time_base)
            packet.pts, packet.dts = stamp - begin, (stamp if packet.dts is None else packet.dts) - begin
            packet.stream = self.stream
            self.output.mux(packet)
            return
        try:
            frames = packet.decode()
        except _av().FFmpegError:  # a damaged moment is silent
            return
        for frame in frames:
            frame.pts = None if frame.pts is None else frame.pts - round(self.begin_s / frame.time_base)
            self.output.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write the sound that the encoder still holds, and close the file that it comes from."""
        if not self.as_it_is:
            self.output.mux(self.stream.encode(None))
        self.container.close()
