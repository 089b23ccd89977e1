"""A folder that several formats fit: which of them counts, and which images only another one annotates."""

from __future__ import annotations

from collections.abc import Mapping

from onestage.data.folder import DataFolder, folder_of, key_of, stem_of
from onestage.data.formats.yolo import YoloSource
from onestage.data.reading import Source
from onestage.data.table import Table
from onestage.data.validate import Problem

Labelled = Mapping[str, str]  # key of an image's stem -> its annotation file


def choose_format(folder: DataFolder, fitting: Mapping[str, Source]) -> tuple[str, Labelled]:
    """The first format that fits, and the images that only another one labels.

    Of formats with a file an image, the one counts that labels most images. YOLO comes last where all its labels have
    the confidence of a model; it comes first where a YAML names it.
    """
    kind, labelled = next(iter(fitting)), {}
    if len(fitting) == 1:
        return kind, {}
    yolo = fitting.get("yolo")
    labelled = {name: _labelled(folder, source) for name, source in fitting.items()}
    if isinstance(yolo, YoloSource) and not yolo.file and yolo.with_confidence:
        del labelled["yolo"]
        kind = next(iter(labelled))
    if labelled[kind] and not (isinstance(yolo, YoloSource) and yolo.file):
        kind = max(labelled, key=lambda name: len(labelled[name]))  # of equal ones the first
    return kind, _only_in_others(folder, kind, labelled)


def _labelled(folder: DataFolder, source: Source) -> Labelled:
    files = getattr(source, "files", ()) if source.one_image_each else ()
    return {key_of(stem_of(file)): file for file in files if folder.images_of_stem(stem_of(file))}


def _only_in_others(folder: DataFolder, kind: str, labelled: Mapping[str, Labelled]) -> Labelled:
    """Files beside the images, or beside the labels of the format: a tool saved a part of them otherwise."""
    ours = labelled[kind]
    folders = {folder_of(file) for file in (*folder.images, *ours.values())} if ours else set()
    return {
        stem: file
        for theirs in labelled.values()
        for stem, file in theirs.items()
        if stem not in ours and folder_of(file) in folders
    }


def without_images_of_others(table: Table, others: Labelled) -> tuple[Table, list[Problem]]:
    """The table without the images that only another format labels, which is an error: they are no background."""
    if not others:
        return table, []
    files = sorted(others.values())
    message = (
        f"{len(files):,} images have labels in another format alone ({', '.join(files[:3])}"
        f"{', ...' if len(files) > 3 else ''}), none in {table.kind}, and are left out; convert one of the two, "
        f"or read one alone with --format {table.kind}"
    )
    kept = [row for row, name in enumerate(table.image_names()) if key_of(stem_of(name)) not in others]
    return table.subset(indices=kept), [Problem(files[0], None, message, "annotation")]
