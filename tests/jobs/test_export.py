"""`onestage export`, and its files in use: predict, evaluate, info, without torch."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from missing_package import remove_package
from small_model import trace_each_model_once, write_small_model

import onestage
from onestage import cli
from onestage.data.generated import KINDS, draw_image, write_generated_voc
from onestage.errors import UserError
from onestage.export.check import Agreement, compare
from onestage.inference.predictor import ExportedPredictor

RUNTIME = Path(__file__).parents[2] / "runtime"
NAMES = tuple(KINDS)

BOMB = '<!DOCTYPE n [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><net>&b;</net>'

WITHOUT_TORCH = """
import json, sys
from importlib.util import find_spec
assert find_spec("torch") is None and find_spec("onestage") is None
import onestage_runtime
predictor = onestage_runtime.load(sys.argv[1], score_threshold=0.2)
found = predictor(sys.argv[2:])
print(json.dumps([one.to_dict() for one in found]))
"""


traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.safetensors", names=NAMES)


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    result = onestage.export_model(model)
    assert result.agreement.share > 0.995
    assert result.agreement.of > 100
    return result.path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        image = draw_image(np.random.default_rng(seed), 200 + 100 * seed).image
        cv2.imwrite(str(folder / f"{seed}.png"), image[:, :, ::-1])
    return sorted(folder.glob("*.png"))


def rows(folder: Path) -> list[tuple[str, int, float]]:
    content = json.loads((folder / "detections.json").read_text())
    return [(one["source"], d["label"], d["score"]) for one in content for d in one["detections"]]


def test_predicting_with_the_file_is_predicting_with_the_model(
    model: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    assert exported == model.with_suffix(".onnx")
    sources = [str(path) for path in images]
    for name, source in (("model", model), ("file", exported)):
        onestage.predict(source, sources, out=tmp_path / name, score_threshold=0.2)
    ours, theirs = rows(tmp_path / "model"), rows(tmp_path / "file")
    assert len(ours) > 30
    assert abs(len(ours) - len(theirs)) <= 0.03 * len(ours)
    assert len(set(ours) & set(theirs)) > 0  # scores of 4 digits, so not all are the same to the last
    assert (tmp_path / "file" / "0.png").exists() or list((tmp_path / "file").rglob("0.png"))


def test_evaluating_the_file_gives_the_models_ap(model: Path, exported: Path, tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "data", train=2, test=12)
    for name, source in (("model", model), ("file", exported)):
        onestage.evaluate(source, tmp_path / "data", out=tmp_path / name)
    ours, theirs = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("model", "file"))
    assert ours["images"] == theirs["images"] == 12
    assert theirs["voc"]["map_area"] == pytest.approx(ours["voc"]["map_area"], abs=0.001)
    assert (tmp_path / "file" / "report.html").exists()


def test_info_describes_the_file(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onestage.info(str(exported))
    said = capsys.readouterr().out
    assert "exported from ssd300-test_efficientnet" in said
    assert "hard NMS at 0.45, at most 200 an image" in said
    assert ", ".join(NAMES[:2]) in said


def test_the_command_line_writes_a_file_with_the_selection_asked_for(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "soft.onnx"
    options = ["--nms", "soft", "--max-detections", "9", "--score-threshold", "0.2", "--class-agnostic"]
    with pytest.raises(SystemExit) as done:
        cli.main(["export", str(model), "--format", "onnx", "--out", str(out), *options])
    assert done.value.code == 0
    predictor = onestage.load(out)
    assert predictor.papers_selection.nms == "soft-gaussian"
    assert predictor.papers_selection.class_agnostic
    assert predictor.papers_selection.max_detections == predictor.usual_detections == 9
    onestage.predict(out, [str(images[0])], out=tmp_path / "found", score_threshold=0.1)
    assert 0 < len(rows(tmp_path / "found")) <= 9


def test_an_out_of_another_suffix_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the format onnx ends in \.onnx"):
        onestage.export_model(model, out=tmp_path / "model.pb")


def test_an_exported_file_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exported already; give the run or the model file that it was made of"):
        onestage.export_model(exported, out=tmp_path / "again.onnx")
    write_generated_voc(tmp_path / "data", train=1, test=1)
    with pytest.raises(UserError, match="an exported file, which keeps its score thresholds; give its run"):
        onestage.evaluate(exported, tmp_path / "data", wanted_recall=0.9)


def test_a_file_that_finds_something_else_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onestage.jobs.export.compare", lambda model, exported: Agreement(4, 9, 10, 0.0, 0.0))
    with pytest.raises(UserError, match="finds something else than the model"):
        onestage.export_model(model, out=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("onnxscript", r"onnxscript is missing: pip install 'onestage\[onnx\]'"),
        ("onnxruntime", "ONNX Runtime is missing: pip install onnxruntime"),
    ],
)
def test_a_missing_package_says_what_to_install(
    model: Path, tmp_path: Path, package: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = sys.modules["onestage.export.onnx_graph"]._traced
    for module in ("onnx_graph", "graph_ends"):
        remove_package(monkeypatch, package, importers=f"onestage.export.{module}")
    if package == "onnxruntime":  # the file is written without it
        monkeypatch.setattr(import_module("onestage.export.onnx_graph"), "_traced", traced)
    with pytest.raises(UserError, match=advice):
        onestage.export_model(model, out=tmp_path / "m.onnx")


def test_the_small_distribution_runs_the_file_without_torch(exported: Path, images: list[Path], tmp_path: Path) -> None:
    """In an environment of its own, with what its wheel asks for and nothing else: needs the package index."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(RUNTIME)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([*pip, "install", "--no-compile", *map(str, tmp_path.glob("*.whl"))], check=True)
    run = [str(python), "-I", "-c", WITHOUT_TORCH, str(exported), *map(str, images)]
    said = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path)
    found = json.loads(said.stdout)
    predictor = onestage.load(exported)
    predictor.selection = replace(predictor.selection, score_threshold=0.2)
    expected = [one.to_dict() for one in predictor([str(path) for path in images])]
    assert sum(map(len, expected)) > 30
    for ours, theirs in zip(expected, found, strict=True):  # perhaps of another release of ONNX Runtime
        assert [row["name"] for row in ours] == [row["name"] for row in theirs]
        assert [row["score"] for row in ours] == pytest.approx([row["score"] for row in theirs], abs=2e-4)
        for one, other in zip(ours, theirs, strict=True):
            assert one["box_xyxy"] == pytest.approx(other["box_xyxy"], abs=0.02)


