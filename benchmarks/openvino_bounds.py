"""What OpenVINO allows on this machine: the network of an exported file alone, and its convolutions alone.

"The network alone" is the file cut before its normalisation and behind its last convolutions, for one size of batch:
no resizing, no decoding of boxes, no NMS, nothing that changes its size. Whatever is done around a network, it is not
faster than that. Of what remains, "the convolutions alone" are the convolutions with what OpenVINO joins to them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13

from onestage.compute.threads import kept_signal_stack
from onestage.export.openvino import PRECISION
from onestage.export.openvino_walks import CONVOLUTIONS
from onestage.runtime.threads import cpu_threads

NORMALISATION = ("Convert", "Add", "Subtract", "Multiply", "Divide", "FakeQuantize")


class NetworkAlone:
    """The network of an exported file, for batches of one size.

    Args:
        path: the xml.
        batch_size: images at once.
        input_hw: of the network.
    """

    def __init__(self, path: Path, batch_size: int, input_hw: tuple[int, int]) -> None:
        core, shape = openvino.Core(), (batch_size, 3, *input_hw)
        settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": cpu_threads(), "PERF_COUNT": True}
        with kept_signal_stack():
            compiled: Any = core.compile_model(_cut(core.read_model(path), shape), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)

    def __call__(self) -> None:
        self._request.infer([self._images])

    def convolutions_seconds(self, rounds: int = 5) -> float:
        """Of all convolutions together, the median of some calls."""
        seconds = []
        for _ in range(rounds):
            self()
            seconds.append(sum(_seconds(one) for one in self._request.profiling_info if _is_convolution(one)))
        return statistics.median(seconds)


def _seconds(profiled: Any) -> float:
    return profiled.real_time.total_seconds()


def _is_convolution(profiled: Any) -> bool:
    return profiled.node_type in ("Convolution", "GroupConvolution")


def _cut(model: Any, shape: tuple[int, ...]) -> Any:
    """From images (B, 3, H, W), not yet normalised, to the maps of the last convolutions."""
    nodes = model.get_ordered_ops()
    first = next(node for node in nodes if node.get_type_name() in CONVOLUTIONS)
    start = first.input_value(0).get_node()
    while start.get_type_name() in NORMALISATION:
        start = next(value.get_node() for value in start.input_values() if not _is_constant(value.get_node()))
    images = opset13.parameter(shape, openvino.Type.f32, name="images")
    start.output(0).replace(images.output(0))
    last = [node for node in nodes if node.get_type_name() in CONVOLUTIONS and not _leads(node, _is_a_convolution)]
    model_of: Any = openvino.Model  # its declared type does not fit itself
    return model_of([opset13.result(node.output(0)) for node in last], [images], "network")


def _is_constant(node: Any) -> bool:
    """A weight, or one on its way through conversions."""
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


def _is_a_convolution(node: Any) -> bool:
    return node.get_type_name() in CONVOLUTIONS


def _leads(node: Any, to: Callable[[Any], bool]) -> bool:
    """Whether something behind a node is of a kind."""
    waiting, seen = [node], set()
    while waiting:
        for output in waiting.pop().outputs():
            for reader in (use.get_node() for use in output.get_target_inputs()):
                if to(reader):
                    return True
                if (name := reader.get_friendly_name()) not in seen and reader.get_type_name() != "ShapeOf":
                    seen.add(name)
                    waiting.append(reader)
    return False
