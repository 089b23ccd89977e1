"""The set of `drawings` as JSON, XML and tables of labelling tools."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from drawings import ALL, CLASSES, DRAWINGS, Box, Drawing, Placed, Splits, centred, draw, each, fractions, put


# ---------------------------------------------------------------- JSON
def corners(box: Box) -> list[list[float]]:
    return [[float(box[0]), float(box[1])], [float(box[2]), float(box[3])]]


def labelme(root: Path, images: str, file: str, image_path: str = "{stem}.jpg", turn: int = 1) -> Placed:
    placed = draw(root, images)
    for _, name, one in each(placed):
        shapes = [{"label": o, "points": corners(b)[::turn], "shape_type": "rectangle"} for o, b in one.objects]
        size = dict(zip(("imageWidth", "imageHeight"), one.size_wh, strict=True))
        content = {"version": "5.8.1", "flags": {}, "shapes": shapes, "imageData": None, **size}
        put(root, file.format(stem=one.stem), content | {"imagePath": image_path.format(stem=Path(name).stem)})
    return placed


def via_shapes(one: Drawing) -> Iterator[tuple[dict, dict]]:
    for label, (x0, y0, x1, y1) in one.objects:
        yield {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}, {"animal": label}


def via(root: Path, project: bool = False) -> Placed:
    placed, content = draw(root, "{stem}.jpg"), {}
    for _, name, one in each(placed):
        regions = [{"shape_attributes": shape, "region_attributes": labels} for shape, labels in via_shapes(one)]
        content[f"{name}777"] = {"filename": name, "size": 777, "regions": regions, "file_attributes": {}}
    put(root, "via_region_data.json", {"_via_settings": {}, "_via_img_metadata": content} if project else content)
    return placed


def via_of_version_3(root: Path) -> Placed:
    """The class is a choice among numbered options; the views count from another number than the files."""
    placed, numbers = draw(root, "images/{stem}.jpg"), {name: str(n) for n, name in enumerate(CLASSES)}
    project = {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": []}
    attribute = {"1": {"aname": "animal", "type": 4, "options": {n: name for name, n in numbers.items()}}}
    files, views, regions = {}, {}, {}
    for number, (_, name, one) in enumerate(each(placed)):
        files[f"{number}"] = {"fid": f"{number}", "fname": name, "type": 2, "loc": 1, "src": ""}
        views[f"{number + 7}"] = {"fid_list": [number]}
        for place, (label, (x0, y0, x1, y1)) in enumerate(one.objects):
            shapes = [2, x0, y0, x1 - x0, y1 - y0], [7, x0, y0, x1, y0, x1, y1], [8, x1, y0, x1, y1, x0, y1, x0, y0]
            region = {"vid": f"{number + 7}", "flg": 0, "z": [], "xy": shapes[place % 3], "av": {"1": numbers[label]}}
            regions[f"{number}_{place}"] = region
    config = {"file": {"loc_prefix": {"1": ""}}}
    parts = {"project": project, "config": config, "attribute": attribute, "file": files}
    put(root, "via_project.json", parts | {"metadata": regions, "view": views})
    return placed


def table(root: Path, path: str, header: str, rows: Sequence[Sequence[object]], separator: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([header.split(","), *rows])
    put(root, path, text.getvalue())


def via_table(root: Path) -> Placed:
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    placed = draw(root, "images/{stem}.jpg")
    rows = [
        (name, 777, "{}", len(one.objects), number, json.dumps(shape), json.dumps(labels))
        for _, name, one in each(placed)
        for number, (shape, labels) in enumerate(via_shapes(one))
    ]
    table(root, "via_export_csv.csv", header, rows)
    return placed


def label_studio_region(one: Drawing, label: str, box: Box) -> dict:
    x0, y0, x1, y1 = (100 * side for side in fractions(one, box))
    sides = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0, "rectanglelabels": [label]}
    return {"original_width": one.size_wh[0], "original_height": one.size_wh[1], **sides}


def label_studio(root: Path, minimal: bool = False) -> Placed:
    placed, tasks = draw(root, "images/{stem}.jpg"), []
    for number, (_, name, one) in enumerate(each(placed)):
        regions, image = [label_studio_region(one, *o) for o in one.objects], f"/data/upload/4/{number:08x}-{name}"
        results = [{"type": "rectanglelabels", "value": region, **region} for region in regions]
        full = {"id": number, "data": {"image": image}, "annotations": [{"result": results, "was_cancelled": False}]}
        tasks.append({"image": image, "id": number, "label": regions} if minimal else full)
    put(root, "project-1-at-2026.json", tasks)
    return placed


def createml(root: Path) -> Placed:
    placed, content = draw(root, "{stem}.jpg"), []
    for _, name, one in each(placed):
        boxes = [dict(zip(("x", "y", "width", "height"), centred(*box), strict=True)) for _, box in one.objects]
        objects = [{"label": label, "coordinates": box} for (label, _), box in zip(one.objects, boxes, strict=True)]
        content.append({"image": name, "annotations": objects})
    put(root, "annotations.json", content)
    return placed


def supervisely(root: Path) -> Placed:
    placed = draw(root, "ds0/img/{stem}.jpg")
    put(root, "meta.json", {"classes": [{"title": name, "shape": "rectangle"} for name in CLASSES], "tags": []})
    for _, name, one in each(placed):
        figures = [
            {"classTitle": label, "geometryType": "rectangle", "points": {"exterior": [[x0, y0], [x1 - 1, y1 - 1]]}}
            for label, (x0, y0, x1, y1) in one.objects
        ]
        size = dict(zip(("width", "height"), one.size_wh, strict=True))
        put(root, f"ds0/ann/{name}.json", {"size": size, "objects": figures})
    return placed


# ---------------------------------------------------------------- CVAT, KITTI, tables
def cvat(root: Path, splits: Splits = ALL) -> Placed:
    placed, images = draw(root, "images/{stem}.jpg", splits), ""
    for split, name, one in each(placed):
        boxes = "".join(
            '<box label="{}" source="manual" xtl="{:.2f}" ytl="{:.2f}" xbr="{:.2f}" ybr="{:.2f}"/>'.format(label, *box)
            for label, box in one.objects
        )
        subset = f' subset="{split}"' * (split != "all")
        width, height = one.size_wh
        images += f'<image id="1" name="{name}"{subset} width="{width}" height="{height}">{boxes}</image>\n'
    names = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    put(
        root,
        "annotations.xml",
        f"<annotations><meta><task><labels>{names}</labels></task></meta>{images}</annotations>",
    )
    return placed


def kitti(root: Path) -> Placed:
    placed = draw(root, "training/image_2/{stem}.png", {"training": DRAWINGS})
    for _, _, one in each(placed):
        rows = ("{} 0 0 -1.57 {} {} {} {} 1 1 1 1 1 1 1\n".format(label, *box) for label, box in one.objects)
        put(root, f"training/label_2/{one.stem}.txt", "".join(rows))
    return placed


def open_images(root: Path) -> Placed:
    placed = draw(root, "{split}/{stem}.jpg", {"train": DRAWINGS[:3], "validation": DRAWINGS[3:]})
    header = "ImageID,Source,LabelName,Confidence,XMin,YMin,XMax,YMax,IsOccluded,IsTruncated,IsGroupOf"
    for split, images in placed.items():
        rows = [
            (one.stem, "xclick", f"/m/{label}", 1, *fractions(one, box), 0, 0, 0)
            for one in images.values()
            for label, box in one.objects
        ]
        table(root, f"{split}-annotations-bbox.csv", header, rows)
    put(root, "class-descriptions-boxable.csv", "".join(f"/m/{name},{name}\n" for name in ("tortoise", *CLASSES)))
    return placed


TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax"


def csv_tables(
    root: Path, images: str, file: str, splits: Splits, header: str = TENSORFLOW, first: int = 0, separator: str = ","
) -> Placed:
    placed = draw(root, images, splits)
    for split, ones in placed.items():
        rows = []
        for path, one in ones.items():
            for label, (x0, y0, x1, y1) in one.objects:
                size = one.size_wh if "width" in header else ()
                rows.append((Path(path).name, *size, label, x0 + first, y0 + first, x1, y1))
        table(root, file.format(split=split), header, rows, separator)
    return placed