# ---------------------------------------------------------------------------------------------- OpenVINO


@pytest.fixture(scope="module")
def in_openvino(model: Path) -> Path:
    result = onestage.export_model(model, format="openvino")
    assert result.agreement.share > 0.995
    assert result.path.with_suffix(".bin").exists()
    return result.path


def test_openvinos_file_finds_what_the_onnx_file_finds(exported: Path, in_openvino: Path, images: list[Path]) -> None:
    found = []
    for path in (exported, in_openvino):
        predictor = onestage.load(path)
        predictor.selection = replace(predictor.selection, score_threshold=0.2)
        found.append(predictor([str(image) for image in images]))
    agreement = compare(*found)
    assert agreement.of > 30
    assert agreement.share > 0.995
    assert isinstance(predictor, ExportedPredictor)
    assert "with_resizing" not in vars(predictor.session)  # it was never compiled


def test_int8_is_calibrated_on_images_and_smaller(model: Path, in_openvino: Path, tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "data", train=2, test=1)
    int8 = onestage.export_model(
        model, format="openvino", precision="int8", calibration=tmp_path / "data", out=tmp_path / "m.xml"
    )
    # this network's last convolutions, which stay in float32, are a third of it
    assert int8.path.with_suffix(".bin").stat().st_size < 0.6 * in_openvino.with_suffix(".bin").stat().st_size
    assert onestage.load(int8.path).categories.names == NAMES
    with pytest.raises(UserError, match="int8 needs images to calibrate on"):
        onestage.export_model(model, format="openvino", precision="int8", out=tmp_path / "n.xml")


