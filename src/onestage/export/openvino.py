"""A model for OpenVINO: the graph of the ONNX file, in float32, bfloat16 or int8.

    NAME.xml, NAME.bin; the header of the ONNX file stands in the xml, with the SHA-256 of the bin

int8 is NNCF's: weights and inputs of the convolutions, by what passes through them on calibration images. What lies
before the first convolutions (resizing, normalisation) and behind the last (decoding, NMS) stays as it is. If the
images' AP falls by more than `MOST_LOST`, NNCF takes those operations back to float32 that cost most of it.

bfloat16 is written into the graph: from the first convolutions to the last, weights and what passes through are of that
type, and all else is float32. Told to count in bfloat16 (its precision hint), OpenVINO would do so in the matrices that
resize an image and with boxes in hundreds of pixels too, which then have 8 bits; marks on operations don't keep it
from that.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onestage.compute.signal_stack import kept_signal_stack
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.export.calibration import Calibration
from onestage.export.onnx import export_onnx
from onestage.postprocess import Selection
from onestage.runtime.decode import decode_image
from onestage.runtime.exported_file import METADATA_KEY, OpenVinoPrecision, file_digest, read_exported
from onestage.runtime.session import Outputs
from onestage.structures import Categories, Detections

CONVOLUTIONS = ("Convolution", "GroupConvolution")
CALIBRATION_THRESHOLD = 0.05  # of scores, while NNCF looks on; it does not reach what is measured
MOST_LOST = 0.01  # `map_area` that int8 may cost


def export_openvino(
    detector: Detector,
    categories: Categories,
    selection: Selection,
    path: Path,
    origin: dict[str, Any],
    precision: OpenVinoPrecision = "fp32",
    calibration: Calibration | None = None,
) -> None:
    """Write the files.

    Args:
        path: the xml; the bin lies beside it.
        precision: of the convolutions and what lies between them.
        calibration: for "int8".

    Raises:
        UserError: OpenVINO or NNCF is missing, or int8 without images.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError("OpenVINO is missing: pip install 'onestage[openvino]'") from error
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        export_onnx(detector, categories, selection, onnx_file, origin, threshold_may_be_left_out=False)
        header = {**read_exported(onnx_file).header, "precision": precision}
        model = openvino.convert_model(onnx_file)
    if precision == "int8":
        model = _quantised(model, calibration or Calibration(()), detector.evaluation_selection.score_threshold)
    if precision == "bf16":
        _to_bf16(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=False)
    header["sha256"] = file_digest(path.with_suffix(".bin"))
    model.set_rt_info(json.dumps(header), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _quantised(model: Any, calibration: Calibration, score_threshold: float) -> Any:
    images, measure = calibration.images, calibration.map_area
    if not images:
        raise UserError("int8 needs images to calibrate on: --calibration DATA, the training data is good")
    try:
        import nncf
    except ImportError as error:
        raise UserError("NNCF is missing: pip install 'onestage[openvino]'") from error

    def as_inputs(place: int, score_threshold: float = CALIBRATION_THRESHOLD) -> dict[str, np.ndarray]:
        return {
            "images": decode_image(images[place])[None],
            "score_threshold": np.array([score_threshold], dtype=np.float32),
        }

    def map_area(compiled: Any, places: Iterable[int]) -> tuple[float, list[float]]:
        """Of all, and of each image: if it were not given, NNCF would run all images again for it."""
        places = list(places)
        outputs = [compiled(as_inputs(place, score_threshold)) for place in places]
        found = [_first_image(Outputs(*(output[name] for name in Outputs._fields))) for output in outputs]
        assert measure is not None
        return measure(places, found), [measure([place], [one]) for place, one in zip(places, found, strict=True)]

    model = model.clone()  # else soft-NMS's loop shares operations with what is around it, which NNCF can't follow
    logging.getLogger("nncf").setLevel(logging.ERROR)
    ignored = nncf.IgnoredScope(names=sorted(_outside_of_convolutions(model)), validate=False)
    with kept_signal_stack(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNCF's, about other frameworks
        data = nncf.Dataset(range(len(images)), as_inputs)
        how = {"subset_size": len(images), "ignored_scope": ignored}
        if measure is None:
            return nncf.quantize(model, data, **how)
        return nncf.quantize_with_accuracy_control(model, data, data, map_area, max_drop=MOST_LOST, **how)


def _first_image(outputs: Outputs) -> Detections:
    count = int(outputs.counts[0])
    boxes_xyxy, scores, labels = (part[0, :count] for part in outputs[:3])
    return Detections(torch.from_numpy(boxes_xyxy), torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64)))


def _outside_of_convolutions(model: Any) -> set[str]:
    """Names of the operations before the first convolutions and behind the last."""
    names: set[str] = set()
    behind = [result.input_value(0).get_node() for result in model.get_results()]
    while behind:
        node = behind.pop()
        if node.get_friendly_name() not in names and node.get_type_name() not in CONVOLUTIONS:
            names.add(node.get_friendly_name())
            behind += [value.get_node() for value in node.input_values()]
    before, seen = [parameter for parameter in model.get_parameters()], set()
    while before:
        node = before.pop()
        if node.get_friendly_name() not in seen and node.get_type_name() not in CONVOLUTIONS:
            seen.add(node.get_friendly_name())
            before += [use.get_node() for output in node.outputs() for use in output.get_target_inputs()]
    return names | seen


def _to_bf16(model: Any) -> None:
    """Bfloat16 from the first convolutions to the last, in place."""
    from openvino import Type, opset13
    from openvino.passes import ConstantFolding, Manager

    inside, converted = _between_convolutions(model), {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        for place, reader in enumerate(node.inputs()):
            value = reader.get_source_output()
            key = (value.get_node().get_friendly_name(), value.get_index(), name in inside)
            if value.get_element_type() != Type.f32 or (key[0] in inside) == (name in inside):
                continue
            if node.get_type_name() == "Interpolate" and place > 0:  # scales, of any type
                continue
            if key not in converted:
                converted[key] = opset13.convert(value, Type.bf16 if name in inside else Type.f32)
            reader.replace_source_output(converted[key].output(0))
    model.validate_nodes_and_infer_types()
    manager = Manager()
    manager.register_pass(ConstantFolding())  # weights are kept in bfloat16
    manager.run_passes(model)


def _between_convolutions(model: Any) -> set[str]:
    """Names of the convolutions, of the biases added to them, and of operations on the way from one to another.

    Shapes are no such way: what follows from the size of a map stays as it is.
    """
    nodes = model.get_ordered_ops()  # each behind what it reads
    behind_one: set[str] = set()
    for node in nodes:
        reads = {value.get_node().get_friendly_name() for value in node.input_values()}
        passes_on = node.get_type_name() != "ShapeOf" and not reads.isdisjoint(behind_one)
        if node.get_type_name() in CONVOLUTIONS or passes_on:
            behind_one.add(node.get_friendly_name())
    inside: set[str] = set()
    for node in reversed(nodes):
        sources = [value.get_node() for value in node.input_values()]
        biased = node.get_type_name() == "Add" and any(source.get_type_name() in CONVOLUTIONS for source in sources)
        if biased or node.get_type_name() in CONVOLUTIONS or node.get_friendly_name() in inside:
            inside |= {node.get_friendly_name(), *(source.get_friendly_name() for source in sources)}
    return inside & behind_one
