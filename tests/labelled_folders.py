"""The set of `drawings` as each tool's folder, and as people lay it out; without the package's own writers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drawings import ALL, CLASSES, DRAWINGS, THREE, TWO, Drawing, Placed, Splits, centred, draw, each, fractions, put
from labelling_tools import (
    createml,
    csv_tables,
    cvat,
    kitti,
    label_studio,
    labelme,
    open_images,
    supervisely,
    via,
    via_of_version_3,
    via_table,
)

ROBOFLOW = "{stem}_jpg.rf.0f3a9c51d2e84b7796ab0c4d1e2f3a4b"


class Kind(NamedTuple):
    """A kind of folder."""

    write: Callable[[Path], Placed]
    format: str  # a key of `FORMATS`
    said: str  # that the line about the folder begins with
    in_order: bool = True  # the tool lists the classes; else they are sorted
    tolerance: float = 0.51  # pixels; more where the tool cuts to whole ones


# ---------------------------------------------------------------- VOC
LABELIMG = "<path>/home/ann/images/a.jpg</path><source><database>Unknown</database></source>"
CVAT = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"
LABEL_STUDIO = "<source><database>MyDatabase</database></source><owner><name>Label Studio</name></owner>"
FROM_ROBOFLOW = "<source><database>roboflow.com</database></source>"


def voc_text(name: str, one: Drawing, source: str = LABELIMG, first: int = 1, last: int = 0) -> str:
    """VOC counts pixels from `first`; `last` is what the tool adds to where a box ends."""
    size = "<size><width>{}</width><height>{}</height><depth>3</depth></size>".format(*one.size_wh)
    objects = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox>"
        f"<xmin>{x0 + first}</xmin><ymin>{y0 + first}</ymin><xmax>{x1 + last}</xmax><ymax>{y1 + last}</ymax>"
        "</bndbox></object>\n"
        for label, (x0, y0, x1, y1) in one.objects
    )
    return f"<annotation>\n<filename>{name}</filename>{source}{size}\n{objects}</annotation>\n"


def voc(root: Path, images: str, xml: str, splits: Splits = ALL, lists: str = "", **tool: Any) -> Placed:
    placed = draw(root, images, splits)
    for split, name, one in each(placed):
        put(root, xml.format(split=split, stem=Path(name).stem), voc_text(name, one, **tool))
    for split, drawings in splits.items() if lists else ():
        put(root, f"{lists}/{split}.txt", "".join(f"{one.stem}\n" for one in drawings))
    return placed


def voc_of_cvat(root: Path) -> Placed:
    tool = {"source": CVAT, "first": 0.0, "last": 0.0}
    placed = voc(
        root, "JPEGImages/{stem}.jpg", "Annotations/{stem}.xml", {"default": DRAWINGS}, "ImageSets/Main", **tool
    )
    put(root, "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:250,50,83::\n")
    put(root, "ImageSets/Main/dog_default.txt", "")
    return {"all": placed["default"]}


def voc_through_other_machines(root: Path) -> Placed:
    """From Windows, by a Mac: byte order marks, CRLF, .JPG for .jpg, names in lists, what file managers leave."""
    placed = draw(root, "JPEGImages/{stem}.JPG", TWO)
    for _, name, one in each(placed):
        text = voc_text(name.lower(), one).replace("\n", "\r\n")
        put(root, f"Annotations/{one.stem}.xml", text, "utf-8-sig")
        for junk in (f"Annotations/._{one.stem}.xml", f"__MACOSX/JPEGImages/._{name}", "JPEGImages/Thumbs.db"):
            put(root, junk, "\0\5\x16\7Mac OS X")
    for split, drawings in TWO.items():
        put(root, f"ImageSets/Main/{split}.txt", "".join(f"{one.stem}.jpg\r\n" for one in drawings), "utf-8-sig")
    return placed


# ---------------------------------------------------------------- YOLO
NAMES = "names:\n" + "".join(f"  {label}: {name}\n" for label, name in enumerate(CLASSES))
NAMES_TXT = "".join(f"{name}\n" for name in CLASSES)
YAML = f"train: images/train\nval: images/val\nnc: 3\nnames: {list(CLASSES)}\n"


def diamond(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [(x0 + x1) / 2, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1, x0, (y0 + y1) / 2]


def pose(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [*centred(x0, y0, x1, y1), x0, y0, (x0 + x1) / 2, y1]


def yolo(
    root: Path,
    images: str = "images/{split}/{stem}.jpg",
    labels: str = "labels/{split}/{stem}.txt",
    splits: Splits = TWO,
    line: Callable[..., list[float]] = centred,
    **files: str,
) -> Placed:
    """`files` are other files of the folder, with __ for / and _ for the point: `data_yaml`, `labels__classes_txt`."""
    placed = draw(root, images, splits)
    for split, name, one in each(placed):
        rows = ((CLASSES.index(label), *line(*fractions(one, box))) for label, box in one.objects)
        text = "".join(" ".join(f"{side:.6g}" for side in row) + "\n" for row in rows)
        put(root, labels.format(split=split, stem=Path(name).stem), text)
    for name, text in files.items():
        put(root, name.replace("__", "/")[::-1].replace("_", ".", 1)[::-1], text)
    return placed


def yolo_lists(root: Path, prefix: str = "./", **files: str) -> Placed:
    placed = yolo(root, **files)
    for split, images in placed.items():
        put(root, f"{split}.txt", "".join(f"{prefix}{path}\n" for path in images))
    return placed


def yolo_of_darknet(root: Path) -> Placed:
    data = "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    folder = "obj_{split}_data/{stem}"
    splits = {"train": DRAWINGS[:3], "valid": DRAWINGS[3:]}
    placed = yolo(root, f"{folder}.jpg", f"{folder}.txt", splits, obj_data=data, obj_names=NAMES_TXT)
    for split, images in placed.items():
        put(root, f"{split}.txt", "".join(f"data/{path}\n" for path in images))
    return placed


ROBOFLOW_YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 3\n" + NAMES
YOLO_LABEL_STUDIO = json.dumps({"categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)]})


def yolo_of_roboflow(root: Path) -> Placed:
    folder = "animals.v1i.yolov8/"
    images, labels = f"{folder}{{split}}/images/{ROBOFLOW}.jpg", f"{folder}{{split}}/labels/{{stem}}.txt"
    placed = yolo(root, images, labels, THREE)
    put(root, f"{folder}data.yaml", ROBOFLOW_YAML)
    return {"val" if split == "valid" else split: one for split, one in placed.items()}


# ---------------------------------------------------------------- COCO
def coco_text(images: Mapping[str, Drawing], file_name: str, first: int = 1, project: str = "", **more: Any) -> dict:
    """`file_name` as the file says it; ids from `first`; `project` is Roboflow's first category."""
    parent = {"supercategory": project}
    categories = [{"id": first + label, "name": name, **parent} for label, name in enumerate(CLASSES)]
    head = [{"id": 0, "name": project, "supercategory": "none"}] if project else []
    content: dict[str, list] = {"categories": [*head, *categories], "images": [], "annotations": []}
    for number, (path, one) in enumerate(images.items(), start=first):
        name = file_name.format(name=Path(path).name, path=path, windows=path.replace("/", "\\"))
        width, height = one.size_wh
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for label, (x0, y0, x1, y1) in one.objects:
            place = {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [], "area": (x1 - x0) * (y1 - y0)}
            ids = {"id": len(content["annotations"]) + first, "image_id": number}
            category = first + CLASSES.index(label)
            content["annotations"].append({**ids, "category_id": category, "iscrowd": 0, **place, **more})
    return content


