"""Small videos for the tests, written by PyAV: a red box that moves, so that each frame says which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from red_box import red_box

WIDTH, HEIGHT, SIDE = 128, 96, 32
STEP = 4  # pixels that the box moves to the right from frame to frame; after COLUMNS frames it is a row further down
COLUMNS = (WIDTH - SIDE) // STEP
SOUND_RATE = 44_100


def place(index: int) -> tuple[int, int, int, int]:
    """Where the box is in a frame."""
    x, y = index % COLUMNS * STEP, index // COLUMNS * STEP % (HEIGHT - SIDE)
    return x, y, x + SIDE, y + SIDE


def index_of(image_rgb: np.ndarray) -> int:
    """Which of the first frames an image is, by where its box is."""
    red = (image_rgb[..., 0].astype(int) - image_rgb[..., 1]) > 100
    x, y = red.any(axis=0).argmax(), red.any(axis=1).argmax()
    return round(int(y) / STEP) * COLUMNS + round(int(x) / STEP)


def write_film(
    path: Path,
    frames: int,
    *,
    rate: int | Fraction = 10,
    codec: str = "libx264",
    keyframe_every: int = 12,
    ticks: Sequence[int] | None = None,
    sound: str | None = None,
    layout: str = "mono",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    **fields: Any,
) -> Path:
    """Write a film; `ticks` (hundredths of a second) give each frame its own time, `sound` is its codec.

    `options` are the codec's; `fields` are set on the codec context, as `color_primaries=1`.
    """
    container: Any = av.open(str(path), mode="w", options=container_options or {})
    with container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(keyframe_every), **(options or {})})
        for name, value in fields.items():
            setattr(stream.codec_context, name, value)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        heard = container.add_stream(sound, rate=SOUND_RATE, layout=layout) if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(red_box(WIDTH, HEIGHT, place(index)), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = 1 / Fraction(rate) if ticks is None else Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None:
            _write_tone(container, heard, seconds=float(frames / rate))
    return path


def write_repeated(path: Path, film: Path, times: int) -> Path:
    """Write a film that shows another one again and again, without decoding it."""
    output: Any = av.open(str(path), mode="w")
    with output:
        stream = None
        for turn in range(times):
            with av.open(str(film)) as original:
                shown = original.streams.video[0]
                stream = stream or output.add_stream_from_template(shown)
                for packet in original.demux(shown):
                    if packet.dts is not None:  # else it is the end
                        packet.pts, packet.dts = (stamp + turn * shown.duration for stamp in (packet.pts, packet.dts))
                        packet.stream = stream
                        output.mux(packet)
    return path


def _write_tone(container: Any, stream: Any, seconds: float) -> None:
    """A tone of 440 Hz."""
    resampler = av.AudioResampler(stream.format, stream.layout, SOUND_RATE, frame_size=1024)
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE)).astype(np.int16)
    tone = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    tone.sample_rate, tone.pts, tone.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
    for part in (*resampler.resample(tone), *resampler.resample(None)):
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))
