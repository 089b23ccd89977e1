"""Publish a model on a hub: its file, a model card, the metrics, the recipe and the report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onestage
from onestage.errors import UserError
from onestage.jobs.model_card import CardFacts, model_card
from onestage.jobs.report_parts import Figure, ReportParts, read_report
from onestage.models.hub import MODEL_FILE, HubName, client_errors_of, hub_name
from onestage.models.model_file import RunFolder, is_model_file, load_model
from onestage.terminal import Display, command_display
from onestage.whole_file import write_whole

CARD, REPORT = "README.md", "report.html"
IMAGES = re.compile(r"images/(?:wrong|right)-\d\.jpg")  # of a card
MOST_IMAGES = 3  # of each kind
LARGEST_JSON = 16 << 20  # bytes of metrics.json and recipe.json
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,48}")


@dataclass(frozen=True)
class Pushed:
    """A model that was published, or whose files were written into a folder."""

    name: str  # hf://USER/NAME@COMMIT; of a folder, its path
    files: tuple[str, ...]


def push(
    model: str | os.PathLike[str],
    to: str,
    *,
    licence: str | None = None,
    data_name: str | None = None,
    public: bool = False,
    without_images: bool = False,
    keep_card: bool = False,
    out: str | os.PathLike[str] | None = None,
    display: Display | None = None,
) -> Pushed:
    """Publish a model as a commit of a hub's repository, which is made if it is not there, private.

    What is pushed: `model.safetensors`; `README.md`, the model card; and of a run or an evaluation beside the model
    `metrics.json`, `recipe.json`, `report.html` and some of its images. Names of folders of this machine are left out.

    Args:
        model: a run folder or a model file.
        to: `hf://USER/NAME`.
        licence: of the weights, as the hub spells it ("apache-2.0", "cc-by-4.0", "other"). None: none is given.
        data_name: name of the data in the card; None takes the name of the folder that the run was trained on.
        public: a repository that is made is public.
        without_images: leave out the report and its images, which show the data.
        keep_card: leave the README.md as it is, if there is one.
        out: write the files into this folder, and push nothing.
        display: where messages go.

    Raises:
        UserError: no such model, no name of a hub, files in `out`, no right to write there, or no network.
    """
    display, name = command_display(display), hub_name(to)
    if name is None or name.revision is not None:
        raise UserError(f"push to {to}: expected hf://USER/NAME, without a revision; the push makes a new one")
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f"--licence {licence}: expected an identifier of the hub, as apache-2.0, mit, cc-by-4.0, other")
    files = _files(model, name, licence, data_name, without_images)
    if licence is None:
        display.say(
            "no --licence: until you give one (apache-2.0, cc-by-4.0, ...), nobody else may use the weights; what the "
            "training images and the weights it started from allow is for you to find out"
        )
    sizes = [(file, len(what) if isinstance(what, bytes) else what.stat().st_size) for file, what in files.items()]
    display.say(*(f"  {file:22}{size / 1e3:12,.1f} kB" for file, size in sizes))
    if out is not None:
        return _write(files, Path(out), display)
    return _commit(files, name, public, keep_card, display)


def _files(
    model: str | os.PathLike[str], name: HubName, licence: str | None, data_name: str | None, without_images: bool
) -> dict[str, bytes | Path]:
    """What is pushed, by its name in the repository."""
    path = Path(model)
    if hub_name(model) is not None:
        raise UserError(f"{model}: lies on a hub already; give a run folder or a model file")
    path = RunFolder(path).model if path.is_dir() else path
    if not is_model_file(path):
        raise UserError(f"{path}: not a model file; give a run folder or a model file (.safetensors)")
    loaded, folder = load_model(path), _evaluation_of(path)
    metrics, report = (None, None) if folder is None else (_json(folder.metrics), _report(folder))
    shown = report if report is not None and not without_images else None
    images: dict[str, Figure] = {}
    if shown is not None:
        kinds = {"wrong": shown.wrong, "right": shown.right}
        for kind, figures in kinds.items():
            images |= {f"images/{kind}-{place + 1}.jpg": one for place, one in enumerate(figures[:MOST_IMAGES])}
    if data_name is None and report is not None and folder is not None and folder.root == path.parent:
        data_name = report.settings.get("data", "").strip(".") or None  # `onestage train .` names none
    card = model_card(CardFacts(name, loaded, metrics, report, licence, data_name, images))
    files: dict[str, bytes | Path] = {MODEL_FILE: path, CARD: card.encode()}
    if folder is not None:
        files[folder.metrics.name] = folder.metrics
    run = RunFolder(path.parent)
    if path == run.model and run.recipe.exists():
        files[run.recipe.name] = run.recipe
    if shown is not None:
        files[REPORT] = shown.page.encode()
    return files | {file: figure.jpeg for file, figure in images.items()}


def _evaluation_of(model: Path) -> RunFolder | None:
    """The run or the evaluation that measured a model file; None if there is none, or it measured another file."""
    run, beside = RunFolder(model.parent), RunFolder(model.parent / "evaluation")
    if model.name == MODEL_FILE and run.metrics.exists():
        return run
    report = _report(beside)
    if report is None or not beside.metrics.exists():
        return None
    return beside if report.settings.get("model") in (model.name, model.parent.resolve().name) else None


def _report(folder: RunFolder) -> ReportParts | None:
    return read_report(folder.report) if folder.report.exists() else None


def _json(path: Path) -> Mapping[str, Any]:
    """The content of `metrics.json`."""
    try:
        content: Any = json.loads(path.read_text("utf-8")) if path.stat().st_size <= LARGEST_JSON else None
        _ = content["voc"]["per_class"], content["coco"]["AP"], content["images"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not the metrics of an evaluation; evaluate again") from error
    return content


def _write(files: Mapping[str, bytes | Path], folder: Path, display: Display) -> Pushed:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder}: has files already; name a new folder")
    for file, what in files.items():
        write_whole(folder / file, what if isinstance(what, bytes) else what.read_bytes())
    display.say(f"written, and not pushed: {folder}")
    return Pushed(str(folder), tuple(files))


def _commit(
    files: Mapping[str, bytes | Path], name: HubName, public: bool, keep_card: bool, display: Display
) -> Pushed:
    """Make the repository, if it is not there, and push the files as one commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="onestage", library_version=onestage.__version__)
    with client_errors_of(f"push to {name}"):
        address = api.create_repo(name.repository, private=not public, exist_ok=True)
        there = api.model_info(name.repository)
        before = {one.rfilename for one in there.siblings or ()}
        ours = [file for file in files if not (keep_card and file == CARD and CARD in before)]
        # A report and images of an earlier push show what is no longer so, or should no longer be seen.
        stale = sorted(file for file in before.difference(files) if file == REPORT or IMAGES.fullmatch(file))
        operations = [
            *(CommitOperationAdd(path_in_repo=file, path_or_fileobj=files[file]) for file in ours),
            *(CommitOperationDelete(path_in_repo=file) for file in stale),
        ]
        message = f"Push {Path(name.repository).name} by onestage {onestage.__version__}"
        commit = api.create_commit(name.repository, operations, commit_message=message)
    who = "you and those whom you let in" if there.private else "everybody"
    display.say(
        f"pushed to {address}, which {who} can see: {len(ours)} files"
        + (f"; removed: {', '.join(stale)}" if stale else ""),
        f"model: hf://{name.repository}@{commit.oid}",
    )
    if public and there.private:
        display.say("the repository was there already, and is private; its settings on the hub make it public")
    return Pushed(f"hf://{name.repository}@{commit.oid}", tuple(ours))
