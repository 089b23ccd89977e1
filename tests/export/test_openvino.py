"""OpenVINO files: the graphs as OpenVINO runs them, bfloat16, int8."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir
import onnxscript
import openvino
import pytest
import torch
from fcos import FCOS, STRIDES, FCOSConfig
from rich.console import Console
from small_model import NAMES, trace_each_model_once, write_small_model
from torch import Tensor, nn

import onestage
from onestage.backbones import FeatureMaps, TimmMaps
from onestage.compute.threads import kept_signal_stack
from onestage.data.generated import draw_image
from onestage.data.loader import stack_images
from onestage.detectors import Detector
from onestage.detectors.base import IMAGENET
from onestage.export import check
from onestage.export import openvino as our_openvino
from onestage.export.base import Calibration, ModelToExport
from onestage.export.graph_ends import to_network_input
from onestage.export.onnx_graph import IR_VERSION, OPSET
from onestage.export.openvino import OpenVinoSession, skip_resizing
from onestage.export.openvino_graph import write_openvino
from onestage.input_size import KeepRatio, Resize, Stretch, resize_image
from onestage.jobs.export import Exported
from onestage.structures import Categories, Detections
from onestage.terminal import Display

pytestmark = pytest.mark.no_cover  # torch's tracing would take two thirds longer


def test_google_analytics_is_not_told_that_openvino_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    runpy.run_path(our_openvino.__file__)
    with pytest.raises(ImportError, match="openvino_telemetry halted"):
        import openvino_telemetry  # noqa: F401  # pyright: ignore[reportMissingImports]


RESIZES = pytest.mark.parametrize("resize", [Stretch(96), KeepRatio(64, 100)], ids=["stretch", "keep ratio"])


def graph_that_prepares(resize: Resize, folder: Path) -> Any:
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="g")
    builder = onnxscript.GraphBuilder(graph)
    images = builder.input("images", onnx_ir.DataType.UINT8, [None, None, None, 3])
    builder.add_output(to_network_input(builder.op, images, resize)[0], "input")
    content = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    (folder / "prepare.onnx").write_bytes(content)
    return openvino.convert_model(folder / "prepare.onnx")


def compiled(graph: Any) -> Any:
    with kept_signal_stack():
        return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def matrix_products(model: Any) -> int:
    return [node.get_rt_info()["layerType"] for node in model.get_runtime_model().get_ops()].count("MatMul")


@RESIZES
def test_images_reach_the_network_as_the_predictors_do(resize: Resize, tmp_path: Path) -> None:
    model = compiled(graph_that_prepares(resize, tmp_path))
    random = np.random.default_rng(0)
    for size_hw in ((96, 96), (50, 70), (150, 191), (480, 640), (40, 400)):
        images = random.integers(0, 256, (2, *size_hw, 3), dtype=np.uint8)
        found = model({"images": images})[0]
        resized = [resize_image(image, resize.image_hw(size_hw)) for image in images]
        expected = stack_images(resized, resize).transpose(0, 3, 1, 2)
        difference = np.abs(found - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01  # float32, so more halves are rounded either way


@RESIZES
def test_images_of_the_networks_size_go_past_the_resizing(resize: Resize, tmp_path: Path) -> None:
    graph = graph_that_prepares(resize, tmp_path)
    whole = compiled(graph)
    skip_resizing(graph)
    short = compiled(graph)
    assert (matrix_products(whole), matrix_products(short)) == (2, 0)
    for size_hw in ((50, 70), (40, 400)):
        size_hw = resize.image_hw(size_hw)
        images = np.random.default_rng(0).integers(0, 256, (2, *size_hw, 3), np.uint8)
        expected = stack_images(list(images), resize).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(short({"images": images})[0], expected)
        np.testing.assert_array_equal(whole({"images": images})[0], expected)


traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def in_bf16(model: Path) -> tuple[Exported, str]:
    """The export, and what was printed of it."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch:
        # A logit with a mantissa of 8 bits changes scores by up to 0.02. Resizing in bfloat16 would find nothing.
        monkeypatch.setattr(check, "SAME_IOU", 0.9)
        monkeypatch.setattr(check, "SAME_SCORE", 0.02)
        display = Display(Console(file=printed, soft_wrap=True))
        return onestage.export_model(model, format="openvino", precision="bf16", display=display), printed.getvalue()


