"""Writes drawn frames as H.264 in MP4, with the sound, colours and shape of pixels of the video that they come from."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.inference.sources import VideoSource
from onestage.inference.video import VideoError, import_av, open_container, packets_of
from onestage.inference.video_display import Colours

# H.264 encoders by preference, each with options that keep thin lines sharp
ENCODERS: dict[str, dict[str, str]] = {"libx264": {"preset": "veryfast", "crf": "20"}, "libopenh264": {}}
ENCODED_RATES = (Fraction(1), Fraction(1000))  # frames a second; what an encoder is told, times are as they are
ENCODED_TICKS_S = (Fraction(1, 1_000_000), Fraction(1))  # MP4 counts the ticks of a pause in 32 bits
USUAL_TICK_S = Fraction(1, 90_000)
LIMITED_RANGE = 1  # black is 16 and white 235, as H.264 usually has it (ITU-T H.273)
SOUND_CODECS_OF_MP4 = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # ISO 14496-3
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # by number of channels


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
        *,
        colours: Colours | None = None,
        pixel_aspect: Fraction = Fraction(1),
        report: Callable[[str], None] = print,
    ) -> None:
        """Begin the file, an `.mp4`.

        Args:
            size_hw: height and width of every frame. An odd side gets one more pixel: H.264 stores colours in pairs.
            rate: average number of frames a second.
            time_base: length of a tick, seconds; frames are shown at whole ticks.
            sound_of: the video whose sound is copied, if it is a file that has sound.
            sound_from: time of the first frame by that video's clock, seconds.
            colours: how the original stands for colours; a player shows the copy's in the same way.
            pixel_aspect: width / height of a pixel when it is shown.
            report: called with a message if the sound can't be copied.

        Raises:
            UserError: no H.264 encoder.
            VideoError: the file can't be written.
        """
        av = import_av()
        self.encoder = next((name for name in ENCODERS if name in av.codecs_available), "")
        if not self.encoder:
            raise UserError(f"this build of PyAV has no H.264 encoder ({', '.join(ENCODERS)}); install PyAV from PyPI")
        self.path, self.rate, self.report, self.failure = path, rate, report, (av.FFmpegError, OSError, ValueError)
        shortest, longest = ENCODED_TICKS_S
        self.time_base = time_base if shortest <= time_base <= longest else USUAL_TICK_S
        self.size_hw, self.padding = size_hw, (0, size_hw[0] % 2, 0, size_hw[1] % 2)
        self.colours, self.pixel_aspect = (colours or Colours()).known(size_hw[0]), pixel_aspect
        self.last_tick, self.end_s = -1, Fraction(0)
        self.reformatter = av.video.reformatter.VideoReformatter()
        original = None if sound_of is None or sound_of.live else open_container(sound_of)
        if original is None or original.streams.best("audio") is None:
            self._begin(None, sound_from)
            return
        try:
            self._begin(original, sound_from)
        except VideoError as error:
            report(f"{error}; it is written without sound")
            self._begin(None, sound_from)

    def _begin(self, original: Any, sound_from: Fraction) -> None:
        """Open the file and write its header; `original` is the container whose sound is copied."""
        height, width = self.size_hw
        low, high = ENCODED_RATES
        try:
            self.container = import_av().open(f"file:{self.path}", mode="w", options={"movflags": "faststart"})
            rate = min(max(self.rate.limit_denominator(1001), low), high)
            self.stream = self.container.add_stream(self.encoder, rate=rate, options=ENCODERS[self.encoder])
            self.stream.height, self.stream.width = height + self.padding[1], width + self.padding[3]
            context = self.stream.codec_context
            context.pix_fmt, context.time_base = "yuv420p", self.time_base
            context.sample_aspect_ratio = self.pixel_aspect
            context.colorspace, context.color_range = self.colours.matrix, LIMITED_RANGE
            context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer
            self.sound = None if original is None else SoundCopy(original, sound_from, self.container)
            self.container.start_encoding()
        except self.failure as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> VideoError:
        return VideoError(f"{self.path}: can't be written ({getattr(error, 'strerror', None) or error})")

    def write(self, image_rgb: UInt8[np.ndarray, "H W 3"], time_s: Fraction) -> None:
        """Show an image from this time on; times rise from call to call. Raises `VideoError` if it can't be written."""
        if image_rgb.shape[:2] != self.size_hw:  # the video's size changed
            image_rgb = cv2.resize(image_rgb, self.size_hw[::-1])
        if any(self.padding):
            image_rgb = cv2.copyMakeBorder(image_rgb, *self.padding, cv2.BORDER_REPLICATE)
        frame = import_av().VideoFrame.from_ndarray(image_rgb, format="rgb24")
        space = self.colours.swscale_name
        frame = self.reformatter.reformat(frame, format="yuv420p", dst_colorspace=space, dst_color_range=LIMITED_RANGE)
        self.last_tick = max(self.last_tick + 1, round(time_s / self.time_base))
        frame.pts, frame.time_base = self.last_tick, self.time_base
        self.end_s = time_s + 1 / self.rate
        try:
            self._copy_sound(time_s)
            self.container.mux(self.stream.encode(frame))
        except self.failure as error:
            raise self._refusal(error) from error

    def _copy_sound(self, until_s: Fraction) -> None:
        if self.sound is None:
            return
        try:
            self.sound.copy(until_s)
        except self.failure as error:
            self.report(f"{self.path}: the sound ends here ({error})")
            self.sound = None

    def close(self) -> None:
        """Finish the file; its sound ends with the last image. Raises `VideoError` if it can't be written."""
        try:
            self.container.mux(self.stream.encode(None))
            self._copy_sound(self.end_s)
            if self.sound is not None:
                self.sound.close()
            self.container.close()
        except self.failure as error:
            raise self._refusal(error) from error


class SoundCopy:
    """Copies a file's sound packet by packet while images are written; as AAC where MP4 can't hold its codec."""

    def __init__(self, container: Any, begin_s: Fraction, output: Any) -> None:
        """Announce the sound in the output, into which nothing was written yet.

        `container` is the video file, opened once more. Sound before `begin_s` of the file's clock is left out.
        """
        stream = container.streams.best("audio")
        if stream.codec_context is None:
            raise ValueError("no decoder knows its sound")
        self.container, self.output, self.time_base = container, output, Fraction(stream.time_base)
        self.begin = round(begin_s / self.time_base)  # in ticks of the sound's clock, as all stamps here
        self.as_it_is = stream.codec_context.name in SOUND_CODECS_OF_MP4
        if self.as_it_is:
            self.stream = output.add_stream_from_template(stream)
        else:
            rate = next((rate for rate in AAC_RATES if rate >= stream.rate), AAC_RATES[-1])
            self.stream = output.add_stream("aac", rate=rate, layout=AAC_LAYOUTS.get(stream.channels, "stereo"))
        self.packets = self._packets(stream)
        self.next_packet = next(self.packets, None)

    def _packets(self, stream: Any) -> Iterator[tuple[Any, int]]:
        """Packets with their stamps, up to the end or to damage: images go on without sound."""
        with suppress(import_av().FFmpegError):
            for packet in packets_of(self.container, stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None and stamp >= self.begin:
                    yield packet, stamp

    def copy(self, until_s: Fraction) -> None:
        """Copy the sound before this time of the output, so that sound and images lie side by side in the file."""
        until = self.begin + until_s / self.time_base
        while self.next_packet is not None and self.next_packet[1] < until:
            self._write(*self.next_packet)
            self.next_packet = next(self.packets, None)

    def _write(self, packet: Any, stamp: int) -> None:
        if self.as_it_is:
            dts = stamp if packet.dts is None else packet.dts
            packet.pts, packet.dts = stamp - self.begin, dts - self.begin
            packet.stream = self.stream
            self.output.mux(packet)
            return
        try:
            frames = packet.decode()
        except import_av().FFmpegError:  # a damaged moment is silent
            return
        for frame in frames:
            frame.pts = None if frame.pts is None else frame.pts - round(self.begin * self.time_base / frame.time_base)
            self.output.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write the sound that the encoder still holds, and close the file that it comes from."""
        if not self.as_it_is:
            self.output.mux(self.stream.encode(None))
        self.container.close()
