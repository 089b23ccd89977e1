"""`onestage predict`: detect in images and videos; write them with boxes drawn, and the detections in several formats.

Everything is written image by image, so that memory stays flat however long a video is.
"""

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from onestage.compute.memory import keep_freed_memory
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.object_tracking import LOWEST_SCORE, ObjectTracker
from onestage.inference.predictor import BasePredictor, FramePrediction, load
from onestage.inference.sources import ImageSource, Source, VideoSource, open_sources
from onestage.inference.threads import behind
from onestage.inference.video import TIME_DIGITS, VideoError, VideoReader, check_chosen_frames
from onestage.inference.video_writer import VideoWriter
from onestage.jobs.labelling_folders import coco_folder, label_studio_folder, voc_folder, yolo_folder
from onestage.jobs.rank import RANKED_FILES, Ranking, ReadVideo, rank_sources
from onestage.jobs.result_files import Add, ImageResult, Output, coco_files, csv_file, detections_json, write_image
from onestage.jobs.written_files import WrittenFiles
from onestage.selection import Selection
from onestage.structures import Categories, Detections
from onestage.terminal import Display, command_display
from onestage.texts import counted

ResultFormat = Literal["csv", "coco", "voc", "yolo", "coco-folder", "label-studio"]
WRITERS: dict[str, Callable[[Output], Add]] = {
    "json": detections_json,
    "csv": csv_file,
    "coco": coco_files,
    "voc": voc_folder,
    "yolo": yolo_folder,
    "coco-folder": coco_folder,
    "label-studio": label_studio_folder,
}
FILES_OF: dict[str, tuple[str, ...]] = {  # of each format, as globs
    "json": ("detections.json",),
    "csv": ("detections.csv",),
    "coco": ("coco_results.json", "coco_images.json"),
    "voc": ("voc/labelmap.txt", *(f"voc/{part}/[!.]*" for part in ("Annotations", "JPEGImages", "ImageSets/Main"))),
    "yolo": ("yolo/data.yaml", "yolo/images/train/[!.]*", "yolo/labels/train/[!.]*"),
    "coco-folder": ("coco-folder/annotations/instances_default.json", "coco-folder/images/default/[!.]*"),
    "label-studio": ("label-studio/tasks.json", "label-studio/labels.xml", "label-studio/images/[!.]*"),
}


@dataclass(frozen=True)
class Predicted:
    """Counts of what `predict` did; the results are in `folder / "detections.json"`."""

    folder: Path
    images: int
    frames: int
    detections: int


