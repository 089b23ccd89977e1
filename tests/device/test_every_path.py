"""What people do with a GPU, on the pretended one: nothing meets that may not, and the results are the CPU's."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device.chosen import DEVICE, Gpu
from red_box import RedBoxDetector
from served import ask, red_png, running
from shape_checks import unchecked
from skipped_steps import small_batch, small_step, write_small_step
from small_detectors import FAMILIES, NAMES, noise, small

import onestage
from onestage.compute.device import choose_compute
from onestage.data.generated import draw_image, write_generated_voc
from onestage.errors import UserError
from onestage.export.base import ModelToExport
from onestage.export.onnx_graph import write_onnx
from onestage.inference.predictor import Predictor
from onestage.models.model_file import RunFolder, read_tensors, save_model
from onestage.serving.app import create_app
from onestage.structures import Categories, Detections
from onestage.terminal import quiet
from onestage.training.batch_size import find_batch_size
from onestage.training.optimizer import load_optimizer_tensors, optimizer_tensors, train_mode
from onestage.training.processes import ALONE, synchronise_batch_norms
from onestage.training.recipe import Recipe
from onestage.training.skipped_step import read_skipped_step
from onestage.training.step import OptimizerStep

PLACES = {"cpu": nullcontext, str(DEVICE): Gpu}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=8, test=2)
    return root


def trained_and_resumed(data: Path, out: Path, device: str) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint after 2 steps and one more."""
    settings: dict[str, Any] = {"batch_size": 4, "accumulate": 2, "ema_decay": 0.9, "gradient_clip": 5.0, "workers": 0}
    settings |= {"evaluations": 1, "optimizer": "sgd", "precision": "fp32", "learning_rate": 1e-3}
    same: dict[str, Any] = {"out": out, "device": device, "train_split": "trainval", "test_split": "test"}
    with PLACES[device]():
        onestage.train(
            data,
            detector="ssd300-test_efficientnet",
            backbone_weights="none",
            settings=settings,
            steps=2,
            display=quiet(),
            **same,
        )
        onestage.train(data, resume=True, steps=3, display=quiet(), **same)
    return read_tensors(RunFolder(out).checkpoint)[0]


def test_a_run_and_its_resumption_end_with_the_cpus_weights(data: Path, tmp_path: Path) -> None:
    cpu, gpu = (trained_and_resumed(data, tmp_path / device, device) for device in PLACES)
    assert cpu.keys() == gpu.keys()
    weights = [name for name, tensor in cpu.items() if tensor.is_floating_point() and name.startswith("model/")]
    apart = math.sqrt(sum((cpu[name] - gpu[name]).square().sum().item() for name in weights))
    # batch norms over the few cells of the deepest maps make much of a rounding
    assert apart < 1e-3 * math.sqrt(sum(cpu[name].square().sum().item() for name in weights))
    figures = [json.loads((tmp_path / device / "metrics.json").read_text())["voc"] for device in PLACES]
    assert figures[1]["map_area"] == pytest.approx(figures[0]["map_area"], abs=1e-3)


