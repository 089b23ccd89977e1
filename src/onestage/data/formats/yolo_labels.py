"""Which text file holds the labels of an image.

YOLO's rule: `.../images/.../a.jpg` has `.../labels/.../a.txt`, else the file lies beside the image. A folder of images
of which none has labels by that rule is of another layout (`pets/` and `boxes/`): there the file of the same stem
counts. Where the rule finds labels for some images of a folder, the others have none: they are background. The digits
that Label Studio puts before the names of images may be missing from those of the user's.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection
from functools import cache, cached_property
from urllib.parse import unquote

from onestage.data.folder import IMAGE_FOLDERS, UPLOAD_PREFIX, DataFolder, folder_of, key_of, stem_of
from onestage.data.served_names import image_of_upload
from onestage.data.split_names import split_key

LABEL_FOLDERS = ("labels", "label", "annotations", "txt")


class LabelFiles:
    """The text files of a folder, by image."""

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.files = frozenset(file for file in folder.files if file.lower().endswith(".txt"))
        self._file_of = {key_of(name): file for file in sorted(self.files) for name in other_names(file)}
        self._file_of |= {key_of(file): file for file in self.files}
        self._by_rule = cache(self._find_by_rule)

    def of(self, image: str) -> str | None:
        """The text file with the labels of an image; None if it has none."""
        return self._by_rule(image) or self._by_stem.get(image) or self._of_upload.get(image)

    def of_no_image(self, beside: Collection[str]) -> list[str]:
        """The text files in the folders of those `beside`, or anywhere if there are none, that belong to no image."""
        folders = {folder_of(file) for file in beside or self.files}
        file_of = {image: file for image in self.folder.images if (file := self.of(image))}
        rest = self.files.difference(file_of.values())

        def is_second(file: str) -> bool:
            """True where an image that it may be of has its labels in the same folder."""
            of_images = (file_of.get(image) for image in _images_of(self.folder, file))
            return any(one is not None and folder_of(one) == folder_of(file) for one in of_images)

        return sorted(file for file in rest if folder_of(file) in folders and not is_second(file))

    @cached_property
    def _of_upload(self) -> dict[str, str]:
        """Image -> the file that is called as Label Studio calls that image, without its blanks and brackets."""
        uploads = [file for file in sorted(self.files) if UPLOAD_PREFIX.match(file.rpartition("/")[2])]
        strange = [file for file in uploads if not self.folder.images_of_stem(stem_of(file))]
        found = {file: image_of_upload(self.folder, stem_of(file)) for file in strange}
        return {image: file for file, image in found.items() if image and self._same_split(file, image)}

    def _same_split(self, file: str, image: str) -> bool:
        """False where the folders of both name a split, but not the same."""
        one, other = self.folder.split_of(file), self.folder.split_of(image)
        return one is None or other is None or split_key(one) == split_key(other)

    def _find_by_rule(self, image: str) -> str | None:
        bare, extension = os.path.splitext(image)
        parts = f"{bare}.txt".split("/")
        places = [at for at in reversed(range(len(parts) - 1)) if IMAGE_FOLDERS.fullmatch(parts[at])]
        names = ["/".join([*parts[:at], word, *parts[at + 1 :]]) for at in places for word in LABEL_FOLDERS]
        names.append("/".join(parts))  # beside the image
        names += [f"{name.removesuffix('.txt')}{extension}.txt" for name in names]  # a.jpg.txt
        for name in names:
            if name in self.files:
                return name
            file = self._file_of.get(key_of(name))
            if file is not None and not self._is_of_another(file, image):
                return file
        return None

    def _is_of_another(self, file: str, image: str) -> bool:
        """True for a.txt, seen from A.jpg, where there is a.jpg too."""
        stem = stem_of(file)
        return stem != stem_of(image) and any(stem_of(one) == stem for one in self.folder.images_of_stem(stem))

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        """Image -> the file of its stem, in folders where the rule finds nothing and one file alone fits best."""
        ruled = {image: self._by_rule(image) for image in self.folder.images}
        known_layout = {folder_of(image) for image, file in ruled.items() if file is not None}
        files: dict[str, list[str]] = defaultdict(list)
        for file in sorted(self.files - {file for file in ruled.values() if file is not None}):
            for name in (file, *other_names(file)):
                files[key_of(stem_of(name))].append(file)
        found = {}
        for image in ruled:
            fitting = [file for file in files.get(key_of(stem_of(image)), ()) if self._same_split(file, image)]
            if folder_of(image) not in known_layout and fitting:
                alike = {file: _shared_folders(file, image) for file in fitting}
                most = max(alike.values())
                if Counter(alike.values())[most] == 1:
                    found[image] = max(alike, key=lambda file: alike[file])
        return found


def may_have_image(folder: DataFolder, file: str) -> bool:
    """True for a.txt where an image is called a, and for a.jpg.txt, and for the name of an upload."""
    return bool(_images_of(folder, file))


def _images_of(folder: DataFolder, file: str) -> set[str]:
    names = (file, stem_of(file), *other_names(file))
    uploaded = image_of_upload(folder, stem_of(file))
    found = {image for name in names for image in folder.images_of_stem(stem_of(name))}
    return found if uploaded is None else found | {uploaded}


def other_names(file: str) -> list[str]:
    """The paths that a label file may have had before Label Studio wrote digits or % into its name."""
    folder, slash, name = file.rpartition("/")
    names = {unquote(name), UPLOAD_PREFIX.sub("", name), UPLOAD_PREFIX.sub("", unquote(name))} - {name}
    return [f"{folder}{slash}{one}" for one in sorted(names)]


def _shared_folders(file: str, image: str) -> int:
    return len(set(folder_of(file).split("/")) & set(folder_of(image).split("/")))
