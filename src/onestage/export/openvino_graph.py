"""Writes a model for OpenVINO: the graph of the ONNX file, in float32, bfloat16 or int8.

int8: see `onestage.export.int8`.

bf16: everything from the first convolutions to the last is written in bfloat16, the rest in float32. OpenVINO's own
precision hint for bfloat16 can't be used: it would also apply to the matrices that resize an image and to boxes in
hundreds of pixels, for which 8 bits are too few, and marks on operations don't prevent that.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import openvino
from openvino import Type, opset13
from openvino.passes import ConstantFolding, Manager

from onestage.errors import UserError
from onestage.export.base import Calibration, ModelToExport
from onestage.export.int8 import quantised
from onestage.export.onnx_graph import write_onnx
from onestage.export.openvino_walks import between_convolutions
from onestage.runtime.exported_file import METADATA_KEY, file_digest


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
        graph = quantised(graph, calibration, model.detector.evaluation_selection.score_threshold)
    if model.precision == "bf16":
        _to_bf16(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, path, compress_to_fp16=False)
    header = {**model.header(), "precision": model.precision, "sha256": file_digest(path.with_suffix(".bin"))}
    graph.set_rt_info(json.dumps(header), [METADATA_KEY])
    openvino.save_model(graph, path, compress_to_fp16=False)


def _to_bf16(graph: Any) -> None:
    """Convert everything from the first convolutions to the last to bfloat16, in place."""
    inside, converted = between_convolutions(graph), {}
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
