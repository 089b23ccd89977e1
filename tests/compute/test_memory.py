from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from onestage.compute.memory import (
    container_free,
    keep_freed_memory,
    memory_of,
    out_of_memory,
    readable_memory_errors,
)
from onestage.errors import UserError

MB = 10**6


def cgroup(folder: Path, **files: str | int) -> None:
    """A cgroup's files; `__` in a name is a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def named_by(root: Path, *lines: str) -> Path:
    """The file that says in which cgroups the process is."""
    own = root / "self"
    own.write_text("".join(f"{line}\n" for line in lines))
    return own


# --- limits of containers, by the kernel's documents admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst


def test_the_second_version_counts_from_the_limit_and_gives_back_the_pages_of_files(tmp_path: Path) -> None:
    stat = "anon 350\nfile 150\ninactive_file 100\nactive_file 50"
    cgroup(tmp_path / "user" / "job", memory__max=1000, memory__current=500, memory__stat=stat)
    assert container_free(tmp_path, named_by(tmp_path, "0::/user/job")) == 600  # 1000 - 500 + 100


def test_the_tightest_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    cgroup(tmp_path / "user" / "job", memory__max="max", memory__current=300, memory__stat="inactive_file 0")
    cgroup(tmp_path / "user", memory__max=1000, memory__current=800, memory__stat="inactive_file 50")
    cgroup(tmp_path, memory__max=5000, memory__current=900, memory__stat="inactive_file 0")
    assert container_free(tmp_path, named_by(tmp_path, "0::/user/job")) == 250  # 1000 - 800 + 50


def test_a_container_that_sees_only_its_uppermost_folder_finds_its_limit_there(tmp_path: Path) -> None:
    cgroup(tmp_path, memory__max=1000, memory__current=400, memory__stat="inactive_file 0")
    assert container_free(tmp_path, named_by(tmp_path, "0::/docker/3f2a")) == 600
    assert container_free(tmp_path, named_by(tmp_path, "0::/")) == 600


def test_the_first_version_has_its_own_files_and_a_hierarchy_for_memory(tmp_path: Path) -> None:
    no_limit = 9223372036854771712
    files = {"memory__usage_in_bytes": 200, "memory__stat": "inactive_file 7\ntotal_inactive_file 50"}
    cgroup(tmp_path / "memory" / "docker" / "3f2a", memory__limit_in_bytes=no_limit, **files)
    cgroup(tmp_path / "memory" / "docker", memory__limit_in_bytes=500, **files)
    own = named_by(tmp_path, "5:cpu,cpuacct:/docker/3f2a", "4:memory:/docker/3f2a", "1:name=systemd:/", "0::/")
    assert container_free(tmp_path, own) == 350  # 500 - 200 + 50


def test_without_limits_a_container_is_as_large_as_the_machine(tmp_path: Path) -> None:
    assert container_free(tmp_path, tmp_path / "nothing") == math.inf  # no cgroups: macOS, Windows
    assert container_free(tmp_path, named_by(tmp_path)) == math.inf
    assert container_free(tmp_path, named_by(tmp_path, "0::/user")) == math.inf
    cgroup(tmp_path / "user", memory__max="max", memory__current=300, memory__stat="inactive_file 0")
    assert container_free(tmp_path, named_by(tmp_path, "0::/user")) == math.inf


# --- this machine


def test_the_free_memory_is_some_of_the_machines() -> None:
    assert 0 < memory_of(torch.device("cpu")).free < psutil.virtual_memory().total


def test_the_most_that_work_takes_is_seen_though_it_is_given_back() -> None:
    keep_freed_memory()  # as runs do
    memory = memory_of(torch.device("cpu"))
    with memory.watch() as peak:
        for size in (50, 200, 100):
            torch.ones(size * MB // 4)
        taken = peak()
    assert 190 * MB < taken < 400 * MB  # all three, 350, where the heap was left in pieces


def test_what_was_held_before_is_not_counted_and_what_is_held_since_is() -> None:
    before = torch.ones(100 * MB // 4)
    memory = memory_of(torch.device("cpu"))
    with memory.watch() as peak:
        assert peak() < 50 * MB
    since = torch.ones(100 * MB // 4)
    with memory.watch() as peak:
        assert 90 * MB < peak() < 150 * MB
    assert len(before) == len(since)


def test_running_out_of_main_memory_is_fatal() -> None:
    assert memory_of(torch.device("cpu")).fatal


# --- errors


def test_torch_says_out_of_memory_by_its_class_and_on_processors_in_words() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**58)
    assert out_of_memory(raised.value)


def test_memory_that_ran_out_is_one_line_with_advice() -> None:
    with (
        pytest.raises(UserError, match=r"^memory ran out \(Unable to allocate .*\); use less$"),
        readable_memory_errors("use less"),
    ):
        np.empty(1 << 60, dtype=np.uint8)
    with (
        pytest.raises(UserError, match=r"^memory ran out \(MemoryError\); use less$"),
        readable_memory_errors("use less"),
    ):
        raise MemoryError
    with pytest.raises(RuntimeError, match="size mismatch"), readable_memory_errors("use less"):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: out of memory", True),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate", True),
        ("std::bad_alloc", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.", True),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_other_words_for_out_of_memory_are_known_and_other_errors_are_not_taken_for_it(
    text: str, expected: bool
) -> None:
    assert out_of_memory(RuntimeError(text)) is expected
