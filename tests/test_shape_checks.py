"""The test run checks the shapes and types in the package's signatures: does it?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError
from shape_checks import unchecked

from onestage.boxes import xyxy_to_cxcywh
from onestage.input_size import Stretch


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="xyxy_to_cxcywh"):
        xyxy_to_cxcywh(torch.zeros(3, 5))


def test_so_is_a_wrong_type_where_a_signature_has_no_shape_unless_torch_traces() -> None:
    wrong: Any = [480, 640]
    with pytest.raises(BeartypeCallHintParamViolation, match="image_hw"):
        Stretch(96).image_hw(wrong)
    with unchecked():
        assert Stretch(96).image_hw(wrong) == (96, 96)
