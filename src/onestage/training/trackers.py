"""Trackers get what `log.csv` gets, the evaluations and images: TensorBoard, Weights & Biases, MLflow, by accelerate.

A tracker that fails in mid-run is switched off; the run goes on. A run that is gone on with continues its charts:
`trackers.json` in the run folder holds what the services call it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.training.log_file import LogRow
from onestage.whole_file import write_whole

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
Images = Mapping[str, UInt8[np.ndarray, "H W 3"]]  # RGB, by name

PROJECT = "onestage"  # in W&B; the experiment in MLflow
STEP = "train/step"  # W&B's charts run over it: W&B's own count can't go back to an earlier checkpoint
FINISH_SECONDS = 600.0  # W&B's upload may take at the end; what is left lies in the run folder (`wandb sync`)


@dataclass(frozen=True)
class RunStart:
    """What a tracker is told of a run when it starts.

    Attributes:
        folder: of the run.
        settings: its recipe, flat.
        step: where the run stands: charts of an earlier start are dropped from there on, where that is possible.
        ids: the run's names in services, by tracker; a tracker adds its own.
    """

    folder: Path
    settings: Mapping[str, bool | float | str | None]
    step: int
    ids: dict[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """One of the three; its constructor starts it."""

    title: str

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def images(self, title: str, images: Images, step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


class Trackers:
    """The trackers of a run; none until `start`, so only process 0 calls that."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        folder: Path,
        settings: Mapping[str, Any],
        step: int = 0,
        say: Callable[[str], None],
    ) -> None:
        """Args:
        names: of the trackers (`TrackerName`).
        folder: of the run; files go there, unless the environment (WANDB_DIR, MLFLOW_TRACKING_URI) says otherwise.
        settings: the recipe.
        step: where the run stands.
        say: given each warning, one line.

        Raises:
            UserError: no such tracker.
        """
        check_names(names)
        self._names, self._say = tuple(dict.fromkeys(names)), say
        self._folder, self._settings, self._step = folder, settings, step
        self._running: list[Tracker] = []
        self._made_state = False

    @property
    def on(self) -> bool:
        """Whether any is running: else nothing needs to be drawn for them."""
        return bool(self._running)

    def start(self) -> None:
        """Start them.

        Raises:
            UserError: a package is missing; or, when the run begins, one can't start. Later on that is a warning.
        """
        if not self._names:
            return
        remembered = self._folder / "trackers.json"
        run = RunStart(self._folder, flat(self._settings), self._step, read_ids(remembered))
        known = dict(run.ids)
        self._made_state = make_accelerate_state()
        try:
            for name in self._names:
                self._start(name, run)
        except UserError:
            self.close(failed=True)
            raise
        try:
            if run.ids != known:
                write_whole(remembered, (json.dumps(run.ids, indent=1) + "\n").encode())
        except OSError as error:
            self._say(f"warning: {remembered}: can't be written ({error.strerror}); --resume will begin new charts")

    def _start(self, name: str, run: RunStart) -> None:
        try:
            self._running.append(STARTS[name](run))
        except ImportError as error:
            raise UserError(f"--track {name}: a package is missing, {error}: pip install 'onestage[{name}]'") from error
        except Exception as error:  # whatever a service's package may raise
            reason = in_one_line(error)
            if self._step == 0:
                raise UserError(f"--track {name}: can't start ({reason}); mend that, or leave it out") from error
            self._say(f"warning: --track {name}: can't start, so it is left out ({reason})")

    def log(self, row: LogRow) -> None:
        """The numbers of an interval of training."""
        numbers = asdict(row)
        values = {f"train/{name}": numbers[name] for name in numbers if name not in ("step", "map_area")}
        self._each(lambda tracker: tracker.scalars(values, row.step))

    def evaluation(self, metrics: Mapping[str, Any], step: int) -> None:
        """The numbers of an evaluation, as `metrics.json` has them."""
        values = evaluation_scalars(metrics)
        self._each(lambda tracker: tracker.scalars(values, step))

    def images(self, title: str, images: Images, step: int) -> None:
        """Images that belong together, each under a name that stays from step to step."""
        self._each(lambda tracker: tracker.images(title, images, step))

    def close(self, failed: bool = False) -> None:
        """End them; `failed`: by an error of the run."""
        self._each(lambda tracker: tracker.close(failed))
        self._running.clear()
        if self._made_state:
            forget_accelerate_state()
            self._made_state = False

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._running):
            try:
                work(tracker)
            except Exception as error:  # a full disk, no network, whatever a service's package may raise
                self._running.remove(tracker)
                self._say(f"warning: {tracker.title} failed, so it is switched off ({in_one_line(error)})")


