"""Writes a model as one ONNX file: uint8 RGB images of any size in, detections in their own pixels out.

    images (B, H, W, 3) uint8, score_threshold (1,) optional
        -> boxes_xyxy (B, M, 4), scores (B, M), labels (B, M), counts (B,)

The first `counts` rows of an image are its detections, best first; the other rows are zeros. torch traces the network,
the middle of the graph. The parts before and after it are built in `graph_ends`.
"""

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import GraphBuilder
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.export import graph_ends
from onestage.export.base import ModelToExport, ScoredBoxes
from onestage.input_size import Stretch, typical_input_hw
from onestage.runtime import __version__
from onestage.runtime.exported_file import METADATA_KEY, graph_digest
from onestage.whole_file import write_whole

OPSET = 18  # from February 2023; ONNX Runtime 1.14 and newer read it
IR_VERSION = 10


def write_onnx(model: ModelToExport, path: Path, threshold_may_be_left_out: bool = True) -> None:
    """Write the file. An engine that takes a default value for a constant needs `threshold_may_be_left_out=False`.

    Raises:
        UserError: post-processing without a limit on the detections.
    """
    limit = model.selection.max_detections
    if limit is None:
        raise UserError("max_detections is None; an exported file has room for a fixed number, so give one")
    traced = _traced(model.detector)
    _add_both_ends(GraphBuilder(traced.graph), model, limit, threshold_may_be_left_out)
    traced.graph.sort()
    traced.ir_version, traced.producer_name, traced.producer_version = IR_VERSION, "onestage", __version__
    proto = ir.to_proto(traced)
    header = {**model.header(), "sha256": graph_digest(proto.SerializeToString(deterministic=True))}
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(header))
    write_whole(path, proto.SerializeToString(deterministic=True))


def _traced(detector: Detector) -> Any:
    """The network as an `onnx_ir.Model` with the input "input" and the outputs "all_boxes" and "all_scores"."""
    network = ScoredBoxes(copy.deepcopy(detector).cpu()).eval()  # a detector in use may lie on a GPU
    example = torch.zeros(2, 3, *typical_input_hw(detector.resize))
    sides = {0: torch.export.Dim("batch")}
    if not isinstance(detector.resize, Stretch):
        multiple = detector.resize.multiple
        _pad_by_constants(network)
        sides |= {2: multiple * torch.export.Dim("rows"), 3: multiple * torch.export.Dim("columns")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
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


def _pad_by_constants(network: nn.Module) -> None:
    """Let convolutions that compute their padding from the image's size (TensorFlow's "same") pad by constants.

    Sides that are multiples of the largest stride need no others, and torch would simplify the formulas for hours.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv2dSame):
            conv = cast(Any, layer)
            options = {"dilation": conv.dilation, "groups": conv.groups, "bias": conv.bias is not None}
            bare = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, **options)
            bare.load_state_dict(conv.state_dict())
            sides = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
            height, width = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in sides)
            pad = nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2))
            network.set_submodule(name, nn.Sequential(pad, bare).eval())


def _add_both_ends(builder: GraphBuilder, model: ModelToExport, limit: int, threshold_may_be_left_out: bool) -> None:
    """Add the nodes before and after the network, and the inputs and outputs of the whole."""
    detector, graph, op = model.detector, builder.graph, builder.op
    (network_input,), (boxes_xyxy, scores) = list(graph.inputs), list(graph.outputs)
    graph.inputs.clear()
    graph.outputs.clear()
    images = builder.input("images", ir.DataType.UINT8, ["batch", "height", "width", 3])
    if threshold_may_be_left_out:
        default = np.array([model.selection.score_threshold], dtype=np.float32)
        score_threshold = builder.input("score_threshold", const_value=ir.tensor(default))
    else:
        score_threshold = builder.input("score_threshold", ir.DataType.FLOAT, [1])

    prepared, image_hw, original_hw = graph_ends.to_network_input(op, images, detector.resize)
    network_input.replace_all_uses_with(prepared)
    if detector.level_cut is not None:
        scores = graph_ends.best_of_each_level(op, scores, op.Slice(op.Shape(prepared), [2], [4]), detector.level_cut)
    candidates = graph_ends.choose_candidates(op, boxes_xyxy, scores, detector.num_classes, model.selection)
    kept_scores, kept_indices = graph_ends.suppress(op, candidates, score_threshold, model.selection)
    batch = op.Slice(op.Shape(images), [0], [1])
    found_xyxy, *rest = graph_ends.by_image(op, candidates, kept_scores, kept_indices, batch, limit)
    outputs = [graph_ends.to_original(op, found_xyxy, image_hw, original_hw), *rest]
    shapes = {"boxes_xyxy": [limit, 4], "scores": [limit], "labels": [limit], "counts": []}
    for (name, shape), value in zip(shapes.items(), outputs, strict=True):
        value.shape = ir.Shape(["batch", *shape])
        value.dtype = ir.DataType.INT64 if name in ("labels", "counts") else ir.DataType.FLOAT
        builder.add_output(value, name)
