"""Several processes that train together: forked from a server that has imported the package, or started by torchrun.

Run by torchrun, this file is the command line with something that goes wrong, once:

    torchrun ... tests/many_processes.py TROUBLE FOLDER train ...
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

TIMEOUT_S = 120.0
DEATH_AT_STEP, DAMAGE_AT_STEP = 30, 2


def results_of(function: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """What a function gives in each of so many processes that `joined_processes` joins; tensors, numbers, texts.

    None for a process that ended before its function did.
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


PRELOADED = ("lives", "onestage.jobs.train", "onestage.evaluation", "onestage.detectors.ssd", "accelerate", "pytest")


def _member(pipe: Connection, rank: int, count: int, port: int, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
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


@dataclass(frozen=True)
class Ended:
    """What torchrun's processes printed, and its exit code."""

    code: int
    out: str
    errors: str

    @property
    def lines(self) -> list[str]:
        """Of the package's processes: torchrun's own reports and tracebacks left out."""
        return [line for line in self.out.splitlines() if line] + [
            line for line in self.errors.splitlines() if line.startswith(("onestage:", "stopped"))
        ]


class Torchrun:
    """A torchrun in the background. With `with`: nothing of it outlives that."""

    def __init__(self, arguments: Sequence[str], *, processes: int = 2, restarts: int = 0) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.process = subprocess.Popen(
            [sys.executable, *launcher, f"--max-restarts={restarts}", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Torchrun:
        return self

    def end(self) -> Ended:
        """Wait for it."""
        out, errors = self.process.communicate(timeout=TIMEOUT_S)
        return Ended(self.process.returncode, out, errors)

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for one in family:
            one.kill()
        self.process.communicate()


def _command_line(trouble: str, folder: Path, arguments: list[str]) -> None:
    from unittest import mock

    from onestage.cli import main
    from onestage.training.trainer import Trainer

    step, rank = Trainer.step, os.environ["RANK"]

    def troubled_step(trainer: Trainer, *arguments: Any) -> Any:
        at, once = trainer.position.step, folder / f"{trouble}-{rank}"
        if trouble == "die" and rank == "1" and at == DEATH_AT_STEP and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, *arguments)

    with mock.patch.object(Trainer, "step", troubled_step):
        main(arguments)


if __name__ == "__main__":
    _command_line(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
