"""Processes that are killed at a chosen moment, and file operations that fail at one.

Children are forked from a server process that has imported the package once. A moment is the number of an event: a
training step, or one of the file operations of a save, the middle of a write included.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lives", "onestage.jobs.train", "onestage.evaluation", "onestage.detectors.ssd"])

OPERATIONS = ("os.fsync", "os.open", "os.mkdir", "os.replace", "os.rename", "os.unlink", "pathlib.Path.open")


def outcome(function: Callable[..., None], *arguments: Any, moment: int | None = None) -> int:
    """The exit code of a process that calls a function; -9 if it was killed at the moment that is given."""
    process = FORKS.Process(target=_live, args=(function, arguments, moment))
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _live(function: Callable[..., None], arguments: tuple[Any, ...], moment: int | None) -> None:
    if moment is None:
        function(*arguments)
        return

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with at_event(moment, die):
        function(*arguments)


@contextmanager
def at_event(moment: int, happen: Callable[[], None]) -> Iterator[list[str]]:
    """Inside of `with`, call `happen` at an event, counted from 1; gives the list of the events so far."""
    from onestage.models import model_file as checkpoint
    from onestage.training.trainer import Trainer

    events: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            events.append(name)
            if len(events) == moment:
                happen()
            return original(*arguments, **more)

        return call

    def written_in_two(tensors: Any, path: Path, metadata: Any = None) -> None:
        """Save a file; `happen` may come when half of it is written."""
        events.append("half a file")
        if len(events) == moment:
            whole = safetensors.torch.save(tensors, metadata)
            with open(path, "wb", buffering=0) as file:
                file.write(whole[: len(whole) // 2])
            happen()
        safetensors.torch.save_file(tensors, path, metadata)

    patches = [mock.patch(name, counted(name, _named(name))) for name in OPERATIONS]
    patches += [
        mock.patch.object(Trainer, "step", counted("step", Trainer.step)),
        mock.patch.object(checkpoint, "save_file", written_in_two),
    ]
    for patch in patches:
        patch.start()
    try:
        yield events
    finally:
        for patch in patches:
            patch.stop()


def _named(name: str) -> Callable[..., Any]:
    return Path.open if name == "pathlib.Path.open" else getattr(os, name.removeprefix("os."))
