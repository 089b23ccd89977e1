"""What a report of a fault has to tell about the machine: versions, processor, memory, GPU. No name, no path."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch

from onestage.compute.device import choose_compute
from onestage.errors import UserError
from onestage.runtime import __version__
from onestage.runtime.threads import cpu_threads

VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF")  # that change how a network runs


def environment_lines() -> list[str]:
    """Lines to paste into a report."""
    system, machine = (f"{platform.system()} {platform.release()}", platform.machine())
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    set_here = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return [
        f"onestage {__version__}",
        f"  Python      {platform.python_version()} ({platform.python_implementation()})",
        f"  system      {system}, {machine}",
        f"  processor   {_processor()}, {cpu_threads()} threads, {memory} of memory",
        f"  GPU         {_gpus()}",
        f"  precision   {_precision()}",
        f"  variables   {' '.join(set_here) or 'none of those that matter'}",
        f"  packages    {', '.join(_packages()) or 'onestage is not installed, it runs from its folder'}",
    ]


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{', '.join(names)}; CUDA {torch.version.cuda}"


def _precision() -> str:
    """What training would choose; a GPU that does not work is no reason to tell nothing."""
    try:
        return choose_compute().reason
    except UserError as error:
        return str(error)


def _packages() -> list[str]:
    """The packages that onestage asks for and its extras, where they are installed, with their versions."""
    try:
        asked = requires("onestage") or []
    except PackageNotFoundError:
        return []
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in asked if not re.search(r"extra == .dev", line)}
    found = []
    for name in sorted(names, key=str.lower):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # of an extra
            continue
    return found