def test_threads_each_get_the_boxes_of_their_own_image_from_openvino(in_openvino: Path) -> None:
    predictor = onestage.load(in_openvino)
    predictor.selection = replace(predictor.selection, score_threshold=0.2)
    images = [draw_image(np.random.default_rng(seed), 100 + 50 * seed).image for seed in range(6)]
    alone = [predictor(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(predictor, 8 * images))
    assert min(map(len, alone)) > 5
    for one, expected in zip(found, 8 * alone, strict=True):
        assert one.boxes_xyxy.tolist() == expected.boxes_xyxy.tolist()


def test_a_pickled_openvino_file_is_opened_again_unless_it_is_another_one_now(
    in_openvino: Path, tmp_path: Path
) -> None:
    for suffix in (".xml", ".bin"):
        shutil.copy(in_openvino.with_suffix(suffix), tmp_path / f"m{suffix}")
    predictor, image = onestage.load(tmp_path / "m.xml"), draw_image(np.random.default_rng(0), 200).image
    predictor.selection = replace(predictor.selection, score_threshold=0.2)
    pickled = pickle.dumps(predictor)
    assert pickle.loads(pickled)(image).boxes_xyxy.tolist() == predictor(image).boxes_xyxy.tolist()
    xml, digest = (tmp_path / "m.xml").read_text(), cast(ExportedPredictor, predictor).session.file.header["sha256"]
    (tmp_path / "m.bin").write_bytes((tmp_path / "m.bin").read_bytes()[:-1] + b"x")
    changed = hashlib.sha256((tmp_path / "m.bin").read_bytes()).hexdigest()
    (tmp_path / "m.xml").write_text(xml.replace(digest, changed))
    with pytest.raises(UserError, match=r"m\.xml: was exported anew since the predictor was pickled; load it again"):
        pickle.loads(pickled)


IN_A_PROCESS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
from onestage.export.openvino import OpenVinoSession
*to_fork, written_anew, its_weights = sys.argv[1:]
first, second = OpenVinoSession(written_anew), OpenVinoSession(written_anew)
del first
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")

import numpy as np
import onestage
image = np.zeros((50, 50, 3), np.uint8)
predictor = onestage.load(written_anew)
open(its_weights, "wb").close()  # as who writes it anew begins
print(len(predictor(image)), len(predictor.session([image])), flush=True)

predictors = [onestage.load(path) for path in to_fork]
for predictor in predictors:
    predictor(image)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(30)  # seconds, then it would not have come to an end
for predictor in predictors:
    try:
        print("fork", len(predictor(image)))
    except onestage.UserError as error:
        print("fork", str(error).split(": ", 1)[1])
sys.stdout.flush()
os._exit(0)  # as multiprocessing ends its processes: the engines would wait for the threads that a fork does not have
"""


def test_ctrl_c_is_heard_a_file_that_is_written_anew_goes_on_and_a_fork_detects_or_says_that_it_can_not(
    model: Path, exported: Path, in_openvino: Path, tmp_path: Path
) -> None:
    """Each could end or stop the process, so they have one of their own."""
    xml, weights = (shutil.copy(in_openvino.with_suffix(suffix), tmp_path) for suffix in (".xml", ".bin"))
    command = [sys.executable, "-c", IN_A_PROCESS, model, exported, in_openvino, xml, weights]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    refusal = "opened before this process was forked, and OpenVINO works only where it was opened"
    expected = f"interrupted\n0 1\nfork 0\nfork 0\nfork {refusal}; load the file in each process\n"
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr


def test_openvinos_files_that_were_changed_or_are_not_ours_are_refused(in_openvino: Path, tmp_path: Path) -> None:
    xml, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    xml.write_bytes(in_openvino.read_bytes())
    with pytest.raises(UserError, match=r"m\.bin: no such file"):
        onestage.load(xml)
    content = bytearray(in_openvino.with_suffix(".bin").read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(UserError, match="was changed after its export"):
        onestage.load(xml)
    for text, message in (("<net/>", "not exported by onestage"), ("<net>", "damaged one"), (BOMB, "damaged one")):
        xml.write_text(text)
        with pytest.raises(UserError, match=message):
            onestage.load(xml)


# ---------------------------------------------------------------------------------------------- the table of formats


def test_a_format_or_precision_that_there_is_not_is_named(model: Path) -> None:
    with pytest.raises(UserError, match="the format onnx has fp32; --format openvino has it"):
        onestage.export_model(model, precision="int8")
    with pytest.raises(UserError, match="expected onnx, openvino"):
        onestage.export_model(model, format="tflite")
