"""Experiment logs: TensorBoard, Weights & Biases and MLflow get what `log.csv` gets, the evaluations, and images.

So does an object of the caller's own with the parts of `ExperimentLog`.

A log that fails in mid-run is switched off; the run goes on. A resumed run continues its charts: `trackers.json` in the
run folder holds the names that the services gave it.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.settings import flat
from onestage.texts import json_text
from onestage.whole_file import write_whole

Images = Mapping[str, UInt8[np.ndarray, "H W 3"]]  # RGB, by name

PROJECT = "onestage"  # in W&B; the experiment in MLflow
STEP = "train/step"  # x axis of W&B's charts: W&B's own count can't go back to an earlier checkpoint
FINISH_SECONDS = 600.0  # W&B's upload may take at the end; the rest stays in the run folder (`wandb sync`)


@runtime_checkable
class ExperimentLog(Protocol):
    """What gets the numbers and images of a run.

    The constructors of the three start them, with the run folder, settings, earlier `run_id`, steps so far.
    """

    title: str  # for messages
    run_id: str | None  # the run's name in the service

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name: `train/loss`, ... each ten steps, `voc/map_area`, `coco/AP`, ... at each evaluation."""
        ...

    def images(self, title: str, images: Images, step: int) -> None:
        """Images by name: the first batch ("augmented"), "truth and detections" at each evaluation."""
        ...

    def close(self, failed: bool) -> None:
        """The run has ended, or an error ended it."""
        ...


class TensorBoardLog:
    """Event files in `tensorboard/` of the run folder; a resumed run adds one."""

    title = "TensorBoard"
    run_id: str | None = None

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        path = folder / "tensorboard"
        resumed = any(path.glob("events.*"))
        self._writer = SummaryWriter(path, purge_step=step + 1 if resumed else None)
        if not resumed:
            # `SummaryWriter.add_hparams` would make another run of the settings, apart from the charts.
            file, charts = self._writer.file_writer, dict.fromkeys(("voc/map_area", "coco/AP"), 0)
            assert file is not None  # it is not closed
            for summary in hparams(dict(settings), charts):
                file.add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def images(self, title: str, images: Images, step: int) -> None:
        for name, image in images.items():
            self._writer.add_image(f"{title}/{name}", image, step, dataformats="HWC")
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases; its files are in `wandb/` of the run folder."""

    title = "Weights & Biases"

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None, step: int) -> None:
        import wandb

        def unless_set(variable: str, value: Any) -> Any:
            """The value, or None if the user's environment sets another."""
            return None if variable in os.environ else value

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=unless_set("WANDB_DIR", str(folder)),
            name=unless_set("WANDB_NAME", folder.resolve().name),
            id=unless_set("WANDB_RUN_ID", run_id),
            resume=unless_set("WANDB_RESUME", "allow"),
            reinit="create_new",  # a run that the user has open in this process stays open
            settings=unless_set("WANDB_FINISH_TIMEOUT", {"finish_timeout": FINISH_SECONDS}),
        )
        self._run.config.update(dict(settings), allow_val_change=True)
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self.run_id: str | None = self._run.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP: step})

    def images(self, title: str, images: Images, step: int) -> None:
        shown = [self._image(image, caption=name) for name, image in images.items()]
        self._run.log({title: shown, STEP: step})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else None)


class MLflowLog:
    """A run in the tracking server that MLflow is set to; without one, in `mlflow/` of the run folder."""

    title = "MLflow"

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None, step: int) -> None:
        self._mlflow = import_module("mlflow")
        folder, artifacts = folder.resolve(), None
        self._own_store = not self._mlflow.is_tracking_uri_set()
        if self._own_store:
            for package in ("sqlalchemy", "alembic"):  # that mlflow-skinny comes without
                import_module(package)
            (folder / "mlflow").mkdir(exist_ok=True)
            self._mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow/mlflow.db'}")
            artifacts = (folder / "mlflow/artifacts").as_uri()
        try:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known, create = self._mlflow.get_experiment_by_name(name), self._mlflow.create_experiment
            run = self._mlflow.start_run(
                run_id=os.environ.get("MLFLOW_RUN_ID", run_id),
                experiment_id=known.experiment_id if known is not None else create(name, artifact_location=artifacts),
                run_name=folder.name,
            )
            if run_id is None:  # a run's parameters can't be changed later
                self._mlflow.log_params(dict(settings))
        except BaseException:
            self._leave_store()
            raise
        self.run_id: str | None = run.info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        allowed = {re.sub(r"[^\w./: -]", "_", name): value for name, value in values.items()}
        self._mlflow.log_metrics(allowed, step=step)

    def images(self, title: str, images: Images, step: int) -> None:
        for name, image in images.items():
            key = re.sub(r"[^\w./ -]", "_", f"{title}/{name}", flags=re.ASCII)
            self._mlflow.log_image(image, key=key, step=step)

    def close(self, failed: bool) -> None:
        try:
            self._mlflow.end_run("FAILED" if failed else "FINISHED")
        finally:
            self._leave_store()

    def _leave_store(self) -> None:
        """Unset the store, or the next run of this process would take it for the user's choice."""
        if self._own_store:
            self._mlflow.set_tracking_uri(None)


