"""Case `kill-write`, judged by a stranger: ckpt-chaos kills `onestage train` at each file operation of a run.

    pip install ckpt-chaos==0.1.8
    python benchmarks/reliability/checkpoint_chaos.py

ckpt-chaos (MIT, the standard library alone) records what an unchanged command does to the files of its run folder,
kills a copy of it at each of these operations, once more where a file is written with that cut in half, starts the
command again, and compares what comes out with a run that was left alone: weights, averaged weights, optimizer, model
file. Modes besides `before` and `torn`: `term` sends SIGTERM; `unsynced` takes back what Python wrote without an fsync
(not what safetensors writes, whose writing it can't follow).

It can't say whether the newest checkpoint was the one gone on from: for that it needs a step in each file's name. And
it calls most points a drift, since temporary names hold the process's id; whether a process died where it should is
checked here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from kills import digest

from onestage.data.generated import write_generated_voc

SETTINGS = ("--detector", "retinanet-test_efficientnet", "--image-size", "96", "--backbone-weights", "none")
LENGTH = ("--workers", "0", "--batch-size", "2", "--evaluations", "1", "--save-minutes", "0", "--ema-decay", "0.9")


@dataclass(frozen=True)
class Options:
    """What is killed, and how."""

    modes: tuple[str, ...] = ("before", "torn")
    steps: int = 2  # of a run; a checkpoint after each
    most_points: int = 200
    jobs: int = 1  # at a time
    digest: Path | None = None  # print that of a run folder instead; what ckpt-chaos compares


def command(data: Path, options: Options) -> list[str]:
    """`onestage train` as ckpt-chaos takes it, which puts the folder in the place of {out}."""
    train = [sys.executable, "-m", "onestage", "train", str(data), "--out", "{out}"]
    return [*train, *SETTINGS, *LENGTH, "--steps", str(options.steps)]


def judge(root: Path, options: Options) -> str:
    """Let ckpt-chaos work; gives its last line, the number of each verdict."""
    train = command(root / "data", options)
    # as a user goes on: --resume, unless the run died before there was one
    resume = f"{shlex.join(train)} $(test -e {{out}}/recipe.json && echo --resume)".replace("'{out}'", "{out}")
    chaos = [sys.executable, "-m", "ckpt_chaos", "run", "--modes", ",".join(options.modes), "--jobs", str(options.jobs)]
    chaos += ["--max-points", str(options.most_points), "--work", str(root / "work")]
    chaos += ["--resume-cmd", shlex.join(["sh", "-c", resume]), "--step-regex", r"resumed at step (\d+)"]
    chaos += ["--result-cmd", f"{shlex.join([sys.executable, __file__])} --digest {{out}}"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # steps so small are slowed by threads that wait for others
    line = ""
    with subprocess.Popen([*chaos, "--", *train], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            print(text, end="", flush=True)
            line = text.strip() or line
    if process.returncode != 0:
        raise SystemExit(f"ckpt-chaos: exit {process.returncode}")
    return line


def died_as_planned(work: Path) -> tuple[int, int]:
    """How many processes died at the operation that they were to die at, and how many were to."""
    planned = operations(work / "reference")
    points = [json.loads(file.read_text()) for file in sorted(work.glob("pt_[0-9]*/result.json"))]
    right = 0
    for point in points:
        number, _ = point["point"]
        seen = operations(work / f"pt_{point['order']:03d}")
        right += point["crashed"] and seen[:number] == planned[:number]
    return right, len(points)


def operations(folder: Path) -> list[str]:
    """Those that ckpt-chaos recorded, in order, without the process's id."""
    lines = (folder / "events.log.rank0").read_text().splitlines()
    return [re.sub(r"\.\d+$", "", " ".join(line.split("\t")[1:3])) for line in lines]


def main(options: Options) -> None:
    if options.digest is not None:
        print(digest(options.digest))
        return
    if importlib.util.find_spec("ckpt_chaos") is None:
        raise SystemExit("ckpt-chaos is not installed: pip install ckpt-chaos==0.1.8")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_generated_voc(root / "data", seed=1, train=6, test=2)
        verdicts = judge(root, options)
        right, points = died_as_planned(root / "work")
    print(
        f"{points} points ({', '.join(options.modes)}), {right} died as planned; verdicts, control included: {verdicts}"
    )
    if right != points:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
