"""A folder that several formats fit: which of them counts, and which images only another one annotates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from onestage.data.folder import DataFolder, folder_of, key_of, stem_of
from onestage.data.formats.yolo import YoloSource
from onestage.data.reading import Source
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.texts import counted

Labelled = Mapping[str, str]  # key of an image's stem -> its annotation file


def choose_format(folder: DataFolder, fitting: Mapping[str, Source]) -> tuple[str, Labelled]:
    """The first format that fits, and the images that only another one labels.

    Of formats with a file an image, the one counts that labels most images. YOLO comes last where all its labels have
    the confidence of a model; it comes first where a YAML names it.
    """
    kind = next(iter(fitting))
    if len(fitting) == 1:
        return kind, {}
    yolo = fitting.get("yolo")
    by_yaml = isinstance(yolo, YoloSource) and bool(yolo.file)
    labelled = {name: _labelled(folder, source) for name, source in fitting.items()}
    if isinstance(yolo, YoloSource) and not by_yaml and yolo.with_confidence:
        del labelled["yolo"]
        kind = next(iter(labelled))
    if by_yaml or not labelled[kind]:
        return kind, _beside(folder, kind, labelled)
    kind = max(labelled, key=lambda name: len(labelled[name]))  # of equal ones the first
    files = [file for name in labelled.keys() - {kind} for file in getattr(fitting[name], "files", ())]
    return kind, _in_folders_of_their_own(folder, labelled[kind], files) | _beside(folder, kind, labelled)


def _labelled(folder: DataFolder, source: Source) -> Labelled:
    files = getattr(source, "files", ()) if source.one_image_each else ()
    return {key_of(stem_of(file)): file for file in files if folder.images_of_stem(stem_of(file))}


def _beside(folder: DataFolder, kind: str, labelled: Mapping[str, Labelled]) -> dict[str, str]:
    """Files beside the images, or beside the labels of the format: a tool saved a part of them otherwise."""
    ours = labelled[kind]
    folders = {folder_of(file) for file in (*folder.images, *ours.values())} if ours else set()
    return {
        stem: file
        for theirs in labelled.values()
        for stem, file in theirs.items()
        if stem not in ours and folder_of(file) in folders
    }


def _in_folders_of_their_own(folder: DataFolder, ours: Labelled, files: Iterable[str]) -> dict[str, str]:
    """The images in the top folders of these files, where ours labels none of them: a second data set."""
    stems: dict[str, set[str]] = defaultdict(set)  # of the images in each top folder
    for image in folder.images:
        stems[image.partition("/")[0]].add(key_of(stem_of(image)))
    tops = {file.partition("/")[0]: file for file in files if "/" in file}
    return {stem: file for top, file in tops.items() if not stems[top] & ours.keys() for stem in stems[top]}


def without_images_of_others(table: Table, others: Labelled) -> tuple[Table, list[Problem]]:
    """The table without the images that only another format labels, which is an error: they are no background."""
    if not others:
        return table, []
    files = sorted(set(others.values()))
    message = (
        f"{counted(len(others), 'image')} with labels in another format alone ({', '.join(files[:3])}"
        f"{', ...' if len(files) > 3 else ''}), none in {table.kind}: left out; convert one of the two, join "
        f"folders of their own with +, or read one format alone with --format {table.kind}"
    )
    kept = [row for row, name in enumerate(table.image_names()) if key_of(stem_of(name)) not in others]
    return table.subset(indices=kept), [Problem(files[0], None, message, "annotation")]
