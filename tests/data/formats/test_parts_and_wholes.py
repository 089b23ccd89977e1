"""Shapes that are parts of one object, and tasks that are of several images."""

from __future__ import annotations

from pathlib import Path

from folders import write_image
from read_back import objects, read, write


def test_labelme_shapes_of_one_label_and_group_are_one_object_and_ignore_is_no_class(tmp_path: Path) -> None:
    def rectangle(label: str, group: int | None, *corners: list[int]) -> dict:
        return {"label": label, "group_id": group, "shape_type": "rectangle", "points": list(corners)}

    shapes = [
        rectangle("cat", 1, [10, 20], [20, 30]),
        rectangle("dog", 1, [1, 2], [3, 4]),
        rectangle("cat", 1, [30, 10], [40, 25]),  # the other half of the first
        rectangle("cat", 2, [50, 50], [60, 55]),
        rectangle("cat", None, [5, 5], [9, 9]),
        rectangle("cat", None, [6, 6], [8, 8]),
        rectangle("__ignore__", None, [70, 0], [80, 10]),
    ]
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "a.json", {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": 60, "imageWidth": 80})
    table, problems = read(tmp_path, "labelme")
    kept = [
        ("cat", 10, 10, 40, 30),
        ("dog", 1, 2, 3, 4),
        ("cat", 50, 50, 60, 55),
        ("cat", 5, 5, 9, 9),
        ("cat", 6, 6, 8, 8),
    ]
    ignored = [(name, 70, 0, 80, 10, True) for name in ("cat", "dog")]
    assert (objects(table), problems) == ([*kept, *ignored], [])


def test_regions_of_a_label_studio_task_with_two_images_are_not_all_of_the_first(tmp_path: Path) -> None:
    def task(*tags: str) -> dict:
        value = {"x": 50, "y": 50, "width": 25, "height": 50, "rectanglelabels": ["cat"]}
        regions = [{"type": "rectanglelabels", "to_name": tag, "value": value} for tag in tags]
        return {"data": {"left": "a.jpg", "right": "b.jpg"}, "annotations": [{"result": regions}]}

    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    write(tmp_path, "tasks.json", [task("img1", "img2"), task("img1")])
    table, problems = read(tmp_path, "label-studio")
    assert (table.image_names(), objects(table)) == (["a.jpg"], [("cat", 40, 30, 60, 60)])
    message = "it has 2 images and regions of img1, img2, but not which is whose; export a task an image"
    assert problems == [("annotation", f"tasks.json, task 1: {message}")]
