"""Case `fuzzed-videos`: damaged videos of 14 kinds, each of which must end in frames or in one line, in bounded time.

python benchmarks/reliability/fuzzed_videos.py --files 2000

Each file is read whole or from a time on, and written again with its sound, as `onestage predict` does it without a
network. Frames must have numbers and times that rise, and what is written must be a video. The films are made anew by
PyAV; the seed says where they are damaged: bytes in the head or anywhere, cuts, and lost or doubled pieces.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro

from onestage.inference.sources import open_video
from onestage.inference.video import VideoError, VideoReader
from onestage.inference.video_writer import VideoWriter

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from films import write_film

FRAMES = 30
KINDS: tuple[tuple[str, str, str | None, dict[str, str]], ...] = (  # suffix, codec, sound, options of the container
    (".mp4", "libx264", "aac", {"movflags": "faststart"}),
    (".mp4", "libx264", None, {}),
    (".mov", "mpeg4", "pcm_s16le", {}),
    (".mkv", "libx264", "flac", {"cluster_time_limit": "400"}),
    (".mkv", "libx265", None, {}),
    (".webm", "libvpx", None, {"cluster_time_limit": "400"}),
    (".avi", "mjpeg", "pcm_s16le", {}),
    (".avi", "mpeg4", None, {}),
    (".ts", "libx264", "aac", {}),
    (".mpg", "mpeg2video", "mp2", {}),
    (".wmv", "wmv2", "libmp3lame", {}),
    (".flv", "flv", None, {}),
    (".3gp", "mpeg4", None, {}),
    (".m4v", "mpeg4", None, {}),
)


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    files: int = 2000
    seed: int = 0


def main(options: Options) -> None:
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = {"libx265": {"x265-params": "log-level=none"}}
        films = [
            write_film(
                folder / f"{index}{suffix}",
                FRAMES,
                rate=25,
                codec=codec,
                sound=sound,
                options=quiet.get(codec),
                container_options=more,
            )
            for index, (suffix, codec, sound, more) in enumerate(KINDS)
        ]
        for film in films:  # memory is compared with that after each was read undamaged
            read_and_write(film, folder / "copy.mp4", 0.0)
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for number in range(options.files):
            rng = np.random.default_rng((options.seed, number))
            film = films[number % len(films)]
            path = folder / f"fuzzed{film.suffix}"
            path.write_bytes(damaged(film.read_bytes(), rng))
            begun = time.perf_counter()
            try:
                outcomes[read_and_write(path, folder / "copy.mp4", float(rng.choice([0.0, 0.5])))] += 1
            except Exception as error:
                raise SystemExit(f"file {number} of seed {options.seed} ({film.name}): {error!r}") from error
            slowest = max(slowest, time.perf_counter() - begun)
        more_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    print(
        f"{options.files:,} files: {', '.join(f'{count:,} {outcome}' for outcome, count in sorted(outcomes.items()))}; "
        f"the slowest {slowest:.1f} s; {more_mb:.0f} MB more than for whole ones"
    )


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with a few bytes changed, in the head or anywhere, cut off, or with a piece gone or doubled."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = max(2, len(data))
        begin, length = int(rng.integers(0, size)), int(rng.integers(1, max(2, size // 20)))
        match rng.choice(["head", "bytes", "noise", "cut", "gone", "doubled"]):
            case "head":
                for place in rng.integers(0, min(size, 2000), size=rng.integers(1, 8)):
                    data[place : place + 1] = rng.bytes(1)
            case "bytes":
                for place in rng.integers(0, size, size=rng.integers(1, 40)):
                    data[place : place + 1] = rng.bytes(1)
            case "noise":
                data[begin : begin + length] = rng.bytes(len(data[begin : begin + length]))
            case "cut":
                del data[begin:]
            case "gone":
                del data[begin : begin + length]
            case _:
                data[begin:begin] = data[begin : begin + length]
    return bytes(data)


def read_and_write(path: Path, target: Path, start_s: float) -> str:
    """In words, what came of it."""
    said: list[str] = []
    try:
        reader = VideoReader(open_video(path), start_s=start_s, report=said.append)
        frames = reader.frames()
        first = next(frames, None)
        if first is None:
            return "without a frame"
        writer = VideoWriter(
            target,
            first.image.shape[:2],
            reader.rate,
            reader.time_base,
            reader.source,
            reader.begin + first.time,
            colours=reader.colours,
            pixel_aspect=first.pixel_aspect,
            report=said.append,
        )
        writer.write(first.image, first.time - first.time)
        last, count = first, 1
        for frame in frames:
            assert frame.index > last.index, "numbers fall"
            writer.write(frame.image, frame.time - first.time)
            last, count = frame, count + 1
        writer.close()
    except VideoError as error:
        said.append(str(error))
        return "refused in one line"
    finally:
        assert not any("\n" in line for line in said), f"more than a line: {said}"
    with av.open(str(target)) as copy:
        assert sum(1 for _ in copy.decode(video=0)) == count, "the copy has other frames"
    return "drawn"


if __name__ == "__main__":
    main(tyro.cli(Options))
