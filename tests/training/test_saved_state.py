"""Checkpoints that survive: the cases kill-write, disk-full, torn, leftover-files, checkpoint-of-another-kind."""

from __future__ import annotations

import errno
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lives import at_event, outcome
from torch import Tensor

from onestage.detectors.base import IMAGENET
from onestage.errors import UserError
from onestage.models.model_file import RunFolder, read_tensors, write_tensors
from onestage.training.saved_state import Header, Position, SplitFacts, check_identity, load_state, save_state
from onestage.whole_file import remove_leftovers

SPLIT = SplitFacts(images=1, objects=2, sha256="ab")


def state(step: int) -> tuple[dict[str, dict[str, Tensor]], Header]:
    weights = torch.full((50,), float(step))
    header = Header({}, ("cat",), SPLIT, SPLIT, SPLIT, Position(step), IMAGENET, scaler={})
    return {"model": {"w": weights}, "average": {}, "optimizer": {"w/momentum": -weights}}, header


def save(root: Path, step: int) -> None:
    save_state(RunFolder(root), *state(step))


def step_of(root: Path) -> int:
    """Of the state that would be gone on from, which must be whole."""
    saved = load_state(RunFolder(root))
    step = saved.header.position.step
    assert torch.equal(saved.parts["model"]["w"], torch.full((50,), float(step)))
    assert torch.equal(saved.parts["optimizer"]["w/momentum"], -saved.parts["model"]["w"])
    return step


def refusal(root: Path, step: int) -> str | None:
    """What a save says that does not succeed."""
    try:
        save(root, step)
    except UserError as error:
        return str(error)
    return None


def test_kill_write_a_checkpoint_can_be_read_whichever_file_operation_was_the_last(tmp_path: Path) -> None:
    survived = []
    for moment in itertools.count(1):
        root = tmp_path / str(moment)
        save(root, 1)
        save(root, 2)
        code = outcome(save, root, 3, moment=moment)
        survived.append(step_of(root))
        save(root, 4)  # what the dead left behind is in nobody's way
        assert step_of(root) == 4
        if code == 0:  # all operations are done
            break
        assert code == -9
    assert len(survived) > 6
    assert survived == sorted(survived)  # 2 up to some operation, 3 from it on
    assert set(survived) == {2, 3}


def test_leftover_files_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with at_event(0, lambda: None) as events:
        save(tmp_path, 2)
    assert outcome(save, tmp_path, 3, moment=events.index("half a file") + 1) == -9
    folder, kept = tmp_path / "checkpoint", {"training.safetensors", "previous.safetensors", ".gitignore"}
    (folder / ".gitignore").touch()
    (folder / ".tmpNqkHoe").touch()  # as safetensors calls its own
    assert len(list(folder.iterdir())) == 5
    remove_leftovers(folder)
    assert {path.name for path in folder.iterdir()} == kept
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_disk_full_leaves_the_old_checkpoint_and_names_the_file_and_the_bytes(tmp_path: Path, number: int) -> None:
    def fail() -> None:
        raise OSError(number, "No space left on device")

    for moment in itertools.count(1):
        root = tmp_path / str(moment)
        save(root, 1)
        with at_event(moment, fail) as events:
            error = refusal(root, 2)
        if error is None:
            assert step_of(root) == 2  # it never came, or it took nothing
        else:
            assert "training.safetensors: can't be written (No space left on device); " in error
            assert " bytes are needed there" in error
            assert step_of(root) in (1, 2)
        save(root, 3)
        assert step_of(root) == 3
        if len(events) < moment:
            break
    assert moment > 6  # as many operations were tried


def test_torn_a_checkpoint_cut_anywhere_is_noticed_and_the_one_before_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = RunFolder(tmp_path).checkpoint
    whole = newest.read_bytes()
    for length in random.Random(0).sample(range(len(whole)), 200):
        newest.write_bytes(whole[:length])
        saved = load_state(RunFolder(tmp_path))
        assert saved.header.position.step == 1, length
        assert saved.warning is not None
        assert "training.safetensors" in saved.warning
        assert "going on from the one before, previous.safetensors" in saved.warning


def test_torn_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = RunFolder(tmp_path).checkpoint
    whole = newest.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 1000):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(spoilt)
        assert load_state(RunFolder(tmp_path)).header.position.step == 1, bit


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},  # a setting that this version does not know
        {"position": {"step": "3"}},
        {"position": {"place": 3}},
        {"data": {"images": 3}},
        {"recipe": None},
        {"categories": "cat"},
    ],
)
def test_checkpoint_of_another_kind_is_noticed_and_the_one_before_is_used(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = RunFolder(tmp_path)
    save(tmp_path, 1)
    save(tmp_path, 2)
    tensors, header = read_tensors(folder.checkpoint)
    write_tensors(folder.checkpoint, tensors, {**header, **change})
    assert step_of(tmp_path) == 1
    warning = load_state(folder).warning
    assert warning is not None
    assert "training.safetensors: no checkpoint of this version" in warning


def test_resume_other_truth_of_any_split_is_refused_with_what_it_was(tmp_path: Path) -> None:
    _, saved = state(1)
    check_identity(RunFolder(tmp_path), saved, replace(saved, position=Position(2)))
    for split, word in {"data": "training", "val": "validation", "test": "test"}.items():
        for other, said in (
            (replace(SPLIT, images=7), "now 7 images, 2 objects"),
            (replace(SPLIT, sha256="ba"), "as many now"),
        ):
            with pytest.raises(UserError, match=rf"its {word} data has changed \(1 images, 2 objects, {said}"):
                check_identity(RunFolder(tmp_path), saved, replace(saved, **{split: other}))


def test_checkpoint_of_another_kind_may_be_a_model_file(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    write_tensors(RunFolder(tmp_path).checkpoint, {"head.weight": torch.zeros(2)}, {"categories": {}, "config": {}})
    assert step_of(tmp_path) == 1


def test_a_whole_checkpoint_is_used_without_a_warning(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert load_state(RunFolder(tmp_path)).warning is None
    save(tmp_path, 2)
    assert load_state(RunFolder(tmp_path)).warning is None
    assert step_of(tmp_path) == 2


def test_none_that_can_be_read_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint can be read .*training\.safetensors.*previous\.safetensors"):
        load_state(RunFolder(tmp_path))
