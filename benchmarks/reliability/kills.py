"""Case `kill-step`: runs killed by SIGKILL at random moments and resumed, against the same runs left alone.

python benchmarks/reliability/kills.py --kills 100

Real processes of the command line on a small drawn data set, with 0 and 4 loader workers, with and without averaged
weights, in float32, in bfloat16 and in float16 with its loss scale, which overflows and is lowered on the way. A moment
lies anywhere in a process's life: in its imports, a step, an evaluation, a save.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from onestage.data.generated import write_generated_voc
from onestage.models.model_file import read_tensors

DETECTOR = ("--detector", "retinanet-test_efficientnet", "--image-size", "96", "--backbone-weights", "none")
STEPS, SLOW_STEPS = 60, 24  # CPUs compute float16 slowly
SETTINGS: tuple[tuple[str, ...], ...] = (
    ("--precision", "fp32", "--workers", "0"),
    ("--precision", "bf16", "--workers", "4", "--ema-decay", "0.9"),
    ("--precision", "fp16", "--workers", "0", "--ema-decay", "0.9"),
    ("--precision", "fp32", "--workers", "4", "--ema-decay", "0.9"),
    ("--precision", "bf16", "--workers", "0"),
    ("--precision", "fp32", "--workers", "0", "--ema-decay", "0.9"),
    ("--precision", "fp16", "--workers", "4"),
    ("--precision", "fp32", "--workers", "4"),
)


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    kills: int = 100
    seed: int = 0


def start(data: Path, out: Path, settings: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onestage", "train", str(data), "--out", str(out), *DETECTOR, *settings]
    steps = SLOW_STEPS if "fp16" in settings else STEPS
    command += ["--batch-size", "2", "--steps", str(steps), "--evaluations", "3", "--save-minutes", "0.01"]
    command += ["--resume"] if (out / "recipe.json").exists() else []
    environment = {"OMP_NUM_THREADS": "1", **os.environ}  # steps so small are slowed by threads that wait for others
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finished(process: subprocess.Popen[bytes]) -> float:
    """The seconds that it took; anything but success ends the benchmark."""
    begun = time.monotonic()
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"exit {process.returncode}: {errors.decode()}")
    return time.monotonic() - begun


def digest(run: Path) -> str:
    """Of everything that must be the same: weights, averages, optimizer, loss scale, and the model file."""
    tensors, header = read_tensors(run / "checkpoint/training.safetensors")
    digest = hashlib.sha256((run / "model.safetensors").read_bytes())
    digest.update(json.dumps([header["position"]["step"], header["scaler"]], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def main(options: Options) -> None:
    chance, killed, mismatches, runs = random.Random(options.seed), 0, 0, 0
    of_precision: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_generated_voc(root / "data", seed=1, train=12, test=2)
        alone: dict[tuple[str, ...], tuple[str, float]] = {}
        for number in itertools.count():
            if killed >= options.kills:
                break
            settings, out = SETTINGS[number % len(SETTINGS)], root / f"killed{number}"
            if settings not in alone:
                straight = root / f"straight{number}"
                seconds = finished(start(root / "data", straight, settings))
                alone[settings] = digest(straight), seconds
            expected, seconds = alone[settings]
            while killed < options.kills:
                process = start(root / "data", out, settings)
                try:
                    process.wait(timeout=chance.uniform(0, seconds))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    killed += 1
                    of_precision[settings[1]] += 1
            finished(start(root / "data", out, settings))
            runs, mismatches = runs + 1, mismatches + (digest(out) != expected)
            by_precision = ", ".join(f"{count} in {name}" for name, count in sorted(of_precision.items()))
            print(f"{killed} kills ({by_precision}) in {runs} runs, {mismatches} mismatches", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
