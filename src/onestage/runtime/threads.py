"""How many CPU cores and threads this process may use."""

import os


def cpu_cores() -> int:
    """Number of CPU cores that this process may use; in a container fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def cpu_threads() -> int:
    """Number of CPU threads for a network: OMP_NUM_THREADS where it is set, else one a core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cpu_cores()
