"""The processes and the thread behind the training loop: how they are started, killed, stopped and waited for."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from data.test_loader import a_table, assert_same, train
from torch.utils.data import Dataset, _utils

from onestage.data import loader_workers
from onestage.data.loader import evaluation_loader, training_loader
from onestage.data.loader_workers import by_processes, by_thread, closing_quietly, readable_worker_errors
from onestage.data.table import Table
from onestage.errors import PassingError, UserError
from onestage.input_size import Stretch


def open_loader(table: Table, **settings):
    return training_loader(table, resize=Stretch(32), augmentation=None, batch_size=3, seed=5, **settings)


def worker_pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of seconds instead of seconds."""
    monkeypatch.setattr(loader_workers, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(loader_workers, "WARN_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # how long PyTorch waits for a worker to end


# --- started


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_the_way_that_workers_start_does_not_change_a_batch(tmp_path: Path, start_method: Any) -> None:
    table = a_table(tmp_path)
    assert_same(train(table, 5, workers=0), train(table, 5, workers=2, start_method=start_method))
    setting = {"resize": Stretch(32), "batch_size": 3}
    evaluated = evaluation_loader(table, **setting, workers=1, start_method=start_method)
    assert_same(list(evaluation_loader(table, **setting)), list(evaluated))


def test_a_loader_takes_no_number_from_the_generator_that_others_draw_from(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(a_table(tmp_path), 1, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


# --- killed

# PyTorch raises from a signal's handler, so also in the middle of opening a file, which the collector then closes.
UNCLOSED = "ignore::pytest.PytestUnraisableExceptionWarning"


@pytest.fixture
def collected() -> Iterator[None]:
    """Files that an error left open are closed in the test that they belong to."""
    yield
    gc.collect()


@pytest.mark.filterwarnings(UNCLOSED)
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_that_is_killed_ends_the_loop_in_one_line_and_leaves_no_process(
    tmp_path: Path, start_method: Any
) -> None:
    loader = open_loader(a_table(tmp_path), workers=2, start_method=start_method)
    next(loader)
    killed = worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(UserError) as caught, readable_worker_errors():
        for _ in loader:
            pass
    assert time.monotonic() - begun < 30
    assert str(caught.value) == (
        f"a loader worker (process {killed}) was killed by SIGKILL, perhaps because memory ran out; run it again "
        "(training with --resume), with fewer --workers"
    )
    loader.close()
    assert worker_pids() == []


@pytest.mark.filterwarnings(UNCLOSED)
@pytest.mark.usefixtures("collected")
def test_a_worker_that_is_killed_during_a_training_step_gives_the_same_message(tmp_path: Path) -> None:
    loader = open_loader(a_table(tmp_path), workers=2)
    next(loader)
    killed = worker_pids()[1]

    def step() -> None:
        os.kill(killed, signal.SIGUSR1)
        for _ in range(3000):
            time.sleep(0.01)

    with pytest.raises(UserError, match=rf"process {killed}\) was killed by SIGUSR1;"), readable_worker_errors():
        step()
    loader.close()
    assert worker_pids() == []


@pytest.mark.filterwarnings(UNCLOSED)
@pytest.mark.usefixtures("collected")
def test_a_worker_that_is_killed_is_noticed_by_a_loop_outside_of_the_main_thread(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    table = a_table(tmp_path)

    def loop() -> None:
        loader = open_loader(table, workers=1)
        try:
            next(loader)
            for process in multiprocessing.active_children():
                process.kill()
            for _ in loader:
                pass
        except BaseException as error:
            errors.append(error)
        loader.close()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        thread.join(60)
    except RuntimeError:  # where an earlier test had PyTorch set its handler, this is where it raises
        thread.join(60)
    assert [type(error) for error in errors] == [PassingError]
    assert worker_pids() == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (  # torch/csrc/DataLoader.cpp
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "a loader worker (process 12) was killed by SIGBUS, perhaps because /dev/shm is full; run it again",
        ),
        (
            "DataLoader worker (pid 12) is killed by signal: Segmentation fault. ",
            "a loader worker (process 12) was killed by SIGSEGV; run it again",
        ),
        (
            "DataLoader worker (pid 12) exited unexpectedly with exit code 3. Details are lost due to multiprocessing. "
            "Rerunning with num_workers=0 may give better error trace.",
            "a loader worker (process 12) ended with exit code 3; run it again",
        ),
        (  # torch/utils/data/dataloader.py
            "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
            "a loader worker (process 12, 13) ended before its work was done, perhaps because memory ran out; run it",
        ),
    ],
)
def test_pytorchs_message_about_a_dead_worker_becomes_one_line(message: str, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(expected)}") as caught, readable_worker_errors():
        raise RuntimeError(message)
    assert "\n" not in str(caught.value)


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), readable_worker_errors():
        raise RuntimeError("size mismatch")


class Unsendable(Dataset[Any]):
    """Its items fail where PyTorch puts a batch into shared memory that is full: on the way to another process."""

    def __getitem__(self, key: object) -> Unsendable:
        return self

    def __reduce__(self) -> str:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


@pytest.mark.filterwarnings(UNCLOSED)
@pytest.mark.usefixtures("collected")
def test_small_shared_memory_ends_the_loop_in_one_line_instead_of_a_wait_for_ever() -> None:
    loader = by_processes(Unsendable(), [0], 1, pin_memory=False, start_method="fork", warn=None)
    message = r"^a loader worker \(process \d+\) has no shared memory for a batch; run it again .* with --workers 0, or"
    with pytest.raises(UserError, match=message), readable_worker_errors():
        next(loader)
    assert worker_pids() == []


@pytest.mark.filterwarnings(UNCLOSED)
def test_small_shared_memory_for_the_locks_of_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(loader: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loader_workers.DataLoader, "__iter__", full)
    loader = by_processes(Unsendable(), [0], 2, pin_memory=False, start_method="fork", warn=None)
    with pytest.raises(UserError, match=r"--workers 2: can't be started \(No space left on device\); run it again"):
        next(loader)


# --- stopped


@pytest.mark.usefixtures("impatient")
def test_a_stopped_worker_is_named_and_the_loop_goes_on_when_it_does(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    warnings: list[str] = []
    stopped: list[int] = []

    def warn(warning: str) -> None:
        warnings.append(warning)
        os.kill(stopped[0], signal.SIGCONT)

    loader = open_loader(table, workers=2, warn=warn)
    batches = [next(loader)]
    stopped.append(min(worker_pids()))
    os.kill(stopped[0], signal.SIGSTOP)
    batches += islice(loader, 15)  # more than lie ready
    loader.close()
    assert len(warnings) == 1
    assert re.match(rf"no batch for \d+ s: waiting for loader worker {stopped[0]} \(stopped\)", warnings[0])
    assert_same(batches, train(table, 16, augmentation=None))


@pytest.mark.usefixtures("impatient")
def test_a_stopped_worker_does_not_outlive_its_loader(tmp_path: Path) -> None:
    loader = open_loader(a_table(tmp_path), workers=2)
    next(loader)
    stopped = psutil.Process(worker_pids()[0])
    stopped.suspend()
    loader.close()
    assert worker_pids() == []
    assert not stopped.is_running()


@pytest.mark.usefixtures("impatient")
def test_an_image_that_hangs_is_reported_by_the_reading_thread_too() -> None:
    there = threading.Event()
    warnings: list[str] = []

    class Hanging(Dataset[str]):
        def __getitem__(self, key: str) -> str:
            assert there.wait(30)
            return key.upper()

    def warn(warning: str) -> None:
        warnings.append(warning)
        there.set()

    assert list(by_thread(Hanging(), ["a", "b"], warn=warn)) == ["A", "B"]
    assert len(warnings) == 1
    assert "waiting for the thread that reads images" in warnings[0]


def test_a_warning_comes_after_30_seconds_of_waiting_and_again_every_3_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(loader_workers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    warned_at: list[float] = []
    patience = loader_workers._Patience(lambda _: warned_at.append(now[0]), lambda: "nobody")

    def pass_by(seconds: int) -> None:
        for _ in range(seconds // 5):
            now[0] += 5
            patience.look()

    patience.wait_for(lambda: pass_by(25))
    pass_by(400)  # the network's own time does not count
    assert warned_at == []
    patience.wait_for(lambda: pass_by(400))  # from 1425 on
    assert warned_at == [1455, 1635, 1815]


def test_a_worker_that_is_aborted_when_it_is_told_to_end_is_no_error() -> None:
    """PyTorch's words; a worker under "spawn" was seen to end so."""

    def batches(words: str) -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            raise RuntimeError(words)

    with closing_quietly(one := batches("DataLoader worker (pid 3371) is killed by signal: Aborted. ")):
        assert next(one) == 1
    other = batches("cannot schedule new futures")
    with pytest.raises(RuntimeError, match="new futures"), closing_quietly(other):
        next(other)
