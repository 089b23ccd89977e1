"""How many threads and processes a piece of work gets of the CPU cores."""

from __future__ import annotations

from onestage.runtime.threads import cpu_cores


def loader_workers(ranks_here: int = 1) -> int:
    """Number of loader processes for training: 0 on a small machine, whose cores the network needs.

    Args:
        ranks_here: ranks of the run on this machine, which share its cores.
    """
    cores = cpu_cores() // ranks_here
    return 0 if cores <= 4 else min(8, cores // 2)


def reading_threads(per_core: int = 1, most: int = 4) -> int:
    """Number of threads that read files: they wait for the disk, or decode beside the network."""
    return min(most, per_core * cpu_cores())
