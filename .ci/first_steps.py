"""First steps with an installed onestage: imports, help, two steps of training, predictions. Any failure ends it.

`python -I .ci/first_steps.py` in the environment that is tried. Modules of extras that are missing are passed over.
"""

import contextlib
import importlib
import io
import json
import pkgutil
import sys
import tempfile
from pathlib import Path

import onestage
from onestage import cli
from onestage.data.generated import write_generated_voc

OF_EXTRAS = {  # packages that only extras install, by the names under which they are imported
    *("av", "fastapi", "h11", "nncf", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino"),
    *("prometheus_client", "pyarrow", "python_multipart", "ray", "starlette", "supervision", "trackers", "uvicorn"),
}


def import_everything() -> tuple[int, set[str]]:
    """How many modules there are, and which packages of extras are missing."""
    modules = [found.name for found in pkgutil.walk_packages(onestage.__path__, "onestage.")]
    missing = set[str]()
    for module in modules:
        if module == "onestage.__main__":
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in OF_EXTRAS:
                raise
            missing.add(package)
    return len(modules), missing


def run(*words: str) -> str:
    """What a command prints; it has to end well."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            cli.main(words)
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"onestage {' '.join(words)}: status {ended.code}") from ended
    return printed.getvalue()


def main() -> None:
    print(run("--version").strip(), "from", Path(onestage.__file__).parent, "on Python", sys.version.split()[0])
    modules, missing = import_everything()
    print(f"{modules} modules; not installed: {', '.join(sorted(missing)) or 'nothing'}")
    for command in ("", *cli.COMMANDS):
        assert "usage: onestage" in run(*filter(None, [command]), "--help"), command
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_generated_voc(Path("data"), seed=1, train=6, test=2)
        network = ("--detector", "ssd300-test_efficientnet", "--backbone-weights", "none")
        length = ("--steps", "2", "--batch-size", "2", "--workers", "0", "--evaluations", "1")
        run("train", "data", *network, *length, "--out", "run")
        run("doctor", "data", "--detector", network[1])
        run("predict", "run", "data/JPEGImages", "--out", "found", "--score-threshold", "0.01")
        found = json.loads(Path("found/detections.json").read_text())
        assert len(found) == 8
        pages = [Path("run/report.html"), Path("doctor/data/report.html")]
        assert all(page.stat().st_size > 10_000 for page in pages)
        print("trained, measured and predicted:", sum(len(one["detections"]) for one in found), "detections")
    print(run("info", "--environment"), end="")


if __name__ == "__main__":
    main()
