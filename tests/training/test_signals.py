from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from onestage.training import signals
from onestage.training.signals import stop_signals

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_collected_and_ends_nothing(number: signal.Signals) -> None:
    with stop_signals() as received:
        assert not received
        signal.raise_signal(number)
        assert len(received) == 1


@pytest.mark.parametrize("second", BOTH)
def test_the_second_signal_interrupts_at_once(second: signal.Signals) -> None:
    with stop_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_under_torchrun_one_press_may_come_twice_and_the_next_press_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with stop_signals() as received:
        signal.raise_signal(signal.SIGINT)
        clock.now = 100.9
        signal.raise_signal(signal.SIGINT)
        assert len(received) == 2
        clock.now = 101.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_signals_are_handled_as_before_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in BOTH] == before
    with pytest.raises(ValueError, match="in the run"), stop_signals():
        raise ValueError("in the run")
    assert [signal.getsignal(number) for number in BOTH] == before


def test_in_another_thread_signals_stay_with_the_main_one() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with stop_signals() as received:
            seen.extend([list(received), signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [[], before]


def test_a_terminal_that_closes_ends_the_run_once_however_often_it_is_said(tmp_path: Path) -> None:
    program = """
import signal, sys
from onestage.training.signals import stop_signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests themselves run under nohup
with stop_signals() as received:
    print("begun", flush=True)
    for _ in range(2):  # the kernel tells it, and the shell again
        signal.raise_signal(signal.SIGHUP)
        print("lost", flush=True)
    print(len(received), file=sys.stderr)
"""
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=log, timeout=60)
    assert run.returncode == 0
    assert run.stdout == b"begun\n"  # a pipe, as into tee, which the signal ends too
    assert (tmp_path / "log").read_bytes() == b"2\n"


def test_a_closing_terminal_is_passed_over_where_nohup_says_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)
