"""What to say of a folder that holds no data set: what lies in it, and the nearest thing to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from onestage.data.folder import DataFolder, is_image, shown, some_of, stem_of
from onestage.data.formats import Format
from onestage.data.formats.csv_tables import what_lacks
from onestage.runtime.decode import UNREAD_EXTENSIONS
from onestage.texts import counted

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_BY_SCRIPT = "convert it to VOC, COCO or YOLO by a short script"
NOT_READ = (  # formats that are told apart: extensions, what the head of a file has, what it is, and the mend
    (".json .xml .csv .txt", r"^version https://git-lfs", "a pointer of Git LFS", "fetch the files by git lfs pull"),
    (".xml", "<sourceAnnotation>", "XML of LabelMe 3.0", "export Pascal VOC or COCO, of CVAT as version 1.1"),
    (".csv .tsv", r"^(?=.*\bannotation_id\b).*\blead_time\b", "Label Studio's CSV", "export JSON or COCO"),
    (".json", r'"bounding_box"\s*:\s*\{', "V7 Darwin's JSON", "export COCO"),
    (".json", r'"boundingBox"\s*:\s*\{', "VoTT's JSON", "export Pascal VOC or CSV"),
    (".json", r'"className"\s*:', "SuperAnnotate's JSON", "export COCO"),
    (".json", r'"box2d"\s*:\s*\{', "BDD100K's JSON", _BY_SCRIPT),
    (".json", r'"imgHeight"\s*:', "Cityscapes' JSON", _BY_SCRIPT),
    (".ndjson", '"data_row"', "Labelbox's NDJSON", _BY_SCRIPT),
    (".manifest", '"source-ref"', "a manifest of SageMaker", _BY_SCRIPT),
    (".jsonl", '"file_name"', "a table of Hugging Face", _BY_SCRIPT),
    (".parquet", "^PAR1", "a Parquet table", "save its images as files, and their boxes as COCO, by a short script"),
    (".odgt", '"gtboxes"', "odgt of CrowdHuman", _BY_SCRIPT),
    (".csv", "^NAME_ID,X,Y,W,H", "a table of VGGFace2", _BY_SCRIPT),
    (".txt", r"^(imagesource:.*\s+|gsd:.*\s+)*(-?[\d.]+ ){8}\S+ [0-2]\s", "a file of DOTA", "export YOLO OBB or COCO"),
    (".txt", r"^\S+\.jpg\s+\d+\s+(\d+ ){4}", "a list of WIDER FACE", _BY_SCRIPT),
    (".txt", r"^(\d+,){7}\d+,?\s", "a file of VisDrone", _BY_SCRIPT),
    (".txt .csv", r"^\d+,-?\d+(,-?[\d.]+){5,8}\s", "a table of MOT", _BY_SCRIPT),
    (".txt", r"^\S+\.(jpe?g|png|bmp|tiff?)\s+\S+\.txt\s", "a list of images with files of boxes", _BY_SCRIPT),
)


def what_is_there(folder: DataFolder, formats: Mapping[str, Format]) -> str:
    """One line: what was found, what was expected, what mends it."""
    if folder.only is not None and folder.only.lower().endswith(ARCHIVES):
        return "an archive; unpack it, and give the folder that comes out"
    if len(formats) > 1 and (other := _other_format(folder)):
        return other
    if folder.only is not None:
        return "not an annotation file that is read; give the folder of the labelled images (docs/data.md)"
    if not folder.files:
        return "the folder is empty; put labelled images into it"
    others = Counter(
        PurePosixPath(file).suffix.lower() or "(no extension)" for file in folder.files if not is_image(file)
    )
    found = ", ".join(f"{count:,} {extension}" for extension, count in others.most_common(4))
    images = counted(len(folder.images), "image")
    nearest = _nearest(folder, formats)
    if len(formats) == 1:
        ((name, one),) = formats.items()
        expected = nearest or f"expected {one.expected}"
        return f"no {name} data set ({images}; {found or 'no other file'}); {expected}, or drop --format"
    archives = [file for file in folder.files if file.lower().endswith(ARCHIVES)]
    if archives and not nearest:
        what = f"{images}, no annotation" if folder.images else "no image in it"
        return f"{what}, but the archive {archives[0]}; unpack it"
    if not folder.images:
        return f"no image in it (but {found}); put the images beside their annotations"
    if not others:
        return f"{images}, but no annotation; export the labels of your labelling tool into the folder"
    if all(image.lower().endswith(UNREAD_EXTENSIONS) for image in folder.images):
        return f"{images}, all of a kind that is not read ({folder.images[0]}, ...); convert them to PNG"
    mend = f"{nearest + '; or ' if nearest else ''}export it as one of {', '.join(formats)} (docs/data.md)"
    return f"not a data set: {images}, {found}, but no annotation that is read; {mend}"


def _other_format(folder: DataFolder) -> str:
    """The first file of a format that is not read, with what to take instead; "" if there is none."""
    for extensions, has, what, mend in NOT_READ:
        for file in some_of(folder.annotations(*extensions.split())):
            if re.search(has, folder.head(file, 4096), re.IGNORECASE):
                return f"{file} is {what}, which is not read; {mend}"
    return ""


def _nearest(folder: DataFolder, formats: Mapping[str, Format]) -> str:
    """The first table, else text file of an image, with what it has and what is expected; "" if there is none."""
    for file in folder.annotations(".csv", ".tsv") if "csv" in formats else ():
        if lacking := what_lacks(folder.head(file, 4096)):
            return f"{file} {lacking}"
    for file in folder.annotations(".txt") if "yolo" in formats else ():
        line = next(filter(str.strip, folder.head(file, 4096).splitlines()), "")
        if line and folder.images_of_stem(stem_of(file)) and not re.fullmatch(r"\d+(\s+[01]?\.\d+){4,}\s*", line):
            expected = "a class's number, then cx cy w h as fractions of the image: 0 0.5 0.5 0.25 0.125"
            return f"{file} begins with {shown(line)}; YOLO expects {expected}"
    return ""