def test_a_bf16_file_has_bfloat16_convolutions_and_float32_pixels_and_boxes(
    model: Path, in_bf16: tuple[Exported, str]
) -> None:
    path, types = in_bf16[0].path, dict[str, set[str]]()
    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_output_size():
            types.setdefault(node.get_type_name(), set()).add(node.output(0).get_element_type().to_string())
    assert types["Convolution"] == types["GroupConvolution"] == {"bf16"}
    assert types["MatMul"] == {"f32"}  # they resize
    assert types["Exp"] == types["Softmax"] == {"f32"}  # they decode boxes and scores
    assert matrix_products(OpenVinoSession(path).without_resizing) == 0
    assert path.with_suffix(".bin").stat().st_size < 0.6 * model.stat().st_size


def test_a_bf16_file_finds_what_the_model_finds_on_whole_images(in_bf16: tuple[Exported, str]) -> None:
    exported, printed = in_bf16
    assert exported.agreement.of > 100
    assert exported.agreement.share > 0.95
    assert f"onestage evaluate {exported.path} DATA" in " ".join(printed.split())


# --- int8


def convolutions(path: Path) -> list[str]:
    """What each convolution of a file reads its image from, in the order of execution: FakeQuantize where in int8."""
    return [
        node.input_value(0).get_node().get_type_name()
        for node in openvino.Core().read_model(path).get_ordered_ops()
        if node.get_type_name() in ("Convolution", "GroupConvolution")
    ]


class FewConvolutions(FeatureMaps):
    """A backbone of five: NNCF quantises it in a moment, and compiles a file again for each that it searches."""

    channels, strides, stem = (16, 16, 16), STRIDES, ()

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 16, 3, stride=2, padding=1) for c in (3, 16, 16, 16, 16))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for conv in self.convs:
            maps.append(conv(maps[-1]).relu())
        return maps[3:]


@pytest.fixture(scope="module")
def light() -> Detector:
    torch.manual_seed(0)
    config = FCOSConfig()
    return config.build("fcos-test_efficientnet", 3, config.backbone_normalization("test_efficientnet")).eval()


@pytest.fixture(scope="module")
def lightest() -> Detector:
    torch.manual_seed(0)
    return FCOS("fcos", FCOSConfig(), cast(TimmMaps, FewConvolutions()), 3, IMAGENET).eval()


def written_in_int8(detector: Detector, path: Path, worth: Sequence[float], *, search: bool = False) -> str:
    """Write the detector with soft-NMS, whose `map_area` is this each time it is asked for; what was printed."""
    values = iter(worth)

    def map_area(indices: Sequence[int], found: Sequence[Detections]) -> float:
        assert list(indices) == [0]
        assert len(found) == 1
        return next(values, 1.0)

    side = detector.resize.image_hw((100, 100))
    image = resize_image(draw_image(np.random.default_rng(0), 100).image, side)
    selection, printed = detector.evaluation_selection.changed(nms="soft-linear"), io.StringIO()
    calibration = Calibration(
        [lambda: image], [lambda: image], map_area, search=search, display=Display(Console(file=printed, width=300))
    )
    write_openvino(ModelToExport(detector, Categories.from_names(NAMES), selection, {}, "int8", calibration), path)
    assert matrix_products(OpenVinoSession(path).without_resizing) == 0
    return printed.getvalue()


def test_int8_leaves_the_first_and_last_convolutions_in_float32_where_that_costs_little_ap(
    light: Detector, tmp_path: Path
) -> None:
    printed = written_in_int8(light, tmp_path / "int8.xml", [0.900, 0.896])
    assert "int8: AP50 0.896, in float32 0.900, on 1 images" in printed
    assert "--search" not in printed
    read = convolutions(tmp_path / "int8.xml")
    assert "FakeQuantize" not in (read[0], read[-1])
    assert read.count("FakeQuantize") > len(read) / 2


def test_int8_takes_the_better_way_where_none_is_near_enough_and_says_what_would_help(
    lightest: Detector, tmp_path: Path
) -> None:
    printed = written_in_int8(lightest, tmp_path / "int8.xml", [0.900, 0.89, 0.88])
    assert "int8: AP50 0.890, in float32 0.900, on 1 images" in printed
    assert "--search" in printed


def test_a_search_returns_costly_operations_to_float32(lightest: Detector, tmp_path: Path) -> None:
    # Float32; then NNCF asks for all images and for the only one: in float32, in int8; then with operations in float32.
    printed = written_in_int8(lightest, tmp_path / "int8.xml", [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5], search=True)
    assert "in float32 1.000" in printed
    read = convolutions(tmp_path / "int8.xml")
    assert 0 < read.count("FakeQuantize") < len(read)
