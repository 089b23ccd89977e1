"""Writes a model for OpenVINO: the graph of the ONNX file, in float32, bfloat16 or int8.

int8: NNCF quantises the weights and inputs of the convolutions, by what it sees on calibration images. What comes
before the first convolutions (resizing, normalisation) and after the last ones (decoding, NMS) stays in float32. If the
AP on these images falls by more than `MAX_LOSS_OF_AP`, NNCF takes the operations that cost most back to float32.

bf16: everything from the first convolutions to the last is written in bfloat16, the rest in float32. OpenVINO's own
precision hint for bfloat16 can't be used: it would also apply to the matrices that resize an image and to boxes in
hundreds of pixels, for which 8 bits are too few, and marks on operations don't prevent that.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import Type, opset13
from openvino.passes import ConstantFolding, Manager

from onestage.compute.threads import kept_signal_stack
from onestage.errors import UserError
from onestage.export.base import Calibration, ModelToExport, as_detections
from onestage.export.onnx_graph import write_onnx
from onestage.runtime.detections import DetectionArrays
from onestage.runtime.exported_file import METADATA_KEY, file_digest
from onestage.runtime.session import Outputs
from onestage.structures import Detections

CONVOLUTIONS = ("Convolution", "GroupConvolution")
CALIBRATION_THRESHOLD = 0.05  # score threshold while NNCF observes the network; it has no effect on what is observed
MAX_LOSS_OF_AP = 0.01  # `map_area` that int8 may cost


def write_openvino(model: ModelToExport, path: Path) -> None:
    """Write the xml at `path`, with the ONNX file's header in it, and the bin beside it.

    Raises:
        UserError: int8 without calibration images.
    """
    calibration = model.calibration or Calibration(())
    if model.precision == "int8" and not calibration.images:
        raise UserError("int8 needs images to calibrate on: --calibration DATA, the training data is good")
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        write_onnx(model, onnx_file, threshold_may_be_left_out=False)
        graph = openvino.convert_model(onnx_file)
    if model.precision == "int8":
        graph = _quantised(graph, calibration, model.detector.evaluation_selection.score_threshold)
    if model.precision == "bf16":
        _to_bf16(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, path, compress_to_fp16=False)
    header = {**model.header(), "precision": model.precision, "sha256": file_digest(path.with_suffix(".bin"))}
    graph.set_rt_info(json.dumps(header), [METADATA_KEY])
    openvino.save_model(graph, path, compress_to_fp16=False)


def _quantised(graph: Any, calibration: Calibration, score_threshold: float) -> Any:
    import nncf  # takes seconds, so only for int8

    images, measure = calibration.images, calibration.map_area

    def as_inputs(index: int, score_threshold: float = CALIBRATION_THRESHOLD) -> dict[str, np.ndarray]:
        threshold = np.array([score_threshold], dtype=np.float32)
        return {"images": images[index]()[None], "score_threshold": threshold}

    def map_area(compiled: Any, indices: Iterable[int]) -> tuple[float, list[float]]:
        """AP of all images together, and of each alone: NNCF would run all images again to get the latter."""
        indices = list(indices)
        found = [_detections(compiled(as_inputs(index, score_threshold))) for index in indices]
        assert measure is not None
        return measure(indices, found), [measure([index], [one]) for index, one in zip(indices, found, strict=True)]

    graph = graph.clone()  # otherwise soft-NMS's loop shares operations with its surroundings, which NNCF can't follow
    logging.getLogger("nncf").setLevel(logging.ERROR)
    results = [source for result in graph.get_results() for source in _sources(result)]
    outside = _names_up_to_convolutions(results, _sources)
    outside |= _names_up_to_convolutions(graph.get_parameters(), _readers)
    ignored = nncf.IgnoredScope(names=sorted(outside), validate=False)
    with kept_signal_stack(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNCF's warnings about other frameworks
        data, size = nncf.Dataset(range(len(images)), as_inputs), len(images)
        if measure is None:
            return nncf.quantize(graph, data, subset_size=size, ignored_scope=ignored)
        return nncf.quantize_with_accuracy_control(
            graph, data, data, map_area, max_drop=MAX_LOSS_OF_AP, subset_size=size, ignored_scope=ignored
        )


def _detections(outputs: Any) -> Detections:
    """The detections in a compiled graph's outputs for one image, without class names."""
    boxes_xyxy, scores, labels, counts = (outputs[name] for name in Outputs._fields)
    rows = (0, slice(int(counts[0])))
    return as_detections(DetectionArrays(boxes_xyxy[rows], scores[rows], labels[rows].astype(np.int64), ()))


def _names_up_to_convolutions(start: Iterable[Any], neighbours: Callable[[Any], list[Any]]) -> set[str]:
    """Names of the operations on all ways from `start` to the convolutions that are met first, without these."""
    names: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in names and node.get_type_name() not in CONVOLUTIONS:
            names.add(node.get_friendly_name())
            waiting += neighbours(node)
    return names


def _sources(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def _readers(node: Any) -> list[Any]:
    return [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]


def _to_bf16(graph: Any) -> None:
    """Convert everything from the first convolutions to the last to bfloat16, in place."""
    inside, converted = _between_convolutions(graph), {}
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        for index, reader in enumerate(node.inputs()):
            value = reader.get_source_output()
            key = (value.get_node().get_friendly_name(), value.get_index(), name in inside)
            scales = node.get_type_name() == "Interpolate" and index > 0  # which may be of any type
            if value.get_element_type() != Type.f32 or (key[0] in inside) == (name in inside) or scales:
                continue
            if key not in converted:
                converted[key] = opset13.convert(value, Type.bf16 if name in inside else Type.f32)
            reader.replace_source_output(converted[key].output(0))
    graph.validate_nodes_and_infer_types()
    manager = Manager()
    manager.register_pass(ConstantFolding())  # so that weights are stored in bfloat16
    manager.run_passes(graph)


def _between_convolutions(graph: Any) -> set[str]:
    """Names of the convolutions, of the biases added to them, and of the operations between two convolutions.

    Operations that compute with shapes are left out: they keep their type.
    """
    after_one: set[str] = set()
    inside: set[str] = set()
    nodes = graph.get_ordered_ops()  # in the order of execution
    for node in nodes:
        passes_on = node.get_type_name() != "ShapeOf" and not _names(_sources(node)).isdisjoint(after_one)
        if node.get_type_name() in CONVOLUTIONS or passes_on:
            after_one.add(node.get_friendly_name())
    for node in reversed(nodes):
        sources = _sources(node)
        biased = node.get_type_name() == "Add" and any(source.get_type_name() in CONVOLUTIONS for source in sources)
        if biased or node.get_type_name() in CONVOLUTIONS or node.get_friendly_name() in inside:
            inside |= _names([node, *sources])
    return inside & after_one


def _names(nodes: Iterable[Any]) -> set[str]:
    return {node.get_friendly_name() for node in nodes}
