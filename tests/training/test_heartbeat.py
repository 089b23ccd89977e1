"""Ranks that hang are named, and those that wait for them end; here they are threads, with short times."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from onestage.training import heartbeat
from onestage.training.heartbeat import Heartbeat

BEAT_S, MISSED_S = 0.02, 0.4


class HangingStore:
    """A connection to a store; whoever uses it can be made to hang, and the store to be gone."""

    def __init__(self, server: TCPStore) -> None:
        self._store = server.clone()
        self._free = threading.Event()
        self._free.set()
        self._lost = False
        self.set, self.get, self.set_timeout = self._store.set, self._store.get, self._store.set_timeout

    def hang(self) -> None:
        self._free.clear()

    def go_on(self) -> None:
        self._free.set()

    def lose(self) -> None:
        self._lost = True

    def add(self, key: str, amount: int, /) -> int:
        assert self._free.wait(30)
        if self._lost:
            raise RuntimeError("Connection reset by peer")
        return self._store.add(key, amount)


class Machine:
    """Records exits and signals instead of doing them; a process that exits does nothing more until `over`."""

    def __init__(self) -> None:
        self.exits: list[int] = []
        self.signals: list[tuple[int, int]] = []
        self.over = threading.Event()

    def exit(self, code: int) -> None:
        self.exits.append(code)
        assert self.over.wait(30)

    def kill(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(heartbeat, "BEAT_S", BEAT_S)
    monkeypatch.setattr(heartbeat, "MISSED_S", MISSED_S)
    fake = SimpleNamespace(_exit=machine.exit, kill=machine.kill, getpid=os.getpid)
    monkeypatch.setattr(heartbeat, "os", fake)
    return machine


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def wait_for(happened: Sequence[object], count: int = 1) -> float:
    """Wait until so many things are in a list; the seconds that it took."""
    begun = time.monotonic()
    while len(happened) < count and time.monotonic() - begun < 20:
        time.sleep(BEAT_S)
    return time.monotonic() - begun


def test_a_rank_that_hangs_is_named_and_the_one_that_waits_for_it_ends(
    server: TCPStore, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = [HangingStore(server) for _ in range(2)]
    waits, hangs = (Heartbeat(store, rank, 2) for rank, store in enumerate(stores))
    time.sleep(5 * BEAT_S)
    stores[1].hang()
    seconds = wait_for(machine.exits)
    assert machine.exits == [1]
    assert seconds >= MISSED_S - 2 * BEAT_S
    assert capsys.readouterr().err == (
        f"onestage: rank 1 of the run (pid {os.getpid()} on {socket.gethostname()}) has given no sign of life for "
        "0 s; ending, so that torchrun can start them again (--max-restarts) from the last checkpoint\n"
    )
    stores[1].go_on()
    machine.over.set()
    hangs.stop()
    waits.stop()


def test_ranks_that_beat_or_are_done_are_not_missed(server: TCPStore, machine: Machine) -> None:
    beats, done, alone = (Heartbeat(HangingStore(server), rank, 3) for rank in range(3))
    time.sleep(MISSED_S)
    done.stop()
    alone.stop()
    time.sleep(3 * MISSED_S)
    beats.stop()
    assert machine.exits == []
    assert machine.signals == []


def test_a_rank_that_was_stopped_for_long_and_goes_on_has_missed_nobody(server: TCPStore, machine: Machine) -> None:
    stores = [HangingStore(server) for _ in range(2)]
    both = [Heartbeat(store, rank, 2) for rank, store in enumerate(stores)]
    time.sleep(5 * BEAT_S)
    for store in stores:  # as by a machine that sleeps
        store.hang()
    time.sleep(3 * MISSED_S)
    for store in stores:
        store.go_on()
    time.sleep(MISSED_S / 2)
    for one in both:
        one.stop()
    assert machine.exits == []


def test_without_its_launcher_a_rank_saves_and_stops_as_by_a_signal(
    server: TCPStore, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeat, "MISSED_S", 30.0)  # for saving
    stores = [HangingStore(server) for _ in range(2)]
    both = [Heartbeat(store, rank, 2, launcher_has_store=True) for rank, store in enumerate(stores)]
    for store in stores:
        store.lose()
    wait_for(machine.signals, 2)
    for one in both:
        one.stop()
    assert machine.signals == [(os.getpid(), signal.SIGTERM)] * 2
    assert machine.exits == []
    assert capsys.readouterr().err == "onestage: torchrun is gone; saving and stopping\n"


def test_without_its_launcher_a_rank_that_cannot_stop_ends(server: TCPStore, machine: Machine) -> None:
    store = HangingStore(server)
    first = Heartbeat(store, 0, 1, launcher_has_store=True)
    store.lose()
    wait_for(machine.exits)
    assert machine.exits == [1]
    machine.over.set()
    first.stop()


def test_a_store_in_another_rank_may_go_with_it(server: TCPStore, machine: Machine) -> None:
    store = HangingStore(server)
    first = Heartbeat(store, 1, 2)
    store.lose()
    time.sleep(5 * BEAT_S)
    first.stop()
    assert machine.signals == []
    assert machine.exits == []