def predict(
    model: str | os.PathLike[str],
    sources: Sequence[str],
    *,
    out: str | os.PathLike[str] = "predictions",
    score_threshold: float | Literal["auto"] = "auto",
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    tile: int | str | None = None,
    tile_overlap: int | None = None,
    every: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: bool = False,
    formats: tuple[ResultFormat, ...] = (),
    rank: Literal["uncertain"] | None = None,
    rank_images: int = 100,
    batch_size: int = 8,
    device: str | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> Predicted:
    """Detect in every image and video of the sources; write them drawn, and `detections.json`, into `out`.

    Args:
        model: a run folder, a model file, an exported file or a hub's name (`hf://USER/NAME[@REVISION]`).
        sources: images, videos, folders, globs, lists, cameras, addresses; see `open_sources`.
        out: the folder for the results; drawn images keep their paths below the folder that was named. Small images
            are drawn enlarged by a whole factor; `detections.json` is in pixels of the original all the same.
        score_threshold: the score above which a detection is kept and drawn; "auto" takes the thresholds that were
            found for the model's classes, or 0.5 where none were.
        nms, iou_threshold, class_agnostic, max_detections: fields of `Selection`; "soft" is Gaussian soft-NMS. None
            keeps the model's own; of detections 200, or as many as an exported file gives.
        tile, tile_overlap: how images are cut into tiles that go through the network one by one; see `changed_tiling`.
            None keeps the model's.
        every: detect in each n-th frame of a video only.
        start_s, end_s: detect in the frames of a video from one time to before the other, seconds.
        track: give each object of a video a number that it keeps from frame to frame (ByteTrack). Detections with
            lower scores are kept, too, where they go on with a track.
        formats: also write "csv", "coco" (its result format), or folders to correct in a labelling tool and to train
            on: "voc", "yolo", "coco-folder", "label-studio".
        rank: "uncertain": of all images and frames, write only those that are most worth labelling, and `ranked.csv`,
            `ranked.json` and `ranked.txt`; see `inference.ranking`.
        rank_images: how many of them.
        batch_size: number of images that go through the network together.
        device: as "cpu" or "cuda". None: a GPU where there is one.
        overwrite: replace files in `out`, too, that no earlier `predict` wrote or that were changed since.
        display: where messages go.

    Raises:
        UserError: no model, no sources, or files in `out` that would be overwritten; or, when all others are done,
            sources that could not be read.
    """
    display = command_display(display)
    check_chosen_frames(every, start_s, end_s)
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give 1 or more")
    _check_rank(rank, rank_images, track)
    keep_freed_memory()
    predictor = load(model, device=device, tile=tile, tile_overlap=tile_overlap)
    asked = score_threshold, nms, iou_threshold, class_agnostic, max_detections
    predictor.selection = selection = predictor.selection_for(*asked)
    opened, folder, written = open_sources(sources), Path(out), WrittenFiles(Path(out), overwrite)
    _ = ObjectTracker(1.0, selection) if track else None  # or the line about the missing package, before all work
    written.check(_targets(opened, folder, formats, rank is not None), [source.name for source in opened])
    read_video = partial(VideoReader, every=every, start_s=start_s, end_s=end_s, report=display.say)
    with written:
        ranking = None
        if rank is not None:
            ranking = rank_sources(predictor, opened, rank_images, read_video, batch_size, display)
            ranking.write(written)
        with _result_files(written, predictor.categories, os.fspath(model), formats) as (add, done):
            run = _Run(predictor, add, written, batch_size, display)
            unreadable = _predict_all(run, opened, ranking, read_video, track)
    display.say(f"{_counted(done, selection, track)}, in {display.took}: {folder}")
    if unreadable:
        raise UserError(f"{unreadable} of {len(opened)} sources could not be read (named above)")
    return Predicted(folder, done["images"], done["frames"], done["detections"])


@dataclass(frozen=True)
class _Run:
    """What detects, and where the results go."""

    predictor: BasePredictor
    add: Add
    written: WrittenFiles
    batch_size: int
    display: Display

    def draw(self, result: ImageResult) -> None:
        """Write an image with its detections drawn."""
        target = self.written.begin(self.written.folder / result.name)
        write_image(target, result.found.draw(result.image_rgb, min_side=SMALLEST_DRAWN_SIDE))
        self.written.done(target)


def _check_rank(rank: str | None, rank_images: int, track: bool) -> None:
    if rank is not None and rank_images < 1:
        raise UserError(f"rank images {rank_images}: give 1 or more")
    if rank is not None and track:
        raise UserError("track: not with rank, which takes single frames; leave one out")


def _counted(done: Counter[str], selection: Selection, track: bool) -> str:
    inputs = (
        " and ".join(counted(done[f"{what}s"], what) for what in ("image", "frame") if done[f"{what}s"]) or "0 images"
    )
    which = f"scores above {selection.thresholds_in_words}{' or a track' if track else ''}"
    return f"{inputs}, {counted(done['detections'], 'detection')} with {which}"


def _targets(sources: Sequence[Source], folder: Path, formats: Sequence[str], ranked: bool) -> Iterator[Path]:
    """The files that a run will write, or that lie where it may write."""
    yield from (folder / source.output_name for source in sources)
    for pattern in (*chain(*(FILES_OF[name] for name in ("json", *formats))), *(RANKED_FILES if ranked else ())):
        yield from folder.glob(pattern) if "*" in pattern else (folder / pattern,)
    for video in (source for source in sources if ranked and isinstance(source, VideoSource)):
        yield from folder.glob(f"{glob.escape(_stem(video))}-[0-9]*.jpg")


def _predict_all(
    run: _Run, sources: Sequence[Source], ranking: Ranking | None, read_video: ReadVideo, track: bool
) -> int:
    """Detect in all sources, or in what was chosen of them; returns how many could not be read."""
    if ranking is not None:
        return ranking.unreadable + _predict_ranked(run, ranking, read_video)
    return _predict_images(run, sources) + _predict_videos(run, sources, read_video, track)


def _predict_images(run: _Run, sources: Sequence[Source]) -> int:
    """Detect in the images among the sources and draw them; returns how many could not be read."""
    images = [source for source in sources if isinstance(source, ImageSource)]
    unreadable = 0
    with (
        run.display.stage("predicting", len(images)) as stage,
        behind(run.draw, depth=2 * run.batch_size) as draw_behind,
    ):
        files = run.predictor.predict_files([source.content for source in images], run.batch_size)
        for source, file in zip(images, files, strict=True):
            stage.advance()
            if file.image is None or not isinstance(file.outcome, Detections):
                unreadable += 1
                run.display.say(f"passed over: {file.outcome}")
                continue
            path = source.content if isinstance(source.content, Path) else None
            result = ImageResult({"source": source.name}, source.output_name, path, file.image, file.outcome)
            run.add(result)
            draw_behind(result)
    return unreadable


def _predict_videos(run: _Run, sources: Sequence[Source], read_video: ReadVideo, track: bool) -> int:
    """Detect in the videos among the sources and draw them; returns how many could not be read."""
    unreadable, asked = 0, run.predictor.selection
    if track:
        run.predictor.selection = asked.changed(score_threshold=min(LOWEST_SCORE, asked.score_threshold))
    for video in (source for source in sources if isinstance(source, VideoSource)):
        try:
            reader = read_video(video)
            tracker = ObjectTracker(float(reader.rate) / reader.every, asked) if track else None
            _predict_video(run, reader, tracker)
        except VideoError as error:
            unreadable += 1
            run.display.say(f"passed over: {error}")
    return unreadable


def _predict_ranked(run_of_all: _Run, ranking: Ranking, read_video: ReadVideo) -> int:
    """Detect in the images and frames that were chosen, and draw them; returns how many sources could not be read."""
    reasons: dict[tuple[str, int | None], dict[str, Any]] = {}
    frames: dict[VideoSource, set[int]] = defaultdict(set)
    for rank, seen in enumerate(ranking.chosen, start=1):
        reasons[seen.source.name, seen.frame] = {"rank": rank, "why": seen.doubt.why}
        if isinstance(seen.source, VideoSource) and seen.frame is not None:
            frames[seen.source].add(seen.frame)

    def add(result: ImageResult) -> None:
        where = result.where
        run_of_all.add(replace(result, where={**where, **reasons[where["source"], where.get("frame")]}))

    run = replace(run_of_all, add=add)
    unreadable = _predict_images(run, [seen.source for seen in ranking.chosen])
    for video, numbers in frames.items():
        try:
            _predict_frames(run, read_video(video), numbers)
        except VideoError as error:
            unreadable += 1
            run.display.say(f"passed over: {error}")
    return unreadable


def _predict_frames(run: _Run, reader: VideoReader, numbers: Collection[int]) -> None:
    """Detect in some frames of a video, by their numbers, and write each as a drawn image."""
    with (
        run.display.stage(reader.source.name, len(numbers)) as stage,
        behind(run.draw, depth=2 * run.batch_size) as draw_behind,
    ):
        chosen = islice((frame for frame in reader.frames() if frame.index in numbers), len(numbers))
        while batch := list(islice(chosen, run.batch_size)):
            found = run.predictor.detect([run.predictor.prepare(frame.image) for frame in batch])
            for frame, one in zip(batch, found, strict=True):
                result = _result_of_frame(reader.source, FramePrediction(frame, one))
                run.add(result)
                draw_behind(result)
                stage.advance()


def _result_of_frame(source: VideoSource, prediction: FramePrediction) -> ImageResult:
    frame = prediction.frame
    where = {"source": source.name, "frame": frame.index, "time_s": round(float(frame.time), TIME_DIGITS)}
    return ImageResult(where, f"{_stem(source)}-{frame.index:06d}.jpg", None, frame.image, prediction.found)


def _stem(source: VideoSource) -> str:
    return os.fspath(Path(source.output_name).with_suffix(""))


def _predict_video(run: _Run, reader: VideoReader, tracker: ObjectTracker | None) -> None:
    """Decode, detect, draw and encode at the same time. Ctrl-C ends a live source, and all files are whole."""
    source = reader.source
    if source.live:
        run.display.say(f"{source.name}: Ctrl-C ends it")
    ended_by = suppress(KeyboardInterrupt) if source.live else nullcontext()
    with ended_by, run.display.stage(source.name, reader.expected_frames) as stage:
        predictions = run.predictor.predict_video(reader, batch_size=run.batch_size)
        predictions = predictions if tracker is None else tracker.follow(predictions)
        first = next(predictions, None)
        if first is None:
            raise VideoError(f"{source.name}: no frame that was asked for could be read; look at it with a player")
        begin, (height, width) = first.frame.time, first.frame.image.shape[:2]
        path = run.written.begin(run.written.folder / source.output_name)
        copy = VideoWriter(
            path,
            (height, width),
            reader.rate / reader.every,
            reader.time_base,
            source,
            reader.begin + begin,
            colours=reader.colours,
            pixel_aspect=first.frame.pixel_aspect,
            report=run.display.say,
        )

        def draw(prediction: FramePrediction) -> None:
            copy.write(prediction.found.draw(prediction.frame.image), prediction.frame.time - begin)

        with closing(copy), behind(draw, depth=run.batch_size) as draw_behind:
            for prediction in chain([first], predictions):
                run.add(_result_of_frame(source, prediction))
                draw_behind(prediction)
                stage.advance()
        run.written.done(path)


@contextmanager
def _result_files(
    written: WrittenFiles, categories: Categories, model: str, formats: Sequence[str]
) -> Iterator[tuple[Add, Counter[str]]]:
    """Open `detections.json` and files of other formats.

    Gives a function that adds an image to all of them, and the number of "images", "frames" and "detections" so far.
    """
    done: Counter[str] = Counter()
    with ExitStack() as files:
        output = Output(written, categories, model, files)
        writers = [WRITERS[name](output) for name in ("json", *dict.fromkeys(formats))]

        def add(result: ImageResult) -> None:
            done.update({"frames" if "frame" in result.where else "images": 1, "detections": len(result.found)})
            for write in writers:
                write(result)

        yield add, done
