"""The case two-runs: one run a folder."""

from __future__ import annotations

import os
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from lives import FORKS, outcome

from onestage.errors import UserError
from onestage.training.run_lock import sole_run


def start(folder: Path, go: Event, end: Event, said: SimpleQueue[tuple[int, str]]) -> None:
    go.wait()
    try:
        with sole_run(folder):
            said.put((os.getpid(), "runs"))
            end.wait()
    except UserError as error:
        said.put((os.getpid(), str(error)))


def test_two_runs_of_fifty_starts_at_once_exactly_one_runs_and_the_rest_say_who_holds_it(tmp_path: Path) -> None:
    go, end, said = FORKS.Event(), FORKS.Event(), FORKS.SimpleQueue()
    processes = [FORKS.Process(target=start, args=(tmp_path / "run", go, end, said)) for _ in range(50)]
    for process in processes:
        process.start()
    go.set()
    answers = [said.get() for _ in processes]
    end.set()
    for process in processes:
        process.join(timeout=60)
    (holder,) = [pid for pid, text in answers if text == "runs"]
    refused = [text for _, text in answers if text != "runs"]
    assert len(refused) == 49
    assert all(f"{tmp_path / 'run'}: " in text and " trains into it; " in text for text in refused)
    named = [text for text in refused if f"process {holder} on " in text]
    unnamed = [text for text in refused if "another process trains" in text]  # as long as it has not said its name
    assert len(named) + len(unnamed) == 49


def hold(folder: Path) -> None:
    with sole_run(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_killed_run_gives_its_folder_free(tmp_path: Path) -> None:
    process = FORKS.Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=f"process {process.pid} on .* trains into it"), sole_run(tmp_path):
        pass
    process.kill()
    process.join()
    with sole_run(tmp_path):
        pass


def take(folder: Path) -> None:
    with sole_run(folder):
        pass


def test_one_run_after_the_other_is_fine(tmp_path: Path) -> None:
    assert outcome(take, tmp_path) == 0
    assert outcome(take, tmp_path) == 0
