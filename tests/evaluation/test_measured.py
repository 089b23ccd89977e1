"""The file of what an evaluation measured: exact, and refused where it is anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measured_runs import measured_run

from onestage.errors import UserError
from onestage.evaluation.measured import Measured
from onestage.models.model_file import read_tensors, write_tensors


def read_back(path: Path, measured: Measured) -> Measured:
    write_tensors(path, *measured.file_content())
    return Measured.from_file_content(*read_tensors(path), str(path))


def test_what_was_written_is_read_again_to_the_bit(tmp_path: Path) -> None:
    measured = measured_run(root=tmp_path, about={"detector": "gfl", "ms_per_image": 1.5})

    again = read_back(tmp_path / "measured.safetensors", measured)

    for table in ("truth", "found"):
        for name, values in vars(getattr(measured, table)).items():
            assert np.array_equal(values, getattr(getattr(again, table), name)), name
    for name in ("categories", "image_names", "root", "about"):
        assert getattr(again, name) == getattr(measured, name)
    assert again.score_thresholds.tolist() == [0.5, 0.5, 0.5]


def test_no_images_and_names_that_are_no_utf_8_are_kept_too(tmp_path: Path) -> None:
    nothing = read_back(tmp_path / "a.safetensors", measured_run(images=0))
    odd = measured_run(images=2)
    odd = Measured(**{**vars(odd), "image_names": ("a\udce9.jpg", "line\nbreak.jpg")})

    assert nothing.image_names == ()
    assert read_back(tmp_path / "b.safetensors", odd).image_names == odd.image_names


@pytest.mark.parametrize(
    ("tensors", "header", "said"),
    [
        ({"found_scores": None}, {}, "found_scores is missing"),
        ({"found_scores": torch.zeros(3)}, {}, "found: its columns have different lengths"),
        ({"found_boxes_xyxy": torch.zeros(3)}, {}, "found_boxes_xyxy is missing, or has another type or shape"),
        ({"truth_labels": torch.zeros(180, dtype=torch.int64)}, {}, "truth_labels is missing, or has another type"),
        ({"truth_labels": torch.full((180,), 3, dtype=torch.int32)}, {}, "truth_labels: 3 is out of its range; .*0..2"),
        ({"truth_image_index": torch.full((180,), -1, dtype=torch.int32)}, {}, "-1 is out of its range"),
        ({"truth_areas": torch.full((180,), float("nan"))}, {}, "truth_areas: nan is out of its range"),
        ({"image_names": torch.zeros(60, dtype=torch.uint8)}, {}, "image_names: 60 names"),
        ({"image_names": torch.tensor(5, dtype=torch.uint8)}, {}, "image_names is missing"),
        ({}, {"kind": "model"}, "not what an evaluation measured"),
        ({}, {"images": "60"}, "image_names: 60 names"),
        ({}, {"images": 61}, "image_names: 60 names"),
        ({}, {"categories": {"names": ["a"]}}, "its categories"),
        ({}, {"score_thresholds": [0.5]}, "expected 3 numbers"),
        ({}, {"score_thresholds": [0.5, 0.5, float("nan")]}, "from 0 to 1"),
        ({}, {"score_thresholds": ["0.5", 0.5, 0.5]}, "from 0 to 1"),
        ({}, {"about": []}, "no table `about`"),
        ({}, {"root": 7}, "no folder `root`"),
    ],
)
def test_a_file_that_is_something_else_is_refused_with_its_name(
    tensors: dict[str, Any], header: dict[str, Any], said: str
) -> None:
    own_tensors, own_header = measured_run().file_content()
    tensors = {name: value for name, value in {**own_tensors, **tensors}.items() if value is not None}

    with pytest.raises(UserError, match=f"^x/measured.safetensors: .*{said}"):
        Measured.from_file_content(tensors, json.loads(json.dumps({**own_header, **header})), "x/measured.safetensors")
