"""ONNX files made by hand: what a file of ours has, and what a stranger's may have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from onestage.runtime.exported_file import FORMAT, METADATA_KEY, graph_digest

HEADER: dict[str, Any] = {
    "format": FORMAT,
    "detector": "ssd300-vgg16",
    "categories": {"names": ["cat", "dog"], "source_ids": [3, 7]},
    "resize": {"side": 300},
    "selection": {"score_threshold": 0.5},
    "evaluation_score_threshold": 0.01,
    "origin": {},
}


def small_model(
    nodes: Sequence[onnx.NodeProto] = (), initializers: Sequence[onnx.TensorProto] = (), **more: Any
) -> onnx.ModelProto:
    """One input that is handed on, and whatever else is given."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"]), *nodes], "g", [value], [result], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, **more)


def write(path: Path, model: onnx.ModelProto, header: dict[str, Any] | None = None) -> Path:
    """With a header that fits, so that only what is wrong in the model can be refused."""
    model.metadata_props.add(
        key=METADATA_KEY,
        value=json.dumps({**(HEADER if header is None else header), "sha256": graph_digest(model.SerializeToString())}),
    )
    path.write_bytes(model.SerializeToString())
    return path


def external(location: str, name: str = "w") -> onnx.TensorProto:
    """A weight that lies in another file."""
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], name=name, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor
