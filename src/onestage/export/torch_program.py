"""A model as one program of torch.export: uint8 RGB pictures of any size in, detections in their own pixels out.

    images (B, H, W, 3) uint8, score_threshold (1,)
        -> boxes_xyxy (B, M, 4), scores (B, M), labels (B, M), counts (B,)

The inputs, outputs and header of the ONNX file, but for the threshold, which must be given. Anyone with torch and
torchvision, whose NMS is used, runs the file without onestage:

    import torch, torchvision

    program = torch.export.load("model.pt2").module()
    boxes_xyxy, scores, labels, counts = program(images, torch.tensor([0.5]))

What torch keeps beside the computation stays out of the file: example inputs (a pickle), guards (code that checks
shapes), and where in which source file of the exporting machine each operator came from.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.export.header import export_header, room_for
from onestage.export.torch_input import in_original, prepare
from onestage.export.torch_selection import select_in_batch
from onestage.postprocess import Selection
from onestage.structures import Categories, Predictions
from onestage.torch_archive.archive import ALWAYS, HEADER, PROGRAM, pack_archive, parts_digest
from onestage.torch_archive.rules import check_program
from onestage.whole_file import write_whole

EXAMPLE_SHAPE = (2, 120, 100, 3)  # all sides but the last are traced as symbols


class PicturesToDetections(nn.Module):
    """What is exported.

    Args:
        limit: M, the detections that there is room for.
    """

    def __init__(self, detector: Detector, selection: Selection, limit: int) -> None:
        super().__init__()
        self.detector, self.selection, self.limit = detector, selection, limit

    def forward(self, images: Tensor, score_threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 and (1,) to boxes (B, M, 4), scores (B, M), labels (B, M) and counts (B,)."""
        detector = self.detector
        prepared = prepare(images, detector.resize)
        input_hw = (prepared.images.shape[2], prepared.images.shape[3])
        pixels = prepared.images.contiguous(memory_format=torch.channels_last)  # convolved twice as fast on CPUs
        boxes_xyxy, scores = detector.scored_boxes(Predictions(*detector(pixels)), input_hw)
        if detector.level_cut is not None:
            scores = detector.level_cut(scores, input_hw)
        boxes_xyxy, *rest = select_in_batch(boxes_xyxy, scores, score_threshold, input_hw, self.selection, self.limit)
        found, labels, counts = rest
        return in_original(boxes_xyxy, prepared), found, labels, counts


def export_torch_program(
    detector: Detector, categories: Categories, selection: Selection, path: Path, origin: dict[str, Any]
) -> None:
    """Write the file.

    Args:
        detector: in evaluation mode, on the CPU.
        categories: go into the file, with the names of the classes.
        selection: goes into the file; every call gives its own score threshold.
        path: ends in .pt2, which torch asks for.
        origin: JSON-able facts about where the model is from.

    Raises:
        UserError: a selection without a limit, or a backbone with an operator that readers don't know to be harmless.
    """
    module = PicturesToDetections(copy.deepcopy(detector), selection, room_for(selection))
    parts = program_parts(_traced(module.requires_grad_(False).eval()))
    try:
        check_program(parts, detector.name)
    except UserError as error:
        raise UserError(f"{error}, so not written; --format onnx takes it") from error
    header = {**export_header(detector, categories, selection, origin), "sha256": parts_digest(parts)}
    write_whole(path, pack_archive({**parts, HEADER: json.dumps(header).encode()}))


def _traced(module: PicturesToDetections) -> torch.export.ExportedProgram:
    example = (torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8), torch.tensor([0.5]))
    sides = {side: torch.export.Dim(name) for side, name in enumerate(("batch", "height", "width"))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        return torch.export.export(module, example, dynamic_shapes=(sides, None), strict=False)


def program_parts(program: torch.export.ExportedProgram) -> dict[str, bytes]:
    """What torch writes, without what a file of ours has no room for."""
    program.example_inputs = None
    content = io.BytesIO()
    torch.export.save(program, content)
    with zipfile.ZipFile(content) as archive:
        parts = {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}
    parts = {part: value for part, value in parts.items() if part not in ALWAYS and not part.startswith(".data/")}
    parts[PROGRAM] = _bare(parts[PROGRAM])
    return parts


def _bare(program: bytes) -> bytes:
    values = json.loads(program)
    values["guards_code"] = []
    module = values["graph_module"]
    del module["module_call_graph"][1:]  # of the modules within
    graphs = [module["graph"]]
    while graphs:
        for node in graphs.pop()["nodes"]:
            node["metadata"] = {}
            graphs += [given["arg"]["as_graph"]["graph"] for given in node["inputs"] if "as_graph" in given["arg"]]
    return json.dumps(values).encode()
