"""The file of a skipped step: what is in it, how many are kept, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from process_threads import Threads
from skipped_steps import NAME, small_batch, small_step, write_small_step
from small_model import write_small_model
from torch import Tensor

from onestage.errors import UserError
from onestage.models.model_file import read_tensors, write_tensors
from onestage.structures import Batch
from onestage.training.processes import World
from onestage.training.recipe import Recipe
from onestage.training.skipped_step import Diagnosis, StepPosition, read_skipped_step

RECIPE = Recipe(detector=NAME, steps=1, accumulate=2, momentum=0.75)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diagnosis]:
    path = tmp_path_factory.mktemp("run") / "replay/step-00000012.safetensors"
    diagnosis, there = write_small_step(path, small_step(RECIPE), small_batch(5))
    assert there
    return path, diagnosis


def test_all_of_the_step_is_read_back(written: tuple[Path, Diagnosis]) -> None:
    path, diagnosis = written
    skipped = read_skipped_step(path)
    step, batch = small_step(RECIPE), small_batch(5)
    assert skipped.recipe == RECIPE
    assert skipped.losses == diagnosis.losses
    assert skipped.names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert skipped.position == StepPosition(number=12, steps_taken=9, learning_rate=0.25)
    assert (skipped.precision, skipped.device) == ("fp32", "cpu")
    assert [len(part.images) for part in skipped.parts] == [2, 3]
    assert torch.equal(torch.cat([part.images for part in skipped.parts]), batch.images)
    assert all(part.images.is_contiguous(memory_format=torch.channels_last) for part in skipped.parts)
    targets = [one for part in skipped.parts for one in part.targets]
    for one, expected in zip(targets, batch.targets, strict=True):
        assert torch.equal(one.boxes_xyxy, expected.boxes_xyxy)
        assert torch.equal(one.labels, expected.labels)
        assert torch.equal(one.ignored, expected.ignored)
    weights = skipped.detector.state_dict()
    for name, tensor in step.detector.state_dict().items():
        assert torch.equal(weights[name], tensor), name


def test_a_run_keeps_the_files_of_three_steps(tmp_path: Path) -> None:
    step, batch = small_step(), small_batch(2)
    there = [write_small_step(tmp_path / f"step-{number}.safetensors", step, batch)[1] for number in range(5)]
    assert there == [True, True, True, False, False]
    assert write_small_step(tmp_path / "step-1.safetensors", step, batch)[1]  # it was there: a run that was resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{number}.safetensors" for number in range(3)]


def test_a_file_that_can_not_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("a file where the folder would be")
    assert not write_small_step(tmp_path / "replay/step-1.safetensors", small_step(), small_batch(2))[1]


def test_the_images_of_all_processes_are_in_it_as_one_process_would_take_them(tmp_path: Path) -> None:
    whole = small_batch(5)

    def work(world: World) -> bool:
        rows = [0, 2, 4] if world.is_main else [1, 3]
        own = Batch(whole.images[rows], [whole.targets[row] for row in rows], torch.tensor(rows))
        return write_small_step(tmp_path / "step-1.safetensors", small_step(RECIPE, world=world), own)[1]

    assert Threads.run(work) == [True, True]
    skipped = read_skipped_step(tmp_path / "step-1.safetensors")
    assert skipped.names == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "3.jpg"]
    order = [0, 1, 2, 4, 3]
    assert [len(part.images) for part in skipped.parts] == [2, 3]
    assert torch.equal(torch.cat([part.images for part in skipped.parts]), whole.images[order])
    counts = [len(one.labels) for part in skipped.parts for one in part.targets]
    assert counts == [2, 0, 2, 2, 0]


Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def without_recipe(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    del header["recipe"]


def with_a_label_too_many(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["labels"] = tensors["labels"] + 2


def with_boxes_missing(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["boxes_xyxy"] = tensors["boxes_xyxy"][:-1]


def with_other_images(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["images"] = tensors["images"].float()


def with_gray_images(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["images"] = tensors["images"][:, :1]


def without_images(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    del tensors["images"]


def without_a_part(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    del header["parts"][1]


def with_an_empty_part(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["parts"].append(0)


def with_a_larger_network(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["config"]["num_classes"] = 1_000_000_000


def in_an_unknown_precision(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["precision"] = "fp4"


CHANGES: list[Change] = [
    without_recipe,
    with_a_label_too_many,
    with_boxes_missing,
    with_other_images,
    with_gray_images,
    without_images,
    without_a_part,
    with_an_empty_part,
    with_a_larger_network,
    in_an_unknown_precision,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_is_refused_in_one_line(
    written: tuple[Path, Diagnosis], tmp_path: Path, change: Change
) -> None:
    tensors, header = read_tensors(written[0])
    change(tensors, header)
    write_tensors(tmp_path / "changed.safetensors", tensors, header)
    with pytest.raises(UserError, match=r"changed\.safetensors: not a step for replay \(\w+\); those are in") as raised:
        read_skipped_step(tmp_path / "changed.safetensors")
    assert "\n" not in str(raised.value)


def test_other_files_and_damaged_ones_are_refused(written: tuple[Path, Diagnosis], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors: not a step for replay"):
        read_skipped_step(write_small_model(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        read_skipped_step(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("step 12: loss nan\n")
    with pytest.raises(UserError, match="text: not a safetensors file"):
        read_skipped_step(tmp_path / "text")
    whole = written[0].read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut: damaged"):
        read_skipped_step(tmp_path / "cut")
    (tmp_path / "flipped").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(UserError, match="flipped: damaged, it does not have the SHA-256"):
        read_skipped_step(tmp_path / "flipped")
