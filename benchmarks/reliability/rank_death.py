"""Case `rank-death`: one process of several is killed or stopped in mid-run, with the real times of the heartbeat.

python benchmarks/reliability/rank_death.py --trials 4

torchrun starts two processes with two loader workers each, on a small drawn data set. One is killed (SIGKILL) or
stopped (SIGSTOP) at a random moment of the training. Noticed is when something names it; then torchrun starts them all
again. The run must end with the weights of one that was left alone, and no process of it may be left.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from onestage.data.generated import write_generated_voc
from onestage.models.model_file import read_tensors

DETECTOR = ("--detector", "retinanet-test_efficientnet", "--image-size", "96", "--backbone-weights", "none")
NAMED = ("has given no sign of life", "failed (exitcode: -9)")  # by the heartbeat, by torchrun
GRACE_S = 10.0  # loader workers look every few seconds whether their process is there


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    trials: int = 4
    """Kill and stop in turn, process 1 and process 0 in turn."""
    steps: int = 60
    seed: int = 0


class Run:
    """A torchrun in the background, whose lines are kept with their times."""

    def __init__(self, data: Path, out: Path, steps: int) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
        command = [sys.executable, *launcher, "-m", "onestage", "train", str(data), "--out", str(out), *DETECTOR]
        command += ["--batch-size", "3", "--workers", "2", "--steps", str(steps), "--evaluations", "2"]
        command += ["--save-minutes", "0.02", "--ema-decay", "0.9"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[tuple[float, str]] = []
        self.family: dict[int, psutil.Process] = {}
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._meet, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line))

    def _meet(self) -> None:
        """Remember every process that belongs to it."""
        while self.process.poll() is None:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(one.pid, one)
            time.sleep(0.2)

    def wait_for(self, texts: tuple[str, ...], after: float = 0.0) -> float:
        """When a line with one of the texts came."""
        while self.process.poll() is None:
            for when, line in list(self.lines):
                if when >= after and any(text in line for text in texts):
                    return when
            time.sleep(0.05)
        raise SystemExit("it ended: " + "".join(line for _, line in self.lines))

    def rank(self, number: int) -> psutil.Process:
        members = psutil.Process(self.process.pid).children()
        return next(one for one in members if one.environ().get("RANK") == str(number))

    def finished(self) -> None:
        if self.process.wait() != 0:
            raise SystemExit(f"exit {self.process.returncode}: " + "".join(line for _, line in self.lines))

    def left_over(self) -> list[psutil.Process]:
        """Its processes that still live a little later."""
        deadline = time.monotonic() + GRACE_S
        while left := [one for one in self.family.values() if one.is_running()]:
            if time.monotonic() > deadline:
                return left
            time.sleep(0.2)
        return []


def digest(run: Path) -> str:
    """Of everything that must be the same: weights, averages, optimizer, and the model file."""
    tensors, _ = read_tensors(run / "checkpoint/training.safetensors")
    digest = hashlib.sha256((run / "model.safetensors").read_bytes())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def main(options: Options) -> None:
    chance, worst, failures = random.Random(options.seed), 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_generated_voc(root / "data", seed=1, train=12, test=4)
        alone = Run(root / "data", root / "alone", options.steps)
        begun = alone.wait_for(("run folder:",))
        alone.finished()
        seconds = time.monotonic() - begun
        expected = digest(root / "alone")
        for number in range(options.trials):
            deed, rank = ("SIGKILL", "SIGSTOP")[number % 2], 1 - number // 2 % 2
            run = Run(root / "data", root / f"trial{number}", options.steps)
            run.wait_for(("run folder:",))
            time.sleep(chance.uniform(0.1, 0.7) * seconds)
            victim, done_at = run.rank(rank), time.monotonic()
            victim.kill() if deed == "SIGKILL" else victim.suspend()
            noticed = run.wait_for(NAMED, after=done_at) - done_at
            resumed = run.wait_for(("resumed at step",), after=done_at) - done_at
            run.finished()
            same, left = digest(root / f"trial{number}") == expected, run.left_over()
            worst, failures = max(worst, noticed), failures + (not same or bool(left))
            print(
                f"{deed} of process {rank}: noticed after {noticed:.1f} s, trains again after {resumed:.1f} s; weights "
                f"{'the same' if same else 'DIFFER'}, {len(left)} processes left over",
                flush=True,
            )
    print(f"{options.trials} trials, {failures} failures, noticed after {worst:.1f} s at the most")


if __name__ == "__main__":
    main(tyro.cli(Options))
