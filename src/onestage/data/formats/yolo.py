"""YOLO: a text file of objects an image, and a file that names the classes and the images of each split.

That file is a YAML (`data.yaml`, or of any name), or Darknet's `obj.data`; without one, the classes come from
`classes.txt` and the like (see `yolo_classes`), and the splits from lists (`train.txt`) or folders.

The labels of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, else beside the image. A line is `class cx cy w h`
in fractions of the image, `class x y x y ...` (a polygon or a turned box, whose upright box is taken), or a box and key
points, where the YAML has a `kpt_shape`. An image without a label file has no objects. Classes count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

from onestage.data.folder import (
    DataFolder,
    OutsideError,
    folder_of,
    is_image,
    key_of,
    shown,
    some_of,
    stem_of,
)
from onestage.data.formats.yolo_boxes import Corners, key_points_in
from onestage.data.formats.yolo_classes import names_for, names_in
from onestage.data.formats.yolo_labels import LabelFiles, may_have_image
from onestage.data.formats.yolo_settings import (
    MAX_YAML_BYTES,
    DamagedYamlError,
    Settings,
    names_of,
    numbers_of_key_points,
    read_yaml,
    split_places,
)
from onestage.data.reading import (
    ALL,
    FRACTION_LIMIT,
    AnnotatedImage,
    AnnotatedObject,
    Faults,
    Source,
    box_around,
    lines_of_names,
    numbers_of,
)
from onestage.data.split_names import is_split
from onestage.errors import UserError
from onestage.structures import Categories, repeated
from onestage.terminal import watched
from onestage.texts import counted

MAX_LABEL_BYTES = 8 << 20


def find_yolo(folder: DataFolder) -> YoloSource | None:
    """A YAML file with classes and splits, `obj.data`, or text files that hold fractions beside the images.

    Raises:
        UserError: `data.yaml` is damaged, or nothing that it names is there.
    """
    found: list[YoloSource] = []
    damaged: list[DamagedYamlError] = []
    for file in sorted(folder.annotations(".yaml", ".yml"), key=lambda file: (file.count("/"), file)):
        by_name = stem_of(file).lower() == "data"
        try:
            settings = read_yaml(folder, file)
            if by_name or split_places(settings):
                source = YoloSource(folder, file, settings)
                found += [source] if source.places or ("names" in settings and _has_labels(folder)) else []
        except UserError as error:
            if by_name or folder.only is not None:
                raise  # others are settings of something else
            damaged += [error] if isinstance(error, DamagedYamlError) else []
    for file in folder.annotations(".data"):
        lines = (line.partition("=") for line in folder.read_lines(file, MAX_YAML_BYTES))
        settings = {key.strip(): value.strip() for key, equals, value in lines if equals}
        if split_places(settings) and "names" in settings:
            found.append(YoloSource(folder, file, settings))
    if found:
        best = min(found, key=lambda one: (stem_of(one.file).lower() != "data", one.file.count("/")))
        others = [one.file for one in found if one is not best]
        return YoloSource(folder, best.file, best.settings, others)
    if damaged:
        raise damaged[0]
    return YoloSource(folder) if _has_labels(folder) else None


def _has_labels(folder: DataFolder) -> bool:
    """True where most of the first text files that belong to an image hold lines of a class and fractions."""
    belonging = (file for file in folder.annotations(".txt") if may_have_image(folder, file))
    looks = (look for file in belonging if (look := _holds_labels(folder, file)) is not None)
    looked_at = list(islice(looks, 20))
    return 2 * sum(looked_at) > len(looked_at)


def _holds_labels(folder: DataFolder, file: str) -> bool | None:
    """True for a text file whose first lines are a class and fractions; None for an empty one."""
    lines = [line.split() for line in folder.head(file, 4096).splitlines()[:5] if line.strip()]
    return all(map(_is_label, lines)) if lines else None


def _is_label(words: list[str]) -> bool:
    """True for a class and at least four fractions, or a box and key points."""
    numbers = numbers_of(words)
    if numbers is None or len(numbers) < 5:
        return False
    sides = numbers[1:5] if len(numbers) == 6 else numbers[1:]  # whatever the sixth may mean
    return max(map(abs, sides)) <= FRACTION_LIMIT or key_points_in(sides) > 0


class YoloSource(Source):
    """A YOLO data set; `file` and `settings` are of its YAML or `obj.data`, where it has one."""

    one_image_each = True

    def __init__(
        self, folder: DataFolder, file: str = "", settings: Settings | None = None, others: Sequence[str] = ()
    ) -> None:
        """`others`: the YAML files of other data sets in the folder."""
        self.folder, self.file, self.settings, self.others = folder, file, settings or {}, others
        self.labels = LabelFiles(folder)

    @cached_property
    def files(self) -> list[str]:
        """The label files of all images."""
        return [file for image in self.folder.images if (file := self.labels.of(image))]

    @cached_property
    def with_confidence(self) -> bool:
        """True where every line ends with a sixth number: not drawn, but found by a model."""
        heads = (self.folder.head(file, 4096) for file in some_of(self.files))
        lines = [line.split() for head in heads for line in head.splitlines()[:20] if line.strip()]
        return bool(lines) and all(len(line) == 6 for line in lines)

    @property
    def about(self) -> str:
        missing = [split for split in self._named if split not in self.places]
        without = f" ({', '.join(missing)} is named, but not here)" if missing else ""
        others = f"; {', '.join(self.others[:3])} is not read" if self.others else ""
        return f"YOLO: {self.file or 'text files of labels'} for {len(self.folder.images):,} images{without}{others}"

    @cached_property
    def places(self) -> dict[str, list[str]]:
        """Split -> its folders and lists of images. A split that is named but not there is left out."""
        if not self.file:
            lists = (file for file in self.folder.annotations(".txt") if is_split(stem_of(file)))
            return {stem_of(file): [file] for file in lists if self._is_list(file)}
        here = {split: [place for _, place in ones if place is not None] for split, ones in self._named.items()}
        if here and not any(here.values()):
            absent = next(name for ones in self._named.values() for name, _ in ones)
            where = f"{shown(absent)} is not in {self.folder.root}, or has no images"
            raise UserError(f"{self.folder.root / self.file}: {where}; put the images below it")
        return {split: places for split, places in here.items() if places}

    @cached_property
    def _named(self) -> dict[str, list[tuple[str, str | None]]]:
        """Split -> each folder or list that is named for it, and where that is; None: not here."""
        path = self.settings.get("path")
        base = path if isinstance(path, str) else ""
        named = split_places(self.settings)
        for split, places in named.items():
            if any("\0" in place for place in places):
                raise UserError(f"{self.folder.root / self.file}: {split} is {shown(places)}; give a path")
        return {split: [(place, self._place(base, place)) for place in places] for split, places in named.items()}

    @property
    def splits(self) -> list[str]:
        if self.places:
            return list(self.places)
        return sorted({self.folder.split_of(image) or ALL for image in self._labelled_images})

    @cached_property
    def _labelled_images(self) -> list[str]:
        """The images of the folders in which some have labels: not masks, drawings and thumbnails in others."""
        labelled = {image: self.labels.of(image) for image in self.folder.images}
        folders = {folder_of(image) for image, file in labelled.items() if file}
        return [
            image
            for image, file in labelled.items()
            if folder_of(image) in folders and self.folder.is_photo(image, folder_of(file or "").split("/"))
        ]

    def categories(self, split: str) -> Categories:
        names = self._class_names
        if (twice := repeated(names)) is not None:
            raise UserError(
                f"{self.folder.root / self.file}: two classes are called {shown(twice)}; give each its own name"
            )
        return Categories.from_names(names)

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        names, background = self._class_names, 0
        for name, place in self._named.get(split, ()):
            if place is None:
                message = f"{split} names {shown(name)}, which is not here; correct it"
                faults.report(self.file, "missing-folder", message)
        paths = self._images_of(split, faults)
        if not paths and not faults.problems:
            where = ", ".join(self.places.get(split, ["."]))
            raise UserError(f"{self.folder.root / self.file}: the split {split} ({where}) has no images")
        files, corners = {path: self.labels.of(path) for path in paths}, Corners()
        for path, file in watched(files.items(), f"reading {split}", len(paths)):
            background += file is None
            try:
                lines = self.folder.read_lines(file, MAX_LABEL_BYTES) if file else []
            except UserError as error:
                faults.report(path, "annotation", str(error))
                continue
            objects = list(self._objects(file or path, lines, names, faults, corners))
            yield AnnotatedImage(file or path, path, objects, fractions=True)
        if (message := corners.fault) is not None:
            faults.report(self.file or "labels", "box-outside", message)
        if background:
            message = f"{counted(background, 'image')} of {split} without a label file: background"
            faults.report(self.file or "labels", "background", message, "notice")
        self._report_labels_without_image({file for file in files.values() if file}, faults)

    def _report_labels_without_image(self, files: set[str], faults: Faults) -> None:
        """One problem for the label files beside those of a split whose image is not here."""
        without = [file for file in self.labels.of_no_image(files) if _holds_labels(self.folder, file)]
        if without:
            named = f"{', '.join(without[:3])}{', ...' if len(without) > 3 else ''}"
            message = (
                f"{counted(len(without), 'label file')} without an image ({named}); add the images or delete the files"
            )
            faults.report(without[0], "missing-image", message)

    @cached_property
    def _class_names(self) -> list[str]:
        names = self.settings.get("names")
        if isinstance(names, str) and (file := self._place("", names)):  # Darknet's list of names
            return lines_of_names(self.folder, file, by_line=True)
        if self.file and ("names" in self.settings or "nc" in self.settings):
            return names_of(f"{self.folder.root / self.file}", names, self.settings.get("nc"))
        return names_in(self.folder) or names_for(self.folder, self._used_labels)

    @cached_property
    def _used_labels(self) -> set[int]:
        """The classes of all objects."""
        labels = (self.labels.of(image) for image in self.folder.images)
        lines = (line for file in labels if file for line in self.folder.read_lines(file, MAX_LABEL_BYTES))
        found = (numbers_of(line.split()[:1]) for line in lines if line)
        return {int(one[0]) for one in found if one and 0 <= one[0] < 10_000}

    def _is_list(self, file: str) -> bool:
        first = next((line for line in self.folder.head(file, 4096).splitlines() if line.strip()), "")
        return is_image(_image_named(first.strip()))

    def _place(self, base: str, place: str) -> str | None:
        """Where a folder or list lies below the data folder ("" is all of it); None if it is not there.

        `path` (here `base`) and the first folders of an absolute path often belong to another machine or layout, so it
        is looked for without some of them too.
        """
        near = folder_of(self.file)
        absolute = bool(re.match(r"/|\\|[A-Za-z]:", place)) or not _is_yaml(self.file)
        needed = 1 if absolute else len(self._parts(place))  # last parts of the path that must be there
        for name in (*([f"{base}/{place}"] if base and not absolute else ()), place):
            parts = self._parts(name)
            if not parts:
                return near
            for skipped in range(len(parts) - max(needed, 1) + 1):
                for start in dict.fromkeys((near, "")):
                    path = key_of("/".join([*filter(None, [start]), *parts[skipped:]]))
                    if path in self._folders or path in self._files:
                        return self._folders.get(path) or self._files[path]
        return None

    def _parts(self, name: str) -> list[str]:
        try:
            return self.folder.parts_of(name)[0]
        except OutsideError:
            return ["\0"]  # no file is called so

    @cached_property
    def _folders(self) -> dict[str, str]:
        """The folders that hold images, and those above them: path in lower case -> path."""
        found = {
            "/".join(image.split("/")[:depth])
            for image in self.folder.images
            for depth in range(1, image.count("/") + 1)
        }
        return {key_of(path): path for path in found}

    @cached_property
    def _files(self) -> dict[str, str]:
        return {key_of(file): file for file in self.folder.files if file.lower().endswith((".txt", ".names"))}

    def _images_of(self, split: str, faults: Faults) -> list[str]:
        """The images of a split, each once."""
        if not self.places:
            return [image for image in self._labelled_images if (self.folder.split_of(image) or ALL) == split]
        found: dict[str, None] = {}
        for place in self.places[split]:
            if key_of(place) in self._files:
                for name in filter(None, self.folder.read_lines(place)):
                    image = faults.find_image(_image_named(name), place)
                    if image in found:
                        faults.report(image, "duplicate-image", "listed again; left out", "notice")
                    if image is not None:
                        found[image] = None
            else:
                below = f"{place}/" if place else ""
                found |= dict.fromkeys(image for image in self.folder.images if image.startswith(below))
        return list(found)

    def _objects(
        self, file: str, lines: Sequence[str], names: Sequence[str], faults: Faults, corners: Corners
    ) -> Iterator[AnnotatedObject]:
        key_points = numbers_of_key_points(self.settings.get("kpt_shape"))
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            numbers = numbers_of(words)
            if numbers is None:
                is_dota = re.fullmatch(r"(-?[\d.]+\s+){8}\S+(\s+[0-2])?", line)
                what = "is of DOTA; export YOLO OBB or COCO" if is_dota else "is not numbers; expected class cx cy w h"
                faults.report(file, "annotation", f"{shown(line)} {what}", number=number)
                continue
            label, sides, written = numbers[0], numbers[1:], f"box {shown(' '.join(words[1:]))}"
            if len(sides) == 5 and not (0 <= sides[4] <= 1 or (sides[4] > 0 and sides[4].is_integer())):
                message = f"{shown(line)} ends with {words[5]}, which is neither a confidence (0 to 1) nor a track"
                faults.report(file, "annotation", f"{message}; an angle is not read: write four corners", number=number)
                continue
            # a fifth side is the confidence of the model that found it, or the number of its track
            if len(sides) in (4, 5) or (key_points and len(sides) == 4 + key_points):
                cx, cy, w, h = sides[:4]
                box = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
                corners.add(sides[:4])
            elif count := key_points_in(sides):
                message = (
                    f"{shown(line)} looks like a box and {count} key points; write kpt_shape: [{count}, 3] in a YAML"
                )
                faults.report(file, "annotation", message, number=number)
                continue
            else:
                box = box_around(sides) if len(sides) >= 6 else None
            if box is None:
                message = f"{shown(line)} has {len(numbers)} numbers; expected class cx cy w h"
                faults.report(file, "annotation", message, number=number)
            elif not (label.is_integer() and 0 <= label < len(names)):
                from_1 = label == len(names) and 0 not in self._used_labels
                mend = "they count from 1; count them from 0" if from_1 else "correct it, or add its name to the list"
                listed = f"{len(names)} class{'es' if len(names) > 1 else ''} (0 to {len(names) - 1})"
                message = f"class {label:g}, but {self.file or 'the list of classes'} names {listed}; {mend}"
                faults.report(file, "class", message, number=number)
            elif min(box[2:]) > FRACTION_LIMIT:
                message = (
                    f"{written} is not in fractions of the image (0 to 1), but looks like pixels; divide by its size"
                )
                faults.report(file, "box-outside", message, number=number)
            else:
                yield AnnotatedObject(number, names[int(label)], box, written)


def _image_named(line: str) -> str:
    """The image in a line of a list, also before the name of its label file, as PaddleLabel writes it."""
    with_file = re.fullmatch(r"(.+?\.\w{3,4})\s.*\.txt", line)
    return with_file[1] if with_file else line


def _is_yaml(file: str) -> bool:
    return file.lower().endswith((".yaml", ".yml"))
