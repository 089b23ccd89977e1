"""A detector that needs no training and finds a lot, as a model file; its exports, traced once for all tests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest import mock

import onnx_ir
import torch
from safetensors.torch import save

from onestage.detectors import Detector, build, config_of
from onestage.models.model_file import save_model
from onestage.structures import Categories

NAMES = ("ball", "wall", "star")


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

    The graphs lie in the folder that all test processes share. A test that removes the module from `sys.modules` gets
    it anew, as it is.
    """
    graphs = import_module("onestage.export.onnx_graph")
    trace = graphs._traced

    def traced_before(detector: Detector) -> onnx_ir.Model:
        settings = json.dumps(config_of(detector), sort_keys=True)
        weights = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
        known = Path(tempfile.gettempdir()) / f"{hashlib.sha256(settings.encode() + save(weights)).hexdigest()}.onnx"
        if known.exists():
            return onnx_ir.load(known)
        graph = trace(detector)
        onnx_ir.save(graph, written := known.with_suffix(f".{os.getpid()}.onnx"))
        written.replace(known)
        return graph

    with mock.patch.object(graphs, "_traced", traced_before):
        yield