# --- the three


class TensorBoard:
    """Event files in `tensorboard/` of the run folder; a resumed run adds one."""

    title = "TensorBoard"

    def __init__(self, run: RunStart) -> None:
        from accelerate.tracking import TensorBoardTracker
        from torch.utils.tensorboard.summary import hparams

        earlier = any((run.folder / "tensorboard").glob("events.*"))
        how = {"purge_step": run.step + 1} if earlier else {}
        self._tracker = TensorBoardTracker("tensorboard", run.folder, **how)
        self._tracker.start()
        if not earlier:
            # accelerate's own way makes another run of the settings, apart from the charts.
            writer, shown = self._tracker.tracker.file_writer, dict.fromkeys(("voc/map_area", "coco/AP"), 0)
            assert writer is not None  # it is not closed
            for summary in hparams(dict(run.settings), shown):
                writer.add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(dict(values), step=step)

    def images(self, title: str, images: Images, step: int) -> None:
        named = {f"{title}/{name}": image for name, image in images.items()}
        self._tracker.log_images(named, step=step, dataformats="HWC")
        self._tracker.tracker.flush()

    def close(self, failed: bool) -> None:
        self._tracker.finish()


class WandB:
    """A run of Weights & Biases; its files are in `wandb/` of the run folder."""

    title = "Weights & Biases"

    def __init__(self, run: RunStart) -> None:
        import wandb
        from accelerate.tracking import WandBTracker

        self._image = wandb.Image
        self._tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT),
            dir=unless_set("WANDB_DIR", str(run.folder)),
            name=unless_set("WANDB_NAME", run.folder.resolve().name),
            id=unless_set("WANDB_RUN_ID", run.ids.get("wandb")),
            resume=unless_set("WANDB_RESUME", "allow"),
            reinit="create_new",  # a run that the user has open in this process stays open
            settings=unless_set("WANDB_FINISH_TIMEOUT", {"finish_timeout": FINISH_SECONDS}),
        )
        self._tracker.start()
        own = self._tracker.tracker
        own.config.update(dict(run.settings), allow_val_change=True)
        own.define_metric(STEP)
        own.define_metric("*", step_metric=STEP)
        run.ids["wandb"] = own.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log({**values, STEP: step})

    def images(self, title: str, images: Images, step: int) -> None:
        shown = [self._image(image, caption=name) for name, image in images.items()]
        self._tracker.log({title: shown, STEP: step})

    def close(self, failed: bool) -> None:
        if failed:
            self._tracker.tracker.finish(exit_code=1)
        else:
            self._tracker.finish()


