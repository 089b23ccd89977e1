"""Run by pytest before any test module: shapes and types in signatures are checked in the whole test run."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from typing import Any, cast

# Before torch is imported: the test processes share the machine's cores, so each takes one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
import shape_checks
from hypothesis import settings

IS_A_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# What tests write, and the programs that they start, lies in one folder, which goes when all have passed.
if not IS_A_WORKER:
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="onestage-tests-")
    tempfile.tempdir = None  # read TMPDIR anew
# What is remembered of images stays out of the user's own cache.
os.environ["ONESTAGE_CACHE"] = tempfile.mkdtemp(prefix="cache-")

# As onestage.export has it, for tests that import OpenVINO before.
sys.modules["openvino_telemetry"] = cast(Any, None)

# Every annotation such as Float[Tensor, "B A 4"] in src is checked at each call (jaxtyping, with shape_checks.check).
jaxtyping.jaxtyped = shape_checks.jaxtyped  # whose name the hook writes in front of each
jaxtyping.install_import_hook("onestage", "shape_checks.check")

# The same examples in every run, and no time limit an example: the machines that run this are slow and shared.
settings.register_profile("onestage", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("onestage")


def pytest_collection() -> None:
    gc.disable()  # to look at all that the modules hold, ten times and in each gc.collect() of a test, takes long


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(exitstatus: int) -> None:
    """Leave nothing behind, unless something failed that somebody may want to look at."""
    if exitstatus == pytest.ExitCode.OK and not IS_A_WORKER:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
