"""A model as one ONNX file: uint8 RGB images of any size in, detections in their own pixels out.

    images (B, H, W, 3) uint8, score_threshold (1,) optional
        -> boxes_xyxy (B, M, 4), scores (B, M), labels (B, M), counts (B,)

A row's first `counts` places are its detections, best first; the rest are zeros. The middle of the graph is the network
as torch traces it; what comes before and after it is written out in `input_graph` and `selection_graph`.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import GraphBuilder
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.export.header import export_header, room_for
from onestage.export.input_graph import prepare
from onestage.export.selection_graph import best_of_each_level, by_image, choose_candidates, in_original, suppress
from onestage.input_size import Stretch, typical_input_hw
from onestage.postprocess import Selection
from onestage.runtime import __version__
from onestage.runtime.exported_file import METADATA_KEY, graph_digest
from onestage.structures import Categories, Predictions
from onestage.whole_file import write_whole

OPSET = 18  # of February 2023: ONNX Runtime 1.14 and newer read it
IR_VERSION = 10


class ScoredBoxes(nn.Module):
    """What is traced: the network and the decoding of its output."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, h, w) of 0..255 to boxes (B, A, 4), in pixels of the input, and scores (B, A, K)."""
        raw = self.detector(images)
        return self.detector.scored_boxes(Predictions(*raw), (images.shape[2], images.shape[3]))


def export_onnx(
    detector: Detector,
    categories: Categories,
    selection: Selection,
    path: Path,
    origin: dict[str, Any],
    threshold_may_be_left_out: bool = True,
) -> None:
    """Write the file.

    Args:
        detector: in evaluation mode, on the CPU.
        categories: go into the file, with the names of the classes.
        selection: goes into the file; its score threshold is a default that every call may replace.
        origin: JSON-able facts about where the model is from.
        threshold_may_be_left_out: the score threshold is an input with a value of its own; or one that must be given,
            for engines that take a value for a constant.

    Raises:
        UserError: a selection without a limit.
    """
    limit = room_for(selection)
    model = _traced(detector)
    graph = model.graph
    builder = GraphBuilder(graph)
    threshold: dict[str, Any] = {"dtype": ir.DataType.FLOAT, "shape": [1]}
    if threshold_may_be_left_out:
        threshold = {"const_value": ir.tensor(np.array([selection.score_threshold], dtype=np.float32))}
    _around(builder, detector, selection, limit, threshold)
    graph.sort()
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "onestage", __version__
    header = export_header(detector, categories, selection, origin)
    proto = ir.to_proto(model)
    header["sha256"] = graph_digest(proto.SerializeToString(deterministic=True))
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(header))
    write_whole(path, proto.SerializeToString(deterministic=True))


def _traced(detector: Detector) -> Any:
    """The network as an `onnx_ir.Model`: "input" to "all_boxes", "all_scores"."""
    height, width = typical_input_hw(detector.resize)
    example = torch.zeros(2, 3, height, width)
    sides = {0: torch.export.Dim("batch")}
    if not isinstance(detector.resize, Stretch):
        multiple = detector.resize.multiple
        sides |= {2: multiple * torch.export.Dim("rows"), 3: multiple * torch.export.Dim("columns")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            ScoredBoxes(detector).eval(),
            (example,),
            dynamo=True,
            input_names=["input"],
            output_names=["all_boxes", "all_scores"],
            dynamic_shapes=(sides,),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model


def _around(
    builder: GraphBuilder, detector: Detector, selection: Selection, limit: int, threshold: dict[str, Any]
) -> None:
    """The nodes before and after the network's, and the inputs and outputs of the whole."""
    graph = builder.graph
    op, (network_input,), (boxes_xyxy, scores) = builder.op, list(graph.inputs), list(graph.outputs)
    graph.inputs.clear()
    graph.outputs.clear()
    images = builder.input("images", ir.DataType.UINT8, ["batch", "height", "width", 3])
    score_threshold = builder.input("score_threshold", **threshold)

    prepared = prepare(op, images, detector.resize)
    network_input.replace_all_uses_with(prepared.images)
    if detector.level_cut is not None:
        input_hw = op.Slice(op.Shape(prepared.images), [2], [4])
        scores = best_of_each_level(op, scores, input_hw, detector.level_cut)
    candidates = choose_candidates(op, boxes_xyxy, scores, detector.num_classes, selection)
    selected = suppress(op, candidates, score_threshold, selection)
    batch = op.Slice(op.Shape(images), [0], [1])
    found_xyxy, *rest = by_image(op, candidates, selected, batch, limit)
    outputs = [in_original(op, found_xyxy, prepared.image_hw, prepared.original_hw), *rest]
    shapes = {"boxes_xyxy": [limit, 4], "scores": [limit], "labels": [limit], "counts": []}
    for (name, shape), value in zip(shapes.items(), outputs, strict=True):
        value.shape = ir.Shape(["batch", *shape])
        value.dtype = ir.DataType.INT64 if name in ("labels", "counts") else ir.DataType.FLOAT
        builder.add_output(value, name)
