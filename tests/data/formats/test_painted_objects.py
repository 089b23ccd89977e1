"""Objects that were painted with a brush: what is decoded gives its box, and what is not is no background."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path

import pytest
from folders import write_image
from PIL import Image
from read_back import objects, read, write


@pytest.mark.parametrize(
    "mask", [{"format": "rle", "rle": [0, 1, 2]}, {"imageDataURL": "data:image/png;base64,iVBORw0KGgo="}]
)
def test_an_image_with_an_object_that_label_studios_brush_painted_is_left_out(mask: dict, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    value = {"x": 50, "y": 50, "width": 25, "height": 10, "rectanglelabels": ["cat"]}
    box = {"type": "rectanglelabels", "value": value}
    painted = {"type": "brushlabels", "value": mask | {"brushlabels": ["cat"]}}
    tasks = [
        {"data": {"image": name}, "annotations": [{"result": regions}]}
        for name, regions in (("a.jpg", [box, painted]), ("b.jpg", [box]))
    ]
    write(tmp_path, "project.json", tasks)
    table, problems = read(tmp_path, "label-studio")
    assert [table.image_name(index) for index in range(len(table))] == ["b.jpg"]
    message = "project.json, task 1: region 2 is a mask ('brushlabels'), which is not read; draw a box around it"
    assert problems == [("annotation", message)]


def bitmap(
    mode: str,
    pixels: list[tuple[int, int]],
    value: int | tuple[int, ...] = 1,
    rest: int | tuple[int, ...] = 0,
    size: tuple[int, int] = (5, 4),
) -> str:
    """Supervisely's text of a PNG, by default of 5 x 4 pixels, black but for the pixels (x, y) that are named."""
    png = Image.new(mode, size, rest)
    if mode == "P":
        png.putpalette([0, 0, 0, 255, 255, 255])
    for place in pixels:
        png.putpixel(place, value)
    file = io.BytesIO()
    png.save(file, "PNG", **({"transparency": 0} if mode == "P" else {}))
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


@pytest.mark.parametrize(
    ("data", "box"),
    [
        (bitmap("P", [(1, 1), (3, 2)]), (11, 21, 14, 23)),
        (bitmap("L", [(4, 0)], 255), (14, 20, 15, 21)),
        (bitmap("RGBA", [(1, 1), (3, 2)], (255, 255, 255, 255), (255, 255, 255, 0)), (11, 21, 14, 23)),
        (bitmap("RGBA", [(1, 1), (3, 2)], (0, 0, 0, 9), (0, 0, 0, 0)), (11, 21, 14, 23)),
        (bitmap("LA", [(4, 0)], (0, 255), (255, 0)), (14, 20, 15, 21)),
        (bitmap("RGBA", [(4, 0)], (255, 0, 0, 255), (0, 0, 0, 255)), (14, 20, 15, 21)),  # opaque
        (bitmap("L", []), (10, 20, 15, 24)),  # of which nothing can be told but that it is there
    ],
)
def test_the_box_of_a_supervisely_bitmap_is_around_its_pixels(data: str, box: tuple, tmp_path: Path) -> None:
    write_image(tmp_path / "ds0/img/a.jpg")
    painted = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [10, 20]}}
    write(tmp_path, "ds0/ann/a.jpg.json", {"size": {"height": 60, "width": 80}, "objects": [painted]})
    table, problems = read(tmp_path, "supervisely")
    assert (objects(table), problems) == ([("cat", *box)], [])


LARGER = bitmap("L", [], size=(81, 60))  # than the image
ZEROS = base64.b64encode(zlib.compress(bytes(70 << 20), 9)).decode()  # in a few bytes, more than are unpacked


@pytest.mark.parametrize(
    "broken",
    [None, {}, {"data": bitmap("L", []), "origin": [1]}, *({"data": data, "origin": [0, 0]} for data in
     ("", "eJwB", "é", 7, bitmap("L", [])[:40], LARGER, ZEROS))],
)  # fmt: skip
def test_an_image_with_a_supervisely_bitmap_that_can_not_be_decoded_is_left_out(broken: object, tmp_path: Path) -> None:
    size = {"height": 60, "width": 80}
    for name in ("a", "b"):
        write_image(tmp_path / f"ds0/img/{name}.jpg")
    painted = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": broken}
    write(tmp_path, "ds0/ann/a.jpg.json", {"size": size, "objects": [painted]})
    write(tmp_path, "ds0/ann/b.jpg.json", {"size": size, "objects": []})
    table, problems = read(tmp_path, "supervisely")
    assert [table.image_name(index) for index in range(len(table))] == ["ds0/img/b.jpg"]
    message = "ds0/ann/a.jpg.json: object 1 is a bitmap that can't be decoded; draw a box around it"
    assert problems == [("annotation", message)]
