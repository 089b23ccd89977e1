"""`onestage predict --rank`: of many images and frames, the few that are most worth labelling, and a list of them.

Of each image only a few numbers are kept, so that a hundred thousand take about 200 MB at most.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onestage.errors import UserError
from onestage.inference.predictor import BasePredictor
from onestage.inference.ranking import Doubt, choose, doubt_of, lowest_score
from onestage.inference.sources import ImageSource, Source, VideoSource
from onestage.inference.video import TIME_DIGITS, VideoError, VideoReader
from onestage.jobs.written_files import WrittenFiles
from onestage.structures import Detections
from onestage.terminal import Display
from onestage.texts import as_unicode, json_text

RANKED_FILES = ("ranked.json", "ranked.csv", "ranked.txt")
COLUMNS = ("rank", "source", "frame", "time_s", "doubt", "why")
ReadVideo = Callable[[VideoSource], VideoReader]


class Seen(NamedTuple):
    """An image, or a frame of a video, and what the model is unsure of in it."""

    source: Source
    frame: int | None
    time_s: float | None
    doubt: Doubt

    def row(self, rank: int) -> dict[str, Any]:
        """The fields of `ranked.json`."""
        of_frame = {} if self.frame is None else {"frame": self.frame, "time_s": self.time_s}
        doubt = {"doubt": round(self.doubt.mistakes, 2), "why": self.doubt.why}
        return {"rank": rank, "source": self.source.name, **of_frame, **doubt}


@dataclass(frozen=True)
class Ranking:
    """The images and frames that are most worth labelling, best first."""

    chosen: list[Seen]
    unreadable: int  # sources

    def write(self, written: WrittenFiles) -> None:
        """`ranked.json` and `ranked.csv`; the image files alone, for `@ranked.txt`, in `ranked.txt`."""
        rows = [seen.row(rank) for rank, seen in enumerate(self.chosen, start=1)]
        table = io.StringIO(newline="")
        writer: csv.DictWriter[str] = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "source": as_unicode(row["source"])} for row in rows)
        files = [seen.source.name for seen in self.chosen if isinstance(seen.source, ImageSource)]
        lines = b"".join(os.fsencode(name) + b"\n" for name in files if name.splitlines() == [name])
        texts = (json_text(rows, indent=1).encode(), table.getvalue().encode(), lines)
        for name, text in zip(RANKED_FILES, texts, strict=True):
            path = written.begin(written.folder / name)
            path.write_bytes(text)
            written.done(path)


def rank_sources(
    predictor: BasePredictor,
    sources: Sequence[Source],
    count: int,
    read_video: ReadVideo,
    batch_size: int,
    display: Display,
) -> Ranking:
    """Look at every image and frame, and choose `count` of them; says what was found.

    Raises:
        UserError: a live source, or nothing that can be read.
    """
    if live := next((one.name for one in sources if isinstance(one, VideoSource) and one.live), None):
        raise UserError(f"{live}: a live source has no frames to come back to; record a video, and rank that")
    asked, unreadable = predictor.selection, list[str]()

    def passed_over(reason: object) -> None:
        unreadable.append(str(reason))
        display.say(f"passed over: {reason}")

    thresholds = asked.score_thresholds
    predictor.selection = asked.changed(score_threshold=lowest_score(asked.score_threshold))
    seen = list(_seen_in_images(predictor, sources, thresholds, passed_over, batch_size, display))
    for video in (source for source in sources if isinstance(source, VideoSource)):
        try:
            seen += _seen_in_video(predictor, read_video(video), thresholds, batch_size, display)
        except VideoError as error:
            passed_over(error)
    predictor.selection = asked
    if not seen:
        raise UserError(f"none of the {len(sources)} sources could be read (named above)")
    mistakes = np.array([one.doubt.mistakes for one in seen])
    order = list(choose(mistakes, np.stack([one.doubt.vector for one in seen]), count))
    if len(order) < min(count, len(seen)):
        display.say(f"only {len(order)} are chosen: each of the others looks like one of these")
    doubts = f"doubt {mistakes[order].mean():.2g} an image, {mistakes.mean():.2g} over all"
    are = "are most worth labelling" if len(order) < len(seen) else "put in order, most worth labelling first"
    display.say(f"{len(order):,} of {len(seen):,} images {are} ({doubts})")
    return Ranking([seen[index] for index in order], len(unreadable))


def _seen_in_images(
    predictor: BasePredictor,
    sources: Sequence[Source],
    thresholds: float | Sequence[float],
    passed_over: Callable[[object], None],
    batch_size: int,
    display: Display,
) -> Iterator[Seen]:
    images = [source for source in sources if isinstance(source, ImageSource)]
    with display.stage("ranking", len(images)) as stage:
        files = predictor.predict_files([source.content for source in images], batch_size)
        for source, file in zip(images, files, strict=True):
            stage.advance()
            if file.image is None or not isinstance(file.outcome, Detections):
                passed_over(file.outcome)
                continue
            yield Seen(source, None, None, doubt_of(file.outcome, file.image, thresholds))


def _seen_in_video(
    predictor: BasePredictor,
    reader: VideoReader,
    thresholds: float | Sequence[float],
    batch_size: int,
    display: Display,
) -> Iterator[Seen]:
    with display.stage(f"ranking {reader.source.name}", reader.expected_frames) as stage:
        for one in predictor.predict_video(reader, batch_size=batch_size):
            frame, found = one.frame, one.found
            time_s = round(float(frame.time), TIME_DIGITS)
            yield Seen(reader.source, frame.index, time_s, doubt_of(found, frame.image, thresholds))
            stage.advance()