LOGS = {"tensorboard": TensorBoardLog, "wandb": WandbLog, "mlflow": MLflowLog}  # by their packages, which are extras


class ExperimentLogs:
    """The experiment logs of a run that still work; one that fails is switched off with a warning."""

    def __init__(self, logs: Iterable[ExperimentLog], report: Callable[[str], None]) -> None:
        """`report` is called with each warning, one line."""
        self._logs, self._report = list(logs), report

    @property
    def active(self) -> bool:
        """False if there are none, so that nothing needs to be drawn for them."""
        return bool(self._logs)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; a slash in a name makes groups of charts."""
        self._each(lambda log: log.scalars(values, step))

    def images(self, title: str, images: Images, step: int) -> None:
        """Log images that belong together, each under a name that stays from step to step."""
        self._each(lambda log: log.images(title, images, step))

    def close(self, failed: bool = False) -> None:
        """End the logs. `failed`: an error ended the run."""
        self._each(lambda log: log.close(failed))
        self._logs.clear()

    def _each(self, work: Callable[[ExperimentLog], None]) -> None:
        for log in tuple(self._logs):
            try:
                work(log)
            except Exception as error:  # a full disk, no network, whatever a service's package may raise
                self._logs.remove(log)
                self._report(f"warning: {log.title} failed, so it is switched off ({in_one_line(error)})")


def check_packages(names: Sequence[str | ExperimentLog]) -> None:
    """Raise a UserError for the first log that is unknown or whose package is missing; nothing is imported."""
    for name in names:
        if isinstance(name, ExperimentLog):
            continue
        if not isinstance(name, str):
            parts = "title, run_id, scalars, images and close"
            raise UserError(
                f"log_to {name!r}: no experiment log; expected {', '.join(LOGS)}, or an object with {parts}"
            )
        if name not in LOGS:
            raise UserError(f"--log-to {name}: no such experiment log; expected {', '.join(LOGS)}")
        if find_spec(name) is None:
            raise UserError(f"--log-to {name}: the package {name} is missing: pip install 'onestage[{name}]'")


def start_logs(
    names: Sequence[str | ExperimentLog],
    *,
    folder: Path,
    settings: Mapping[str, Any],
    step: int,
    report: Callable[[str], None],
) -> list[ExperimentLog]:
    """Start the experiment logs of a run.

    Args:
        names: some of `LOGS`, and logs of the caller's own, which are started already.
        folder: run folder; files go there, unless the environment (WANDB_DIR, MLFLOW_TRACKING_URI) says otherwise.
        settings: the recipe.
        step: steps that the run has taken; later points of an earlier start are dropped, where that is possible.
        report: called with each warning, one line.

    Raises:
        UserError: a package is missing, or a log can't start. In a resumed run the latter is a warning.
    """
    check_packages(names)
    remembered, logs = folder / "trackers.json", [one for one in names if not isinstance(one, str)]
    names = [one for one in names if isinstance(one, str)]
    run_ids: dict[str, str] = {}  # the run's names in the services, by log
    if names and remembered.exists():
        try:
            run_ids = json.loads(remembered.read_text())
            if not isinstance(run_ids, dict) or not all(isinstance(value, str) for value in run_ids.values()):
                raise ValueError
        except ValueError as error:
            raise UserError(f"{remembered}: damaged; delete it, and the experiment logs begin new charts") from error
    # Sequences become JSON, since not every log takes them.
    shown = {name: json_text(v) if isinstance(v, list | tuple) else v for name, v in flat(settings).items()}
    for name in dict.fromkeys(names):
        try:
            log = LOGS[name](folder, shown, run_ids.get(name), step)
        except Exception as error:  # whatever a service's package may raise
            problem = f"can't start ({in_one_line(error)}); mend that, or leave it out"
            if isinstance(error, ImportError):
                problem = f"a package is missing, {error}: pip install 'onestage[{name}]'"
            elif step:
                report(f"warning: --log-to {name}: can't start, so it is left out ({in_one_line(error)})")
                continue
            ExperimentLogs(logs, report).close(failed=True)
            raise UserError(f"--log-to {name}: {problem}") from error
        logs.append(log)
        run_ids |= {} if log.run_id is None else {name: log.run_id}
    try:
        if run_ids:
            write_whole(remembered, (json.dumps(run_ids, indent=1) + "\n").encode())
    except OSError as error:
        report(f"warning: {remembered}: can't be written ({error.strerror}); --resume will begin new charts")
    return logs


def evaluation_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `metrics.json` that become charts; those without a value (None, COCO's -1) are left out."""
    voc = metrics["voc"]
    values = {f"voc/{name}": voc[name] for name in ("map_area", "map_11point")}
    values |= {f"coco/{name}": value for name, value in metrics["coco"].items()}
    # a slash would make a group of its own
    values |= {f"voc/ap_area/{name.replace('/', '_')}": one["ap_area"] for name, one in voc["per_class"].items()}
    return {name: value for name, value in values.items() if value is not None and value >= 0}


def in_one_line(error: Exception) -> str:
    """The first line of an error's message, or the error's kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
