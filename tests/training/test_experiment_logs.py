"""What reaches the experiment logs, read back from the files that they write; their troubles are not the run's."""

from __future__ import annotations

import errno
import inspect
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onestage.errors import UserError
from onestage.training import experiment_logs
from onestage.training.experiment_logs import ExperimentLogs, Images, check_packages, evaluation_scalars, start_logs

# Protocol buffers' modules make their classes when they are loaded, which pyright can't know.
hparams_messages: Any = import_module("tensorboard.plugins.hparams.plugin_data_pb2")
wandb_messages: Any = import_module("wandb.proto.wandb_internal_pb2")

METRICS: dict[str, Any] = {
    "voc": {
        "map_11point": 0.5,
        "map_area": 0.625,
        "iou_threshold": 0.5,
        "per_class": {
            "ant": {"ground_truths": 4, "ap_11point": 0.5, "ap_area": 0.75},
            "bee (wild)": {"ground_truths": 2, "ap_11point": 0.5, "ap_area": 0.0},
            "cat": {"ground_truths": 0, "ap_11point": None, "ap_area": None},
        },
    },
    "coco": {"AP": 0.375, "AP50": 0.625, "APs": -1.0},
    "images": 6,
}
TRAINED: dict[str, float] = {  # a row of log.csv
    "train/epoch": 0.5,
    "train/images": 320,
    "train/lr": 0.125,
    "train/loss": 3.0,
    "train/classification_loss": 2.25,
    "train/box_loss": 0.75,
    "train/images_per_second": 64.0,
    "train/seconds": 5.0,
}
EVALUATED = {
    "voc/map_area": 0.625,
    "voc/map_11point": 0.5,
    "voc/ap_area/ant": 0.75,
    "voc/ap_area/bee (wild)": 0.0,
    "coco/AP": 0.375,
    "coco/AP50": 0.625,
}
SETTINGS = {
    "steps": 100,
    "epochs": None,
    "compile": True,
    "factors": (("neck", 0.5),),
    "augmentation": {"hue": 18.0, "fill": (1, 2, 3)},
}
FLAT_SETTINGS = {  # sequences as text
    "steps": 100,
    "epochs": None,
    "compile": True,
    "factors": '[["neck", 0.5]]',
    "augmentation.hue": 18.0,
    "augmentation.fill": "[1, 2, 3]",
}


def image(color: tuple[int, int, int], height: int = 12, width: int = 20) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def started(folder: Path, *names: str, step: int = 0, report: Callable[[str], None] = pytest.fail) -> ExperimentLogs:
    """The experiment logs of a run in a folder."""
    logs = start_logs(names, folder=folder, settings=SETTINGS, step=step, report=report)
    return ExperimentLogs(logs, report)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as a user has it without a network, whatever the environment of the tests says."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    quiet = {
        "MODE": "offline",
        "SILENT": "true",
        "CONSOLE": "off",
        "ERROR_REPORTING": "false",
        "_DISABLE_STATS": "true",
    }
    for name, value in quiet.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    wandb.teardown()  # or the next test would have this one's environment


