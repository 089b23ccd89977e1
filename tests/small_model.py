"""A detector that needs no training and finds a lot, as a model file; its exports, traced once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import onnx_ir
import torch

from onestage.detectors import Detector, build, config_of
from onestage.models.model_file import save_model
from onestage.structures import Categories

NAMES = ("ball", "wall", "star")
TRACED: list[tuple[dict[str, Any], dict[str, torch.Tensor], onnx_ir.Model]] = []  # settings, weights, graph


def write_small_model(path: Path, seed: int = 0, names: tuple[str, ...] = NAMES) -> Path:
    """SSD on a tiny backbone with fresh weights; the class convolutions' are larger, so that scores differ."""
    torch.manual_seed(seed)
    detector = build("ssd300-test_efficientnet", len(names))
    for name, parameter in detector.named_parameters():
        if "class_convs" in name and parameter.ndim > 1:
            parameter.data *= 8
    save_model(path, detector, Categories.from_names(names))
    return path


def trace_each_model_once() -> Iterator[None]:
    """A fixture's body: torch traces a network the first time that it is exported, which takes seconds; not again.

    A test that removes the module from `sys.modules` gets it anew, as it is.
    """
    graphs = import_module("onestage.export.onnx_graph")
    trace = graphs._traced

    def traced_before(detector: Detector) -> onnx_ir.Model:
        config, weights = config_of(detector), dict(detector.state_dict())
        for known_config, known_weights, graph in TRACED:
            same = known_config == config and known_weights.keys() == weights.keys()
            if same and all(torch.equal(known_weights[name], one) for name, one in weights.items()):
                return onnx_ir.from_proto(onnx_ir.to_proto(graph))
        graph = trace(detector)
        TRACED.append((config, weights, onnx_ir.from_proto(onnx_ir.to_proto(graph))))
        return graph

    with mock.patch.object(graphs, "_traced", traced_before):
        yield
