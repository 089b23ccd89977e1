"""Ranks that train together: forked from a server that has imported the package, or started by torchrun.

Run by torchrun, this file is the command line, but rank 1 is killed once in the middle of the run:

    torchrun ... tests/many_processes.py FOLDER_FOR_A_MARK train ...
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

TIMEOUT_S = 240.0
DEATH_AT_STEP = 18


def results_of(function: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """The results (tensors, numbers, texts) of a function in each of so many ranks that `joined_processes` joins.

    None for a rank that ended before its function did.
    """
    from lives import FORKS

    FORKS.set_forkserver_preload([*PRELOADED])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [FORKS.Pipe(duplex=False) for _ in range(count)]
    processes = [
        FORKS.Process(target=_member, args=(pipe, rank, count, store.port, function, arguments))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    try:
        for process in processes:
            process.start()
        for _, pipe in pipes:
            pipe.close()
        return [_received(pipe) for pipe, _ in pipes]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
            process.join()


PRELOADED = ("lives", "onestage.cli", "onestage.evaluation", "onestage.detectors.ssd", "accelerate", "pytest")


def _member(pipe: Connection, rank: int, count: int, port: int, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # as in the tests themselves
    as_torchrun_says = {
        **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True},
    }
    os.environ.update({name: str(value) for name, value in as_torchrun_says.items()})
    buffer = io.BytesIO()
    torch.save(function(*arguments), buffer)
    pipe.send_bytes(buffer.getvalue())


def _received(pipe: Connection) -> Any:
    assert pipe.poll(TIMEOUT_S), "it hangs"
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=True)
    except EOFError:
        return None


# --- torchrun


class Torchrun:
    """A torchrun in the background, which ends with `with`."""

    def __init__(self, arguments: Sequence[str], folder: Path, *, processes: int = 2, restarts: int = 0) -> None:
        """`folder`: where its output is written."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.files = [folder / "printed.txt", folder / "errors.txt"]
        with self.files[0].open("w") as printed, self.files[1].open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, f"--max-restarts={restarts}", *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=printed,
                stderr=errors,
                start_new_session=True,
            )

    def __enter__(self) -> Torchrun:
        return self

    def wait_for(self, file: Path, text: str) -> None:
        """Wait until its ranks have written a text into a file."""
        deadline = time.monotonic() + TIMEOUT_S
        while not file.exists() or text not in file.read_text():
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.05)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout=TIMEOUT_S)

    @property
    def lines(self) -> list[str]:
        """The lines that its ranks printed, without empty lines and torchrun's own reports."""
        printed, errors = (file.read_text().splitlines() for file in self.files)
        return [line for line in printed if line] + [line for line in errors if not _is_by_torchrun(line)]

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for one in family:
            one.kill()
        self.process.wait()


def _is_by_torchrun(line: str) -> bool:
    """True for its log lines, and for the traceback and table with which it ends if a rank failed."""
    starts = ("W", "E", "Traceback", " ", "torch.distributed.elastic", "=====", "-----", "Failures", "Root Cause", "[")
    return not line or line.startswith(starts) or line.endswith("FAILED")


def _command_line(folder: Path, arguments: list[str]) -> None:
    from unittest import mock

    from onestage.cli import main
    from onestage.training.trainer import Trainer

    step, died = Trainer.step, folder / "died"

    def last_step(trainer: Trainer, *arguments: Any) -> Any:
        if os.environ["RANK"] == "1" and trainer.position.step == DEATH_AT_STEP and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, *arguments)

    with mock.patch.object(Trainer, "step", last_step):
        main(arguments)


if __name__ == "__main__":
    _command_line(Path(sys.argv[1]), sys.argv[2:])
