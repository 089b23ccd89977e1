"""What pip installs: the source distributions make the wheels, which hold every file, and which run."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from onestage import __version__

ROOT = Path(__file__).parent.parent
SOURCES = {"onestage": ROOT / "src" / "onestage", "onestage_runtime": ROOT / "src" / "onestage" / "runtime"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made of the source distributions, which are all that lies in their folders, as on somebody else's machine."""
    found = {}
    for name, folder in (("onestage", ROOT), ("onestage_runtime", ROOT / "runtime")):
        out = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert len(list(out.glob("*.tar.gz"))) == 1
        (found[name],) = out.glob("*.whl")
    return found


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(file.read(name).decode())


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_holds_every_file_of_its_package_and_says_that_it_has_types(name: str, wheels: dict[str, Path]) -> None:
    files = (path for path in SOURCES[name].rglob("*") if path.is_file() and path.suffix != ".pyc")
    expected = {f"{name}/{path.relative_to(SOURCES[name]).as_posix()}" for path in files}
    with ZipFile(wheels[name]) as file:
        held = set(file.namelist())
    assert {one for one in held if ".dist-info/" not in one} == expected
    assert f"{name}/py.typed" in held


def test_who_runs_exported_files_alone_gets_no_torch(wheels: dict[str, Path]) -> None:
    asked = [Requirement(line).name for line in metadata(wheels["onestage_runtime"]).get_all("Requires-Dist", [])]
    assert sorted(asked) == ["jaxtyping", "numpy", "onnxruntime", "opencv-python-headless", "pillow"]


def test_the_wheel_runs_from_help_to_predictions_where_no_source_lies(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Beside the packages of this environment; -S hides what the environment itself knows of onestage."""
    with ZipFile(wheels["onestage"]) as file:
        file.extractall(tmp_path / "installed")
        assert (
            "onestage = onestage.cli:main" in file.read(f"onestage-{__version__}.dist-info/entry_points.txt").decode()
        )
    path = os.pathsep.join([str(tmp_path / "installed"), sysconfig.get_path("purelib")])
    command = [sys.executable, "-S", "-P", str(ROOT / ".ci" / "first_steps.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert f"onestage {__version__} from {tmp_path / 'installed' / 'onestage'} on Python" in done.stdout
    assert "not installed: nothing" in done.stdout
    assert "trained, measured and predicted:" in done.stdout
    assert "  packages    accelerate " in done.stdout
