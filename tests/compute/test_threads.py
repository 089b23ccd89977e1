import os

import pytest

from onestage.compute.threads import loader_workers, reading_threads
from onestage.runtime.threads import cpu_cores, cpu_threads


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The cores that this process may use, of a machine with a hundred; to be changed."""
    cores = {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 100)
    return cores


def test_a_container_has_fewer_cores_than_its_machine(cores: set[int]) -> None:
    assert cpu_cores() == 2


def test_where_the_system_does_not_say_which_cores_are_usable_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu_cores() == 6


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("", 2), ("0", 2), ("many", 2)])
def test_a_network_has_as_many_threads_as_are_asked_for_or_one_a_core(
    asked: str, expected: int, cores: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cpu_threads() == expected


@pytest.mark.parametrize(
    ("count", "ranks", "expected"), [(2, 1, 0), (4, 1, 0), (16, 1, 8), (64, 1, 8), (64, 8, 4), (16, 4, 0)]
)
def test_the_loader_workers_of_the_ranks_on_one_machine_share_its_cores(
    count: int, ranks: int, expected: int, cores: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    cores.update(range(count))
    assert loader_workers(ranks) == expected


def test_files_are_read_by_a_few_threads(cores: set[int]) -> None:
    assert reading_threads() == 2
    assert reading_threads(per_core=2, most=8) == 4
    cores.update(range(64))
    assert reading_threads() == 4
    assert reading_threads(per_core=2, most=8) == 8