class MLflow:
    """A run in the tracking server that MLflow is set to; without one, in `mlflow/` of the run folder."""

    title = "MLflow"

    def __init__(self, run: RunStart) -> None:
        self._mlflow = import_module("mlflow")
        from accelerate.tracking import MLflowTracker

        folder, self._own_store = run.folder.resolve() / "mlflow", not self._mlflow.is_tracking_uri_set()
        if self._own_store:
            for package in ("sqlalchemy", "alembic"):  # that mlflow-skinny comes without
                import_module(package)
            folder.mkdir(exist_ok=True)
            self._mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        try:
            self._tracker = MLflowTracker(
                PROJECT,
                run_name=run.folder.resolve().name,
                run_id=run.ids.get("mlflow"),
                logging_dir=(folder / "artifacts").as_uri() if self._own_store else None,
            )
            self._tracker.start()
            if "mlflow" not in run.ids:  # its parameters can't be changed later
                self._tracker.store_init_configuration(dict(run.settings))
        except BaseException:
            self._leave_store()
            raise
        run.ids["mlflow"] = self._tracker.tracker.info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log({re.sub(r"[^\w./: -]", "_", name): value for name, value in values.items()}, step=step)

    def images(self, title: str, images: Images, step: int) -> None:
        for name, image in images.items():
            key = re.sub(r"[^\w./ -]", "_", f"{title}/{name}", flags=re.ASCII)
            self._mlflow.log_image(image, key=key, step=step)

    def close(self, failed: bool) -> None:
        try:
            if failed:
                self._mlflow.end_run("FAILED")
            else:
                self._tracker.finish()
        finally:
            self._leave_store()

    def _leave_store(self) -> None:
        """Or the next run of this process would take this one's for the user's choice."""
        if self._own_store:
            self._mlflow.set_tracking_uri(None)


STARTS: dict[str, Callable[[RunStart], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def check_names(names: Sequence[str]) -> None:
    """Refuse what can't be tracked.

    Raises:
        UserError: no such tracker.
    """
    for name in names:
        if name not in STARTS:
            raise UserError(f"--track {name}: no such tracker; expected {', '.join(STARTS)}")


def check_packages(names: Sequence[str]) -> None:
    """Tell early, before data is looked through, what `Trackers.start` would miss; nothing is loaded.

    Raises:
        UserError: no such tracker, or its package is missing.
    """
    check_names(names)
    for name in names:
        if find_spec(name) is None:  # each is called as its package
            raise UserError(f"--track {name}: the package {name} is missing: pip install 'onestage[{name}]'")


# --- what they are given


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str | None]:
    """Nested settings under dotted names; sequences as JSON, since no tracker takes them all."""
    values: dict[str, bool | float | str | None] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return values


def evaluation_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `metrics.json` that are charted; those without a value (None, COCO's -1) are left out."""
    voc = metrics["voc"]
    values = {f"voc/{name}": voc[name] for name in ("map_area", "map_11point")}
    values |= {f"coco/{name}": value for name, value in metrics["coco"].items()}
    # a slash would make a group of its own
    values |= {f"voc/ap_area/{name.replace('/', '_')}": one["ap_area"] for name, one in voc["per_class"].items()}
    return {name: value for name, value in values.items() if value is not None and value >= 0}


def unless_set(variable: str, value: Any) -> Any:
    """The value; None where the user's environment has another."""
    return None if variable in os.environ else value


def in_one_line(error: Exception) -> str:
    """The first line of what an error says, else its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read_ids(path: Path) -> dict[str, str]:
    """`trackers.json`, or nothing where there is none.

    Raises:
        UserError: damaged.
    """
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_text())
        if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
            raise ValueError
    except ValueError as error:
        raise UserError(f"{path}: damaged; delete it, and the trackers begin new charts") from error
    return ids


# --- accelerate's state


def make_accelerate_state() -> bool:
    """accelerate's trackers ask its state which process they are in. Returns whether it was made here."""
    from accelerate import PartialState
    from accelerate.utils import clear_environment

    if PartialState._shared_state:
        return False
    # This process is alone. The launcher's variables would have a process group made, and its threads counted anew.
    with clear_environment():
        PartialState(cpu=True)
    return True


def forget_accelerate_state() -> None:
    """Or an Accelerator that the user makes later would be on the CPU."""
    from accelerate import PartialState

    PartialState._reset_state()
