"""COCO folders. Reliability cases: coco-odd, boxes, classes. pycocotools is the oracle of the metrics."""

from __future__ import annotations

import copy
import io
import json
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from folders import read_split, write_coco_folder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onestage.data import find_datasets, read_dataset
from onestage.data.formats.coco import normal_id, segment_box
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.evaluation.coco import coco_metrics
from onestage.structures import Categories, DetectionTable


def clean_content(count: int = 6, seed: int = 0) -> dict:
    """Sparse category ids, boxes of every size, some crowds, one image without objects."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 * n + 7, "file_name": f"{n:012}.jpg", "height": 240, "width": 320} for n in range(count)]
    annotations = []
    for image in images[:-1]:
        for _ in range(5):
            x, y = (float(v) for v in rng.integers(0, 150, 2))
            w, h = (float(v) for v in rng.integers(5, 90, 2))
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "bbox": [x, y, w, h],
                "area": w * h * 0.8,
            }
            crowd = len(annotations) % 7 == 3
            segment = {"size": [240, 320], "counts": [100, 76_700]} if crowd else [[x, y, x + w, y, x + w, y + h]]
            more = {"category_id": int(rng.choice([1, 18, 90])), "iscrowd": int(crowd), "segmentation": segment}
            annotations.append(annotation | more)
    names = {90: "toothbrush", 1: "person", 18: "dog"}
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }


def one_image(*annotations: dict, **image: object) -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80} | image],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1} | a for n, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


def detections_near(table: Table, seed: int = 1) -> DetectionTable:
    """Shifted copies of the objects and some noise, scored at random."""
    rng = np.random.default_rng(seed)
    truth = table.ground_truth()
    count = len(truth.labels)
    rows = rng.integers(0, count, 3 * count)
    boxes_xyxy = truth.boxes_xyxy[rows] + rng.normal(0, 3, (3 * count, 4))
    boxes_xyxy[:, 2:] = np.maximum(boxes_xyxy[:, 2:], boxes_xyxy[:, :2] + 1)
    scores = rng.permutation(3 * count) / (3 * count)
    return DetectionTable(truth.image_index[rows], truth.labels[rows], scores, boxes_xyxy)


def pycocotools_numbers(content: dict, table: Table, found: DetectionTable) -> list[float]:
    """The 12 numbers of the JSON itself, the detections translated to its ids."""
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.__dict__["dataset"] = copy.deepcopy(content)  # as COCO(file) reads it
        truth.createIndex()
        rows = [
            [int(table.image_id(image)), *box[:2], *(box[2:] - box[:2]), score, table.categories.source_ids[label]]
            for image, box, score, label in zip(
                found.image_index, found.boxes_xyxy, found.scores, found.labels, strict=True
            )
        ]
        evaluator = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats)


def test_sparse_ids_become_labels_in_the_order_of_the_ids(tmp_path: Path) -> None:
    content = one_image({"bbox": [10, 20, 30, 5.5], "area": 99.5, "category_id": 18, "iscrowd": 1})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert problems == []
    assert table.categories == Categories(("person", "dog"), (1, 18))
    np.testing.assert_array_equal(table.boxes_xyxy, [(10, 20, 40, 25.5)])
    assert (table.labels.tolist(), table.ignored.tolist(), table.areas.tolist()) == ([1], [True], [99.5])
    assert table.image_name(0) == "train2017/a.jpg"


@pytest.mark.parametrize(
    ("attributes", "box"),
    [
        ({"rotation": 90.0}, [20, 10, 30, 40]),  # 30 x 10 around 25, 25
        ({"rotation": 0.0}, [10, 20, 40, 30]),
        ({"rotation": "left"}, [10, 20, 40, 30]),
        ({"age": 90}, [10, 20, 40, 30]),
        ([90], [10, 20, 40, 30]),
    ],
)
def test_boxes_that_cvat_turned_give_the_upright_one_around_them(attributes: object, box: list, tmp_path: Path) -> None:
    content = one_image({"bbox": [10, 20, 30, 10], "area": 300, "attributes": attributes})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert problems == []
    np.testing.assert_allclose(table.boxes_xyxy, [box], atol=1e-4)


CORNERS = [[10, 10, 50, 40], [50, 5, 79, 55], [5, 40, 30, 59], [40, 30, 80, 60], [30, 20, 60, 45], [60, 40, 70, 50]]
FIVE_OF_6 = "5 of 6 boxes reach outside their images as x, y, width, height, but none as corners x0, y0, x1, y1"


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        (CORNERS, [FIVE_OF_6]),
        ([*CORNERS, [float("nan"), 1, 2, 3], [1, 2, 3], "1 2 3 4", None], [FIVE_OF_6]),
        ([*CORNERS, [30, 20, 10, 10]], []),  # no corners, so the others are none
        ([*CORNERS, [30, 20, 90, 40]], []),
        ([*CORNERS, *([1, 1, n, n] for n in range(2, 13))], []),  # 5 of 17 alone may be drawn over the border
        ([*CORNERS, *([1, 1, n, n] for n in range(2, 11))], ["5 of 15 boxes reach outside"]),
        (CORNERS[:5], []),  # too few to tell: 4
        ([], []),
    ],
)
def test_boxes_that_are_corners_by_their_numbers_are_told(boxes: list, told: list[str], tmp_path: Path) -> None:
    content = one_image(*({"bbox": box, "area": 9} for box in boxes))
    _, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    of_file = [one for one in problems if one.file == "annotations/instances_train2017.json"]
    found = [one for one in of_file if one.kind == "box-outside"]
    assert [one.severity for one in found] == ["error"] * len(told)
    assert [told[index] in one.message for index, one in enumerate(found)] == [True] * len(told)
    assert all(one.message.endswith("write each bbox as x0, y0, x1 - x0, y1 - y0") for one in found)


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    table, problems = read_split(write_coco_folder(tmp_path, one_image()), "train2017")
    assert (len(table), len(table.labels), problems) == (1, 0, [])


@pytest.mark.parametrize("place", ["images/train2017", "images", ".", "train2017/sub"])
def test_images_are_found_where_people_put_them(place: str, tmp_path: Path) -> None:
    content = one_image(file_name="sub/a.jpg" if place.endswith("sub") else "a.jpg")
    write_coco_folder(tmp_path, content)
    if not place.endswith("sub"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train2017" / "a.jpg").rename(tmp_path / place / "a.jpg")
    table, problems = read_split(tmp_path, "train2017")
    assert (table.image_name(0), problems) == (f"{place}/a.jpg".removeprefix("./"), [])


def test_roboflows_layout_is_read_too(tmp_path: Path) -> None:
    write_coco_folder(tmp_path, one_image(), split="valid")
    (tmp_path / "annotations" / "instances_valid.json").rename(tmp_path / "valid" / "_annotations.coco.json")
    assert find_datasets(tmp_path)[0].source.splits == ["valid"]
    table, _ = read_split(tmp_path, "valid")
    assert table.image_name(0) == "valid/a.jpg"


def test_coco_odd_the_metrics_of_the_clean_set_are_pycocotools(tmp_path: Path) -> None:
    content = clean_content()
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    found = detections_near(table)
    assert problems == []
    numbers = coco_metrics(table.ground_truth(), found, len(table.categories))
    np.testing.assert_allclose(list(numbers.values()), pycocotools_numbers(content, table, found), atol=1e-8)


def test_coco_odd_ids_in_any_spelling_and_rubbish_beside_give_the_clean_sets_table_and_metrics(tmp_path: Path) -> None:
    clean = clean_content()
    odd = copy.deepcopy(clean)
    for n, image in enumerate(odd["images"]):
        image["id"] = (str(image["id"]), float(image["id"]), image["id"])[n % 3]
    for n, annotation in enumerate(odd["annotations"]):
        annotation["image_id"] = (float(annotation["image_id"]), str(annotation["image_id"]))[n % 2]
        annotation["category_id"] = (str(annotation["category_id"]), float(annotation["category_id"]))[n % 2]
        annotation["id"] = 0 if n == 0 else 3  # pycocotools alone would lose the first and mix the rest
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]
    good = odd["annotations"][0]
    odd["annotations"] += [
        dict(good),  # twice
        good | {"image_id": 999},
        good | {"category_id": 55},
        good | {"bbox": [float("nan"), 5, 3, 4]},
        good | {"bbox": [5, 5, float("inf"), 4]},
        good | {"bbox": [400, 5, 3, 4]},
        good | {"bbox": [5, 5, 3]},
        good | {"bbox": "5 5 3 4"},
        good | {"bbox": [5, 5, 10**400, 4]},
        {"id": 1},
    ]
    odd["images"].append({"id": 5, "file_name": "lost.jpg", "height": 9, "width": 9})
    table, _ = read_split(write_coco_folder(tmp_path / "clean", clean), "train2017")
    write_coco_folder(tmp_path / "odd", odd)
    (tmp_path / "odd" / "train2017" / "lost.jpg").unlink()
    odd_table, problems = read_split(tmp_path / "odd", "train2017")
    for name in ("boxes_xyxy", "labels", "ignored", "areas", "first_object", "image_ids", "image_sizes_hw"):
        np.testing.assert_array_equal(getattr(odd_table, name), getattr(table, name), err_msg=name)
    found = detections_near(table)
    assert coco_metrics(odd_table.ground_truth(), found, 3) == coco_metrics(table.ground_truth(), found, 3)
    kinds = Counter(problem.kind for problem in problems)
    assert kinds == {
        "duplicate-object": 1,
        "id": 2,
        "class": 1,
        "box-not-finite": 3,
        "box-outside": 1,
        "annotation": 2,
        "missing-image": 1,
    }


@pytest.mark.parametrize("size", [{"width": 0}, {"height": None}, {"width": float("nan")}, {"width": "wide"}])
def test_coco_odd_without_a_size_the_images_own_is_taken(size: dict, tmp_path: Path) -> None:
    write_coco_folder(tmp_path, one_image())
    content = one_image()
    content["images"][0] |= size
    table, problems = read_split(write_coco_folder(tmp_path, content, images=False), "train2017")
    assert problems == []
    assert table.image_sizes_hw.tolist() == [[60, 80]]


def test_coco_odd_a_box_without_area_makes_its_pixels_ignored(tmp_path: Path) -> None:
    content = one_image({"bbox": [5, 5, 0, 4]}, {"bbox": [9, 5, -3, 4]})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert table.boxes_xyxy.tolist() == [[5, 5, 6, 9], [6, 5, 9, 9]]
    assert table.ignored.all()
    assert [problem.kind for problem in problems if problem.kind != "area"] == ["box-empty", "box-empty"]


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[10, 20, 30, 20, 30, 40], [5, 30, 6, 30, 6, 31]], [5, 20, 30, 40]),
        ([10, 20, 30, 20, 30, 40], [10, 20, 30, 40]),
        # columns of 60 pixels: 62 zeros, then 3 ones at rows 2 to 4 of column 1, 57 zeros, 3 ones in column 2
        ({"size": [60, 80], "counts": [62, 3, 57, 3, 4675]}, [1, 2, 3, 5]),
        ({"size": [60, 80], "counts": [62, 70, 4668]}, [1, 0, 3, 60]),
    ],
)
def test_coco_odd_without_a_box_that_of_the_segments_is_taken(segmentation: object, box: list, tmp_path: Path) -> None:
    for number, nothing in enumerate(({}, {"bbox": None}, {"bbox": [0, 0, 0.0, 0]})):
        content = one_image({"segmentation": segmentation, "area": 1, **nothing})
        table, problems = read_split(write_coco_folder(tmp_path / str(number), content), "train2017")
        assert (table.boxes_xyxy.tolist(), problems) == ([box], [])


def test_coco_odd_a_compressed_segment_has_pycocotools_box() -> None:
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[7:33, 11:60] = np.random.default_rng(0).integers(0, 2, (26, 49))
    code = pycocotools.mask.encode(np.asfortranarray(mask))
    x, y, width, height = pycocotools.mask.toBbox(code)
    found = segment_box({"size": [60, 80], "counts": code["counts"].decode()})
    assert found == (x, y, x + width, y + height)


@pytest.mark.parametrize(
    "counts", [[0, 9999], [0, -5, 3], [0, float("nan")], [0, 1 << 70], [[0]], {}, "o" * 99, "\ud800", "", [5]]
)
def test_coco_odd_a_damaged_or_empty_run_length_code_gives_no_box(counts: object) -> None:
    assert segment_box({"size": [60, 80], "counts": counts}) is None


def test_coco_odd_without_area_the_boxes_own_is_taken_and_said_once(tmp_path: Path) -> None:
    content = one_image({"bbox": [0, 0, 10, 20]}, {"bbox": [0, 0, 3, 4], "area": -1}, {"bbox": [1, 1, 2, 2], "area": 3})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert table.areas.tolist() == [200.0, 12.0, 3.0]
    assert [(problem.kind, problem.severity) for problem in problems] == [("area", "notice")]
    assert "2 objects have no usable area" in problems[0].message


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ({"id": None}, "id"),
        ({"id": 1.5}, "id"),
        ({"id": True}, "id"),
        ({"file_name": 5}, "annotation"),
        ({"file_name": "../../secret.jpg"}, "path"),
        ({"file_name": "/etc/secret.jpg"}, "path"),
        ({"file_name": "a.jpg\0"}, "path"),
    ],
)
def test_coco_odd_an_image_that_can_not_be_used_is_named_and_left_out(image: dict, kind: str, tmp_path: Path) -> None:
    write_coco_folder(tmp_path, one_image())
    content = one_image()
    content["images"][0] |= image
    write_coco_folder(tmp_path, content, images=False)
    table, problems = read_split(tmp_path, "train2017")
    assert len(table) == 0
    assert [problem.kind for problem in problems] == [kind]


def test_coco_odd_a_repeated_image_id_is_named(tmp_path: Path) -> None:
    content = one_image({"bbox": [0, 0, 10, 20], "area": 200})
    content["images"].append(content["images"][0] | {"id": "1"})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert (len(table), len(table.labels)) == (1, 1)
    assert [(problem.kind, problem.severity) for problem in problems] == [("id", "error")]


def test_coco_odd_ids_that_a_zero_tells_apart_are_two(tmp_path: Path) -> None:
    content = one_image({"bbox": [0, 0, 9, 9], "image_id": "1"}, {"bbox": [1, 1, 5, 5], "image_id": "01"}, id="1")
    content["images"].append(content["images"][0] | {"id": "01", "file_name": "b.jpg"})
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert [problem.kind for problem in problems] == ["area"]
    assert [table.image_id(index) for index in range(2)] == ["1", "01"]
    assert [table.objects(index).boxes_xyxy.tolist() for index in range(2)] == [[[0, 0, 9, 9]], [[1, 1, 6, 6]]]


@pytest.mark.parametrize(("written", "known"), [("a\ud800", "a\\ud800"), ("käse", "käse"), ("9" * 5000, None)])
def test_coco_odd_an_image_may_have_any_word_of_some_length_as_id(
    written: str, known: str | None, tmp_path: Path
) -> None:
    content = one_image({"bbox": [0, 0, 9, 9], "area": 81, "image_id": written}, id=written)
    table, problems = read_split(write_coco_folder(tmp_path, content), "train2017")
    assert [table.image_id(index) for index in range(len(table))] == ([] if known is None else [known])
    assert {problem.kind for problem in problems} == (set() if known is not None else {"id"})


def test_classes_a_models_list_is_matched_by_name_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    boxes = [{"bbox": [0, 0, 9, 9], "area": 9, "category_id": number} for number in (1, 18)]
    model_classes = Categories(("dogs", "cat", "person"), (5, 6, 7))
    table, problems = read_split(write_coco_folder(tmp_path, one_image(*boxes)), "train2017", model_classes)
    assert table.categories == model_classes
    assert table.labels.tolist() == [2]
    assert [(problem.kind, problem.object_number) for problem in problems] == [("class", 2)]
    assert "class 'dog' is not among" in problems[0].message
    assert "the nearest is 'dogs'" in problems[0].message


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "the name 'a'"),
        ([{"id": 1, "name": "a"}, {"id": "1", "name": "b"}], "the id 1"),
        ([{"id": 1}], "needs a whole number as id and a name"),
        ([{"id": "x", "name": "a"}], "needs a whole number as id and a name"),
        ([{"id": "--5", "name": "a"}], "'--5'.* needs a whole number as id"),
        ([{"id": "\u00b2", "name": "a"}], "'\u00b2'.* needs a whole number as id"),
        ([{"id": "9" * 5000, "name": "a"}], "needs a whole number as id"),
        ([{"id": "01", "name": "a"}, {"id": "1", "name": "b"}], "the id 1"),
        ([{"id": 1, "name": "a\ud800"}], "a name that can't be written"),
        ("none", "no list of categories"),
    ],
)
def test_classes_a_category_list_that_makes_no_sense_stops(categories: object, message: str, tmp_path: Path) -> None:
    write_coco_folder(tmp_path, one_image() | {"categories": categories})
    with pytest.raises(UserError, match=message):
        read_split(tmp_path, "train2017")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": [1], "annotations": [], "categories": []}', "[" * 100_000])
def test_what_is_no_coco_file_stops_with_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(text)
    with pytest.raises(UserError, match=r"instances_val\.json"):
        read_split(tmp_path, "val")


def test_a_missing_split_lists_the_others(tmp_path: Path) -> None:
    write_coco_folder(tmp_path, one_image())
    with pytest.raises(UserError, match="no split val2017; there is train2017, and train2017:held-out, the images"):
        read_dataset(tmp_path, "val2017")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "7"), (7.0, "7"), ("7", "7"), ("007", "7"), ("a7", "a7"), (0, "0"), (-1, "-1"), (7.5, None), (True, None)],
)
def test_an_id_has_one_spelling(value: object, expected: str | None) -> None:
    assert normal_id(value) == expected
    assert normal_id(json.loads(json.dumps(value))) == expected