def test_a_resumed_adamw_counts_its_steps_there() -> None:
    with Gpu():
        detector, compute = small("retinanet"), choose_compute(str(DEVICE), "fp32")
        compute.place(detector)
        recipe, batch = Recipe(steps=1, optimizer="adamw", learning_rate=1e-3), noise(detector, str(DEVICE))
        first = OptimizerStep(detector, detector, recipe, compute, ALONE)
        assert first(batch, 1e-3).finite
        saved = {name: tensor.cpu() for name, tensor in optimizer_tensors(first.optimizer, detector).items()}
        resumed = OptimizerStep(detector, detector, recipe, compute, ALONE)
        load_optimizer_tensors(resumed.optimizer, detector, saved)
        assert resumed(batch, 1e-3).finite
        tensors = optimizer_tensors(resumed.optimizer, detector)
        assert {tensor.device for tensor in tensors.values()} == {DEVICE}
        assert {tensor.item() for name, tensor in tensors.items() if name.endswith("/step")} == {2.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_the_cpus(family: str) -> None:
    losses = []
    for device, place in PLACES.items():
        with place():
            detector, compute = small(family).eval(), choose_compute(device, "fp32")
            compute.place(detector)
            step = OptimizerStep(detector, detector, Recipe(steps=1), compute, ALONE)
            losses.append(step.gradient([noise(detector, device)]))
    assert losses[1].by_name == pytest.approx(losses[0].by_name, rel=1e-5)
    assert losses[1].positives == losses[0].positives > 10
    assert losses[1].gradient_norm == pytest.approx(losses[0].gradient_norm, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_formats_train_every_family(family: str, precision: Any) -> None:
    with Gpu():
        detector, compute = small(family), choose_compute(str(DEVICE), precision)
        compute.place(detector)
        recipe = Recipe(
            steps=1, optimizer="sgd" if precision == "fp16" else "adamw", learning_rate=1e-3, gradient_clip=5.0
        )
        train_mode(detector)
        step = OptimizerStep(detector, detector, recipe, compute, ALONE)
        batch = noise(detector, str(DEVICE))
        before = [parameter.detach().clone() for parameter in detector.parameters()]
        losses = [step(batch, 1e-3) for _ in range(6)]
        assert losses[-1].finite  # a scale that was too large is halved until then
        changed = [not torch.equal(one, other) for one, other in zip(before, detector.parameters(), strict=True)]
        assert sum(changed) > 0.7 * len(changed)  # a level without a positive learns nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_what_it_finds_on_the_cpu(family: str) -> None:
    detector = small(family)
    images = [draw_image(np.random.default_rng(seed), 200).image for seed in range(2)]
    papers = detector.evaluation_selection
    for selection in (papers, papers.changed(nms="soft-gaussian"), papers.changed(class_agnostic=True)):
        images = images if selection is papers else images[:1]
        selection = replace(selection, score_threshold=0.2)
        found = {}
        for device, place in PLACES.items():
            with place():
                found[device] = Predictor(detector, NAMES, selection, device=device, precision="fp32")(images)
                detector.to("cpu")
        for one, expected in zip(*found.values(), strict=True):
            assert len(expected) > 5
            assert one.labels.tolist() == expected.labels.tolist()
            torch.testing.assert_close(one.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("accumulate", "tried"),
    [
        (1, "4 images at a time; go on with --resume and --accumulate 2 (2 at a time, the same steps), or begin with "),
        (2, "2 images at a time; free memory and go on with --resume, or train a smaller detector"),
    ],
)
def test_memory_that_ran_out_is_one_line_with_what_was_tried_and_what_would_fit(
    data: Path, tmp_path: Path, accumulate: int, tried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the manual.")

    monkeypatch.setattr(OptimizerStep, "losses", too_much)
    with pytest.raises(UserError) as error:
        onestage.train(
            data,
            detector="ssd300-test_efficientnet",
            backbone_weights="none",
            settings={"batch_size": 4, "accumulate": accumulate, "workers": 0},
            steps=2,
            out=tmp_path / "run",
            device="cpu",
            display=quiet(),
        )
    line = str(error.value)
    assert line.startswith(f"memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.); tried with {tried}")
    assert "\n" not in line


def test_batch_norms_that_see_all_ranks_stay_there_and_change_no_detection() -> None:
    with Gpu():
        detector = small("ssd").to(DEVICE)
        images = noise(detector, str(DEVICE)).images
        with torch.no_grad():
            expected = detector.eval()(images).class_logits.cpu()
            train_mode(detector)
            synchronise_batch_norms(detector, on_gpus=True)
            found = detector.eval()(images).class_logits.cpu()
        replaced = sum(isinstance(module, torch.nn.SyncBatchNorm) for module in detector.modules())
        devices = {tensor.device for tensor in detector.state_dict().values()}
    assert devices == {DEVICE}
    assert replaced > 10
    assert torch.equal(found, expected)


def test_a_step_is_saved_and_replayed(tmp_path: Path) -> None:
    file = tmp_path / "step.safetensors"
    with Gpu():
        diagnosis, saved = write_small_step(file, small_step(device=str(DEVICE)), small_batch().to(DEVICE))
        assert saved
        result = onestage.replay(file, device=str(DEVICE), display=quiet())
    assert result.replayed == diagnosis.losses
    skipped = read_skipped_step(file)  # what came from the device was there when it was written
    assert torch.equal(torch.cat([part.images for part in skipped.parts]), small_batch().images)
    boxes = [one.boxes_xyxy for part in skipped.parts for one in part.targets]
    assert torch.equal(torch.cat(boxes), torch.cat([one.boxes_xyxy for one in small_batch().targets]))


def test_a_batch_size_is_found_by_trial() -> None:
    with Gpu():
        detector, compute = small("ssd"), choose_compute(str(DEVICE), "bf16")
        recipe = Recipe(steps=4, batch_size=2)
        found = find_batch_size(detector, compute, recipe=recipe, limit=4, say=lambda line: None)
    assert (found.batch_size, found.accumulate) == (2, 1)


def test_a_model_that_lies_there_is_saved_and_found_again(tmp_path: Path) -> None:
    detector = small("ssd")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with Gpu():
        save_model(tmp_path / "model.safetensors", detector.to(DEVICE), NAMES)
        predictor = onestage.load(tmp_path / "model.safetensors", device=str(DEVICE))
    assert isinstance(predictor, Predictor)
    assert predictor.compute.device == DEVICE
    assert all(torch.equal(tensor, read_tensors(tmp_path / "model.safetensors")[0][n]) for n, tensor in before.items())


def test_a_model_that_lies_there_is_exported_and_stays_there(tmp_path: Path) -> None:
    detector = small("ssd").eval()
    image = draw_image(np.random.default_rng(0), 200).image
    selection = detector.evaluation_selection.changed(score_threshold=0.2)
    expected = Predictor(detector, NAMES, selection, device="cpu", precision="fp32")(image)
    with Gpu():
        detector.to(DEVICE)
        with unchecked():
            write_onnx(ModelToExport(detector, NAMES, selection, origin={}), tmp_path / "model.onnx")
        assert {parameter.device for parameter in detector.parameters()} == {DEVICE}
    found = onestage.load(tmp_path / "model.onnx", device="cpu", selection=selection)(image)
    assert found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-2)


class OfAnyThread(Predictor):
    """The server's threads are others than the test's; each enters the pretended GPU by itself."""

    def detect_resized(self, images_rgb: Any) -> list[Detections]:
        with Gpu():
            return super().detect_resized(images_rgb)


def test_a_server_answers_from_there() -> None:
    with Gpu():
        predictor = OfAnyThread(RedBoxDetector(), Categories.from_names(["blue", "red"]), device=str(DEVICE))
    with running(create_app(predictor)) as port:
        answer = ask(port, "/v1/detect", red_png((10, 20, 60, 80)))
    assert answer.json[0]["detections"][0]["box_xyxy"] == [10.0, 20.0, 60.0, 80.0]
