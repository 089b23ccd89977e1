"""Videos, cameras and streams: frames come out upright with their number and time, drawn frames go back in as H.264.

PyAV brings its own FFmpeg (`pip install 'onestage[video]'`). Frames keep their own times, so a variable frame rate
stays one, and what is drawn is as long as what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.inference.sources import VideoSource
from onestage.runtime.decode import MAX_PIXELS

USUAL_RATE = Fraction(25)  # where a source does not say its own
# What a source may make FFmpeg open: no playlist in a folder sends it to the network, no stream to files
LOCAL_PROTOCOLS = "file"
REMOTE_PROTOCOLS = "http,https,tcp,tls,crypto,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt"
SECONDS_TO_ANSWER = 15.0
SOUND_THAT_MP4_HOLDS = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
BROKEN_FRAMES_NAMED = 3
# H.264 encoders by preference, and what makes each of them good enough for thin lines
ENCODERS: dict[str, dict[str, str]] = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {}}


def _av() -> Any:
    """PyAV, or which command installs it."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos and cameras need PyAV: pip install 'onestage[video]'") from error
    return av


@dataclass(frozen=True)
class Frame:
    """One image of a video."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB, upright
    index: int  # of the video's frames, from 0
    time: Fraction  # seconds since the video's beginning


class VideoReader:
    """The frames of a file, a camera or a stream, decoded one after the other; see `frames`.

    Attributes:
        rate: frames a second, on average.
        time_base: seconds of a tick of the source's clock.
        begin: when the source's clock shows its first frame, seconds.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        every: int = 1,
        start_s: float = 0.0,
        end_s: float | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        """Open the source.

        Args:
            source: what to open.
            every: give each n-th frame only.
            start_s, end_s: give the frames from one time to before the other, seconds since the beginning.
            report: told of broken frames.

        Raises:
            UserError: PyAV is missing, the source can't be opened, or holds no frames of a bearable size.
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
        # decoding frames in several threads holds a few of them back, which a live image can't wait for
        stream.thread_type = "SLICE" if source.live else "AUTO"
        self.stream = stream
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        self.time_base = Fraction(stream.time_base)
        self.begin = (stream.start_time or 0) * self.time_base
        self.broken = 0

    @property
    def expected_frames(self) -> int | None:
        """How many frames `frames` gives; an estimate, None where the source does not say."""
        length_s = float(self.stream.duration * self.time_base) if self.stream.duration else None
        if length_s is None and self.container.duration is not None:
            length_s = self.container.duration / 1_000_000
        if self.source.live or length_s is None:
            return None
        seconds = min(length_s, length_s if self.end_s is None else self.end_s) - self.start_s
        return max(0, round(seconds * float(self.rate) / self.every))

    def frames(self) -> Iterator[Frame]:
        """The chosen frames in order. A broken one is reported and passed over; it keeps its number."""
        index = self._seek() if self.start_s > 0 else 0
        first: int | None = None
        try:
            for decoded in self._decoded():
                number, index = index, index + 1
                if decoded is None:
                    continue
                time = self._time(decoded, number)
                if time < self.start_s:
                    continue
                if self.end_s is not None and time >= self.end_s:
                    break
                first = number if first is None else first
                if (number - first) % self.every == 0:
                    yield Frame(_upright(decoded), number, time)
        finally:
            self.container.close()
            if self.broken > BROKEN_FRAMES_NAMED:
                self.report(f"{self.source.name}: {self.broken} broken frames in all were passed over")

    def _decoded(self) -> Iterator[Any]:
        """Frames as the decoder has them; None for a broken one."""
        failure = _av().FFmpegError
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except failure as error:  # there is no more to be had
                self._note_broken(str(error))
                return
            if packet is None:
                return
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

    def _note_broken(self, reason: str) -> None:
        self.broken += 1
        if self.broken <= BROKEN_FRAMES_NAMED:
            self.report(f"{self.source.name}: a broken frame was passed over ({reason})")

    def _time(self, decoded: Any, number: int) -> Fraction:
        if decoded.pts is None:
            return number / self.rate
        return decoded.pts * self.time_base - self.begin

    def _seek(self) -> int:
        """Go to the last keyframe before the beginning that is asked for; its number, from the packets before it."""
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
    options = {"protocol_whitelist": REMOTE_PROTOCOLS if "://" in source.address else LOCAL_PROTOCOLS}
    if source.device_format is not None:
        options = {}
    if source.address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # UDP loses packets, and images turn gray
    try:
        return av.open(
            source.address, mode="r", format=source.device_format, options=options, timeout=(SECONDS_TO_ANSWER, None)
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{source.name}: can't be opened as a video ({getattr(error, 'strerror', error)})") from error


def _upright(decoded: Any) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels, turned as the file says; its angle goes counter-clockwise (FFmpeg's libavutil/display.h)."""
    image = decoded.to_ndarray(format="rgb24")
    quarter_turns = round(decoded.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


class VideoWriter:
    """An H.264 video in an MP4 file that browsers play, with the sound of the video that it was made from."""

    def __init__(
        self, path: Path, size_hw: tuple[int, int], rate: Fraction, time_base: Fraction, sound: Sound | None = None
    ) -> None:
        """Begin the file.

        Args:
            path: of the file, `.mp4`.
            size_hw: of every frame. An odd side gets one more pixel: H.264 stores colours by pairs.
            rate: frames a second, on average.
            time_base: seconds of a tick; frames are shown at whole ticks.
            sound: what to hear.

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
        self.odd_hw = (size_hw[0] % 2, size_hw[1] % 2)
        self.stream = self.container.add_stream(encoder, rate=rate, options=ENCODERS[encoder])
        self.stream.height, self.stream.width = size_hw[0] + self.odd_hw[0], size_hw[1] + self.odd_hw[1]
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = time_base
        self.time_base = time_base
        self.last_tick = -1
        self.sound = sound
        if sound is not None:
            sound.begin(self.container)

    def write(self, image_rgb: UInt8[np.ndarray, "H W 3"], time_s: Fraction) -> None:
        """Show an image from this time on; times rise."""
        if any(self.odd_hw):
            bottom, right = self.odd_hw
            image_rgb = cv2.copyMakeBorder(image_rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        frame = _av().VideoFrame.from_ndarray(image_rgb, format="rgb24")
        self.last_tick = max(self.last_tick + 1, round(time_s / self.time_base))
        frame.pts, frame.time_base = self.last_tick, self.time_base
        if self.sound is not None:
            self.sound.pass_on(until_s=time_s)
        self.container.mux(self.stream.encode(frame))

    def close(self, end_s: Fraction | None = None) -> None:
        """Finish the file, with the sound up to `end_s`; without, all of it."""
        self.container.mux(self.stream.encode(None))
        if self.sound is not None:
            self.sound.pass_on(until_s=end_s)
            self.sound.end()
        self.container.close()


class Sound:
    """A video file's sound, read beside the images and passed on as it is; as AAC where MP4 does not hold it."""

    def __init__(self, source: VideoSource, begin: Fraction, start_s: float = 0.0) -> None:
        """Open the file once more; `Sound.of` says whether there is any.

        Args:
            source: the file.
            begin: when its clock shows the first image, seconds.
            start_s: leave out what comes before, seconds since the first image.
        """
        self.container = _open(source)
        self.stream = self.container.streams.best("audio")
        self.offset_s = begin + Fraction(start_s)

    @classmethod
    def of(cls, source: VideoSource, begin: Fraction, start_s: float = 0.0) -> Sound | None:
        """The sound of a file; None where there is none, or the source is live."""
        if source.live:
            return None
        sound = cls(source, begin, start_s)
        if sound.stream is not None:
            return sound
        sound.container.close()
        return None

    def begin(self, output: Any) -> None:
        """Announce the sound in a file that nothing was written into yet."""
        self.output = output
        self.copied = self.stream.codec_context.name in SOUND_THAT_MP4_HOLDS
        if self.copied:
            self.output_stream = output.add_stream_from_template(self.stream)
        else:
            self.output_stream = output.add_stream("aac", rate=self.stream.rate, layout=self.stream.layout.name)
            self.resampler = _av().AudioResampler("fltp", self.stream.layout.name, self.stream.rate, frame_size=1024)
        self.packets = self._packets()
        self.waiting = next(self.packets, None)

    def _packets(self) -> Iterator[Any]:
        """Packets up to the end, or to where the file is damaged: the images go on without sound."""
        try:
            yield from self.container.demux(self.stream)
        except _av().FFmpegError:
            return

    def pass_on(self, until_s: Fraction | None) -> None:
        """Write what is heard before this time (None: the rest), so that sound and images lie side by side."""
        while self.waiting is not None:
            packet = self.waiting
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:  # the packet that ends the stream has none
                time_s = stamp * packet.time_base - self.offset_s
                if until_s is not None and time_s >= until_s:
                    return
                if time_s >= 0:
                    self._write(packet, stamp)
            self.waiting = next(self.packets, None)

    def _write(self, packet: Any, stamp: int) -> None:
        offset = round(self.offset_s / packet.time_base)
        if self.copied:
            packet.pts, packet.dts = stamp - offset, (stamp if packet.dts is None else packet.dts) - offset
            packet.stream = self.output_stream
            self.output.mux(packet)
            return
        try:
            heard = packet.decode()
        except _av().FFmpegError:  # a damaged moment is silent
            return
        for frame in heard:
            frame.pts = None if frame.pts is None else frame.pts - round(self.offset_s / frame.time_base)
            for resampled in self.resampler.resample(frame):
                self.output.mux(self.output_stream.encode(resampled))

    def end(self) -> None:
        """Close the file it was read from, and write what the encoder held back."""
        if not self.copied:
            for resampled in self.resampler.resample(None):
                self.output.mux(self.output_stream.encode(resampled))
            self.output.mux(self.output_stream.encode(None))
        self.container.close()