def coco(root: Path, images: str, file: str, splits: Splits, file_name: str = "{name}", **more: Any) -> Placed:
    placed = draw(root, images, splits)
    for split, ones in placed.items():
        put(root, file.format(split=split), coco_text(ones, file_name, **more))
    return placed


# format, what `describe` begins with; further whether the classes are in the tool's order, and the tolerance
LABELIMG_VOC: Any = ("voc", "VOC by LabelImg: XML", False)
YOLO, COCO = ("yolo", "YOLO: "), ("coco", "COCO: ")
BESIDE = partial(yolo, images="{stem}.jpg", labels="{stem}.txt", splits=ALL)
IN_FOLDERS = partial(yolo, images="images/{stem}.jpg", labels="labels/{stem}.txt", splits=ALL)
INSTANCES = "annotations/instances_{split}.json"
OTHER_YAML = f"path: ../datasets/pets # root\ntrain: images/train\nval: images/val\ntest: # optional\n\n{NAMES}"
HERE = "images/{split}/{stem}.jpg"

KINDS: dict[str, Kind] = {
    "voc-labelimg-beside": Kind(lambda r: voc(r, "{stem}.jpg", "{stem}.xml"), *LABELIMG_VOC),
    "voc-labelimg-two-folders": Kind(lambda r: voc(r, "images/{stem}.jpg", "annotations/{stem}.xml"), *LABELIMG_VOC),
    "voc-no-lists": Kind(lambda r: voc(r, "JPEGImages/{stem}.jpg", "Annotations/{stem}.xml"), *LABELIMG_VOC),
    "voc-devkit": Kind(
        lambda r: {
            split: {f"VOCdevkit/VOC2007/{path}": one for path, one in images.items()}
            for split, images in voc(
                r / "VOCdevkit/VOC2007", "JPEGImages/{stem}.jpg", "Annotations/{stem}.xml", TWO, "ImageSets/Main"
            ).items()
        },
        *LABELIMG_VOC,
    ),
    "voc-lower-case": Kind(
        lambda r: voc(r, "jpegimages/{stem}.jpg", "annotations/{stem}.xml", TWO, "imagesets/main"), *LABELIMG_VOC
    ),
    "voc-folder-a-split": Kind(
        lambda r: voc(r, "{split}/images/{stem}.png", "{split}/annots/{stem}.xml", TWO), *LABELIMG_VOC
    ),
    "voc-other-machines": Kind(voc_through_other_machines, *LABELIMG_VOC),
    "voc-cvat": Kind(voc_of_cvat, "voc", "VOC by CVAT: XML", False),
    "voc-label-studio": Kind(
        lambda r: voc(r, "images/3fa1c0d2-{stem}.jpg", "Annotations/3fa1c0d2-{stem}.xml", source=LABEL_STUDIO, first=0),
        *("voc", "VOC by Label Studio: XML", False, 1.01),
    ),
    "voc-roboflow": Kind(
        lambda r: voc(r, f"{{split}}/{ROBOFLOW}.jpg", "{split}/{stem}.xml", THREE, source=FROM_ROBOFLOW, last=1),
        *("voc", "VOC by Roboflow: XML", False, 1.01),
    ),
    "yolo-data-yaml": Kind(lambda r: yolo(r, data_yaml=YAML), *YOLO),
    "yolo-other-yaml": Kind(lambda r: yolo(r, pets_yaml=OTHER_YAML), *YOLO),
    "yolo-windows": Kind(lambda r: yolo(r, data_yaml="path: C:\\Users\\ann\n" + YAML.replace("/", "\\")), *YOLO),
    "yolo-elsewhere": Kind(lambda r: yolo(r, data_yaml=YAML.replace("images", "/content/drive/pets/images")), *YOLO),
    "yolo-capitals": Kind(
        lambda r: yolo(r, "Images/{split}/{stem}.JPG", "Labels/{split}/{stem}.txt", data_yaml=YAML), *YOLO
    ),
    "yolo-beside": Kind(lambda r: BESIDE(r, classes_txt=NAMES_TXT), *YOLO),
    "yolo-classes-in-labels": Kind(lambda r: IN_FOLDERS(r, labels__classes_txt=NAMES_TXT), *YOLO),
    "yolo-label-studio": Kind(lambda r: IN_FOLDERS(r, notes_json=YOLO_LABEL_STUDIO), *YOLO),
    "yolo-lists": Kind(lambda r: yolo_lists(r, data_yaml=f"train: train.txt\nval: val.txt\n{NAMES}"), *YOLO),
    "yolo-lists-alone": Kind(lambda r: yolo_lists(r, prefix="", classes_txt=NAMES_TXT), *YOLO),
    "yolo-cvat-lists": Kind(
        lambda r: yolo_lists(r, prefix="data/", data_yaml=f"{NAMES}path: .\ntrain: train.txt\nval: val.txt\n"), *YOLO
    ),
    "yolo-darknet": Kind(yolo_of_darknet, "yolo", "YOLO: obj.data"),
    "yolo-segments": Kind(lambda r: yolo(r, line=diamond, data_yaml=YAML), *YOLO),
    "yolo-pose": Kind(lambda r: yolo(r, line=pose, data_yaml=YAML + "kpt_shape: [2, 2]\n"), *YOLO),
    "yolo-roboflow": Kind(yolo_of_roboflow, "yolo", "YOLO: animals.v1i.yolov8/data.yaml"),
    "coco": Kind(lambda r: coco(r, HERE, INSTANCES, TWO), *COCO),
    "coco-2017": Kind(
        lambda r: coco(r, "{split}/{stem}.jpg", INSTANCES, {"train2017": DRAWINGS[:4], "val2017": DRAWINGS[4:]}), *COCO
    ),
    "coco-cvat": Kind(lambda r: {"all": coco(r, HERE, INSTANCES, {"default": DRAWINGS})["default"]}, *COCO),
    "coco-beside": Kind(lambda r: coco(r, "{stem}.jpg", "train.json", {"train": DRAWINGS}), *COCO),
    "coco-train-and-val": Kind(lambda r: coco(r, "images/{stem}.jpg", "annotations/{split}.json", TWO), *COCO),
    "coco-ids-from-0": Kind(lambda r: coco(r, HERE, INSTANCES, TWO, first=0), *COCO),
    "coco-windows-paths": Kind(lambda r: coco(r, HERE, INSTANCES, TWO, "D:\\ann\\{windows}"), *COCO),
    "coco-label-studio": Kind(
        lambda r: coco(r, "images/{stem}.jpg", "result.json", ALL, "../../upload/4/3fa1c0d2-{name}", first=0), *COCO
    ),
    "coco-roboflow": Kind(
        lambda r: coco(r, f"{{split}}/{ROBOFLOW}.jpg", "{split}/_annotations.coco.json", THREE, project="animals"),
        *("coco", "COCO by Roboflow: "),
    ),
    "labelme-beside": Kind(
        lambda r: labelme(r, "{stem}.jpg", "{stem}.json"), "labelme", "labelme: 6 JSON files", False
    ),
    "labelme-windows": Kind(
        lambda r: labelme(r, "images/{stem}.jpg", "labels/{stem}.json", "..\\images\\{stem}.jpg", turn=-1),
        *("labelme", "labelme: ", False),
    ),
    "via-json": Kind(via, "via", "VGG VIA: via_region_data.json", False),
    "via-project": Kind(partial(via, project=True), "via", "VGG VIA: ", False),
    "via-3": Kind(via_of_version_3, "via", "VGG VIA: via_project.json", False),
    "via-csv": Kind(via_table, "via", "VGG VIA: via_export_csv.csv", False),
    "cvat": Kind(cvat, "cvat", "CVAT for images: annotations.xml"),
    "cvat-subsets": Kind(lambda r: cvat(r, {"Train": DRAWINGS[:3], "Validation": DRAWINGS[3:]}), "cvat", "CVAT "),
    "supervisely": Kind(supervisely, "supervisely", "Supervisely: "),
    "createml": Kind(createml, "createml", "CreateML: annotations.json", False),
    "kitti": Kind(kitti, "kitti", "KITTI: 6 TXT files", False),
    "open-images": Kind(open_images, "open-images", "Open Images: ", False),
    "label-studio": Kind(label_studio, "label-studio", "Label Studio: project-1-at-2026.json", False),
    "label-studio-min": Kind(partial(label_studio, minimal=True), "label-studio", "Label Studio: ", False),
    "csv-tensorflow": Kind(
        lambda r: csv_tables(r, "images/{stem}.jpg", "data/{split}_labels.csv", TWO, first=1), "csv", "CSV: ", False
    ),
    "csv-roboflow": Kind(
        lambda r: csv_tables(r, f"{{split}}/{ROBOFLOW}.jpg", "{split}/_annotations.csv", THREE), "csv", "CSV: ", False
    ),
    "csv-other-columns": Kind(
        lambda r: csv_tables(r, "{stem}.png", "labels.csv", ALL, "image_id,label,x1,y1,x2,y2", separator=";"),
        *("csv", "CSV: labels.csv", False),
    ),
}