def event_file(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def scalars(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(folder: Path) -> list[Any]:
    """The records of a run, once W&B's own process has written the last of them."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = list(wandb_file(path.read_bytes()))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.02)
    raise TimeoutError(f"{path}: no end")


def wandb_file(data: bytes) -> Iterator[Any]:
    """7 bytes, then LevelDB's log format: blocks of 32 KiB that hold parts of records, each with a head."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        position += 7 + length
        if position > len(data):
            return
        record += data[position - length : position]
        if kind in (1, 4):  # whole, or the last part
            yield wandb_messages.Record.FromString(record)
            record = b""


def items(rows: Any) -> dict[str, Any]:
    return {"/".join(row.nested_key) or row.key: json.loads(row.value_json) for row in rows}


def history(records: list[Any]) -> list[dict[str, Any]]:
    """What was logged, without W&B's own entries."""
    rows = [items(one.history.item) for one in records if one.WhichOneof("record_type") == "history"]
    return [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]


# --- what they get


def test_an_evaluation_has_the_numbers_that_have_a_value() -> None:
    assert evaluation_scalars(METRICS) == EVALUATED
    nothing = {"voc": {"map_11point": None, "map_area": None, "per_class": {}}, "coco": {"AP": -1.0}}
    assert evaluation_scalars(nothing) == {}
    slash = {"voc": {"map_11point": None, "map_area": None, "per_class": {"car/van": {"ap_area": 0.5}}}, "coco": {}}
    assert evaluation_scalars(slash) == {"voc/ap_area/car_van": 0.5}


# --- TensorBoard


def test_tensorboard_holds_every_number_at_its_step(tmp_path: Path) -> None:
    logs = started(tmp_path, "tensorboard")
    logs.scalars(TRAINED, 10)
    logs.scalars(evaluation_scalars(METRICS), 10)
    logs.close()
    assert scalars(event_file(tmp_path)) == {tag: [(10, value)] for tag, value in {**TRAINED, **EVALUATED}.items()}


def test_tensorboard_holds_the_images_pixel_by_pixel(tmp_path: Path) -> None:
    logs = started(tmp_path, "tensorboard")
    logs.images("augmented", {"1": image((46, 196, 255)), "2": image((9, 0, 0), 30, 40)}, 11)
    # not closed: what was logged is on the disk
    events = event_file(tmp_path)
    assert events.Tags()["images"] == ["augmented/1", "augmented/2"]
    for tag, expected in (("augmented/1", image((46, 196, 255))), ("augmented/2", image((9, 0, 0), 30, 40))):
        (shown,) = events.Images(tag)
        assert shown.step == 11
        decoded = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(decoded, expected)
    logs.close()


def test_tensorboard_holds_the_settings_beside_the_charts(tmp_path: Path) -> None:
    logs = started(tmp_path, "tensorboard")
    logs.close()
    metadata = event_file(tmp_path).SummaryMetadata("_hparams_/session_start_info")
    data = hparams_messages.HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    told = {name: value.string_value or value.number_value for name, value in data.items()}
    assert told == {name: value for name, value in FLAT_SETTINGS.items() if value is not None}
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_a_resumed_run_takes_the_place_of_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = started(tmp_path, "tensorboard")
    for step in (10, 20, 30):
        first.scalars({"coco/AP": step / 64}, step)
    first.close()
    second = started(tmp_path, "tensorboard", step=20)
    second.scalars({"coco/AP": 0.75}, 40)
    second.close()
    assert scalars(event_file(tmp_path))["coco/AP"] == [(10, 0.15625), (20, 0.3125), (40, 0.75)]


# --- Weights & Biases


@pytest.mark.usefixtures("offline")
def test_wandb_offline_holds_every_number_and_the_images(tmp_path: Path) -> None:
    logs = started(tmp_path, "wandb")
    logs.scalars(TRAINED, 10)
    logs.scalars(evaluation_scalars(METRICS), 10)
    logs.images("augmented", {"one": image((46, 196, 255)), "two": image((9, 0, 0))}, 11)
    logs.close()
    records = wandb_records(tmp_path)
    trained, evaluated, images = history(records)
    assert trained == {**TRAINED, "train/step": 10}
    assert evaluated == {**EVALUATED, "train/step": 10}
    assert images["train/step"] == 11
    assert images["augmented/captions"] == ["one", "two"]
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    decoded = [cv2.imread(str(files / name), cv2.IMREAD_COLOR_RGB) for name in images["augmented/filenames"]]
    np.testing.assert_array_equal(decoded, [image((46, 196, 255)), image((9, 0, 0))])
    config: dict[str, Any] = {}
    for one in records:
        config |= items(one.config.update)
    assert config == FLAT_SETTINGS
    metrics = [one.metric for one in records if one.WhichOneof("record_type") == "metric"]
    assert [(one.glob_name, one.step_metric) for one in metrics] == [("", ""), ("*", "train/step")]


@pytest.mark.usefixtures("offline")
def test_a_resumed_run_is_the_same_run_in_wandb(tmp_path: Path) -> None:
    first = started(tmp_path, "wandb")
    first.close(failed=True)
    assert wandb_records(tmp_path)[-1].exit.exit_code == 1
    second = started(tmp_path, "wandb", step=20)
    second.close()
    (name,) = {path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert json.loads((tmp_path / "trackers.json").read_text()) == {
        "wandb": name.removeprefix("run-")[: -len(".wandb")]
    }


@pytest.mark.usefixtures("offline")
def test_the_environment_of_the_user_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    chosen = {"DIR": str(elsewhere), "PROJECT": "cells", "NAME": "third", "RUN_ID": "abc123"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logs = started(tmp_path, "wandb")
    logs.close()
    run = next(one.run for one in wandb_records(elsewhere) if one.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, run.run_id) == ("cells", "third", "abc123")
    assert not (tmp_path / "wandb").exists()


# --- MLflow, which the tests do not have: a module that takes down how it is called


class MLflowModule:
    """As much of mlflow as is called."""

    __spec__ = "found"

    def __init__(self) -> None:
        self.uri: str | None = None
        self.runs: list[tuple[str | None, str]] = []
        self.uris: list[str | None] = []
        self.locations: list[str] = []
        self.params: dict[str, Any] = {}
        self.metrics: dict[str, tuple[int, float]] = {}
        self.images: dict[str, tuple[int, np.ndarray]] = {}
        self.ends: list[str] = []

    def is_tracking_uri_set(self) -> bool:
        return self.uri is not None

    def set_tracking_uri(self, uri: str | None) -> None:
        self.uri = uri
        self.uris.append(uri)

    def get_experiment_by_name(self, name: str) -> Any:
        assert name == "onestage"
        return SimpleNamespace(experiment_id="1") if self.locations else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.locations.append(artifact_location)
        return "1"

    def start_run(self, run_id: str | None, experiment_id: str, run_name: str) -> Any:
        assert experiment_id == "1"
        self.runs.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "f00d"))

    def log_params(self, params: dict[str, Any]) -> None:
        self.params |= params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics |= {name: (step, value) for name, value in metrics.items()}

    def log_image(self, image: np.ndarray, key: str, step: int) -> None:
        self.images[key] = (step, image)

    def end_run(self, status: str = "FINISHED") -> None:
        self.ends.append(status)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> MLflowModule:
    module = MLflowModule()
    for name in ("sqlalchemy", "alembic"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for variable in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(variable)
    return module


def test_mlflow_gets_everything_under_names_that_it_allows(tmp_path: Path, mlflow: MLflowModule) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    logs = started(folder, "mlflow")
    logs.scalars(TRAINED, 10)
    logs.scalars(evaluation_scalars(METRICS), 10)
    logs.images("augmented", {"1 zoë": image((9, 0, 0))}, 11)
    logs.close()
    assert mlflow.runs == [(None, "cells")]
    assert mlflow.params == FLAT_SETTINGS
    renamed = {name.replace("(wild)", "_wild_"): value for name, value in {**TRAINED, **EVALUATED}.items()}
    assert mlflow.metrics == {name: (10, value) for name, value in renamed.items()}
    assert list(mlflow.images) == ["augmented/1 zo_"]
    assert mlflow.images["augmented/1 zo_"][0] == 11
    assert mlflow.ends == ["FINISHED"]


def test_mlflow_has_its_store_in_the_run_folder_and_goes_on_with_its_run(tmp_path: Path, mlflow: MLflowModule) -> None:
    folder = (tmp_path / "cells").resolve()
    folder.mkdir()
    first = started(folder, "mlflow")
    first.close(failed=True)
    mlflow.params = {}
    second = started(folder, "mlflow", step=20)
    second.close()
    assert mlflow.runs == [(None, "cells"), ("f00d", "cells")]
    assert mlflow.ends == ["FAILED", "FINISHED"]
    assert mlflow.params == {}  # a parameter can't be changed there, and the length of a run may be
    (location,) = mlflow.locations
    assert location == f"file://{folder}/mlflow/artifacts"
    # unset afterwards, or a second training in the same process would take it for the user's choice
    assert mlflow.uris == [f"sqlite:///{folder}/mlflow/mlflow.db", None] * 2


def test_mlflow_goes_where_the_user_has_set_it(tmp_path: Path, mlflow: MLflowModule) -> None:
    mlflow.uri = "http://server"
    logs = started(tmp_path, "mlflow")
    logs.close()
    assert mlflow.uris == []
    assert mlflow.locations == [None]
    assert not (tmp_path / "mlflow").exists()


# --- what goes wrong


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_what_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"^--log-to {name}: the package {name} is missing: pip install 'onestage\[{name}\]'$"
    with pytest.raises(UserError, match=message):
        check_packages([name])
    with pytest.raises(UserError, match=message):
        started(tmp_path, name)


def test_a_missing_part_of_a_package_is_named_with_what_installs_it(
    tmp_path: Path, mlflow: MLflowModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(
        UserError, match=r"^--log-to mlflow: a package is missing, .*alembic.*: pip install 'onestage\[mlflow\]'$"
    ):
        started(tmp_path, "mlflow", step=1)


def test_packages_that_are_there_pass() -> None:
    check_packages([])
    check_packages(["tensorboard", "wandb"])


def test_an_unknown_log_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--log-to excel: no such experiment log; expected tensorboard, wandb, mlflow"):
        started(tmp_path, "excel")


def test_a_log_of_ones_own_gets_what_the_others_get(tmp_path: Path) -> None:
    class Own:
        title, run_id = "mine", None

        def __init__(self) -> None:
            self.said: list[object] = []

        def scalars(self, values: Mapping[str, float], step: int) -> None:
            self.said.append((dict(values), step))

        def images(self, title: str, images: Images, step: int) -> None:
            self.said.append((title, list(images), step))

        def close(self, failed: bool) -> None:
            self.said.append(failed)

    own = Own()
    check_packages([own])
    logs = ExperimentLogs(start_logs([own], folder=tmp_path, settings={}, step=0, report=pytest.fail), pytest.fail)
    logs.scalars({"train/loss": 2.0}, 10)
    logs.images("augmented", {"a": image((1, 2, 3))}, 1)
    logs.close(failed=True)
    assert own.said == [({"train/loss": 2.0}, 10), ("augmented", ["a"], 1), True]
    assert not list(tmp_path.iterdir())
    unchecked = inspect.unwrap(check_packages)  # in the tests types are checked before
    with pytest.raises(UserError, match="no experiment log; expected tensorboard, wandb, mlflow, or an object with"):
        unchecked([print])


def test_a_damaged_file_of_names_is_refused(tmp_path: Path) -> None:
    for content in ("{", "[1]", '{"wandb": 1}'):
        (tmp_path / "trackers.json").write_text(content)
        with pytest.raises(UserError, match=r"trackers\.json: damaged; delete it"):
            started(tmp_path, "tensorboard")


def test_names_that_can_not_be_kept_are_a_warning(
    tmp_path: Path, mlflow: MLflowModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(experiment_logs, "write_whole", full)
    said: list[str] = []
    logs = started(tmp_path, "mlflow", report=said.append)
    (line,) = said
    assert "trackers.json: can't be written (No space left on device); --resume will begin new charts" in line
    assert logs.active
    logs.close()


class Refusing:
    """A service that is not there."""

    def __init__(self, folder: Path, settings: Any, run_id: str | None, step: int) -> None:
        raise OSError("no route to host\ncall your administrator")


def test_a_log_that_can_not_start_ends_a_run_that_begins_but_not_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(experiment_logs.LOGS, "wandb", Refusing)
    with pytest.raises(
        UserError, match=r"^--log-to wandb: can't start \(no route to host\); mend that, or leave it out$"
    ):
        started(tmp_path, "tensorboard", "wandb")
    said: list[str] = []
    goes_on = started(tmp_path, "wandb", "tensorboard", step=1, report=said.append)
    assert said == ["warning: --log-to wandb: can't start, so it is left out (no route to host)"]
    assert goes_on.active
    goes_on.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread of writing
def test_a_full_disk_switches_a_log_off_and_is_reported_once(tmp_path: Path) -> None:
    said: list[str] = []
    logs = started(tmp_path, "tensorboard", report=said.append)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # bytes a file may have
    try:
        logs.images("noise", {"1": noise}, 1)
        logs.scalars(TRAINED, 10)
        logs.scalars(evaluation_scalars(METRICS), 10)
        logs.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        for thread in threading.enumerate():
            if type(thread).__name__ == "_AsyncWriterThread":
                thread.join(10)
    assert said == ["warning: TensorBoard failed, so it is switched off ([Errno 27] File too large)"]
    assert not logs.active


def test_one_that_fails_leaves_the_others_running(
    tmp_path: Path, mlflow: MLflowModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError

    said: list[str] = []
    logs = started(tmp_path, "mlflow", "tensorboard", report=said.append)
    monkeypatch.setattr(mlflow, "log_metrics", no_network)
    logs.scalars(TRAINED, 10)
    logs.scalars(evaluation_scalars(METRICS), 10)
    logs.close()
    assert said == ["warning: MLflow failed, so it is switched off (ConnectionError)"]
    assert scalars(event_file(tmp_path))["coco/AP"] == [(10, 0.375)]


# --- what a run does not notice


def test_without_names_nothing_is_loaded_and_nothing_written(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from onestage.training.experiment_logs import ExperimentLogs, start_logs\n"
        "logs = start_logs((), folder=Path(sys.argv[1]), settings={}, step=0, report=print)\n"
        "logs = ExperimentLogs(logs, print)\n"
        "logs.images('a', {}, 1); logs.close(); assert not logs.active\n"
        "print(sorted({'accelerate', 'tensorboard', 'wandb', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_no_random_state_is_touched(tmp_path: Path) -> None:
    def states() -> Any:  # Python's own can't be held against them: beartype draws from it in the test run
        return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    logs = started(tmp_path, "tensorboard", "wandb")
    logs.scalars(TRAINED, 10)
    logs.images("augmented", {"1": image((46, 196, 255))}, 11)
    logs.close()
    assert states() == before
