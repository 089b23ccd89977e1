"""Start a detector from another one: every layer that fits is taken, the rows of the class head by class name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from onestage.detectors import Detector, DetectorConfig, build, detector_config
from onestage.errors import UserError
from onestage.models.hub import hub_name
from onestage.models.imagenet import download_torchvision
from onestage.models.import_weights import checkpoint_settings, find_layout, import_weights, number_of_classes
from onestage.models.layouts.layout import Layout
from onestage.models.model_file import is_model_file, load_model
from onestage.models.weight_files import read_state_dict
from onestage.structures import Categories
from onestage.texts import counted

# torchvision's published COCO detectors that we have the networks of
PUBLISHED = {
    "ssd300_vgg16": "ssd300-vgg16",
    "retinanet_resnet50_fpn": "retinanet-resnet50",
    "retinanet_resnet50_fpn_v2": "retinanet-resnet50",
}
PREFIX = "torchvision:"


@dataclass(frozen=True)
class Start:
    """A trained detector from which another one starts.

    Attributes:
        source: where it comes from, as the user named it.
        detector: in evaluation mode.
        categories: its classes; None where its file does not name them.
    """

    source: str
    detector: Detector
    categories: Categories | None

    @property
    def backbone(self) -> str:
        return _backbone(self.detector)

    def describe(self) -> str:
        return f"{self.source} ({self.detector.name}, {counted(self.detector.num_classes, 'class')})"


def open_start(source: str | os.PathLike[str], detector: str | None = None) -> Start:
    """Open what a training is to start from.

    Args:
        source: a run folder, a model file, a hub's name, `torchvision:NAME` of a published COCO detector, or a
            checkpoint of another project as `onestage import` reads it.
        detector: the network that such a checkpoint holds; the others say it themselves.

    Raises:
        UserError: nothing there, a file that is damaged or no detector, or no network to download from.
    """
    source = os.fspath(source)
    if source.startswith(PREFIX):
        return _published(source.removeprefix(PREFIX))
    on_hub, path = hub_name(source) is not None, Path(source)
    if not on_hub and path.suffix in (".onnx", ".xml"):
        raise UserError(f"--from {source}: an exported file can't be trained; give the run folder or the model file")
    if not on_hub and not path.exists():
        raise UserError(f"--from {source}: no such file or folder; give a run folder, a model file or {PREFIX}NAME")
    if on_hub or path.is_dir() or is_model_file(path):
        model = load_model(source)
        return Start(source, model.detector, model.categories)
    state_dict = read_state_dict(path)
    find_layout(state_dict, None, source=f"--from {source}")
    if detector is None:
        raise UserError(f"--from {source}: a checkpoint of another project does not name its network; add --detector")
    return _foreign(source, detector, state_dict)


def _published(name: str) -> Start:
    """One of torchvision's detectors, trained on COCO; its weights are downloaded once."""
    if name not in PUBLISHED:
        raise UserError(
            f"--from {PREFIX}{name}: not known; expected one of {', '.join(map(PREFIX.__add__, PUBLISHED))}"
        )
    weights = get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    mend = "bring the file, and give it as --from FILE with --detector"
    _, state_dict = download_torchvision(weights.url, f"COCO weights of {name}", mend)
    return _foreign(f"{PREFIX}{name}", PUBLISHED[name], state_dict)


def _foreign(source: str, name: str, state_dict: dict[str, Tensor]) -> Start:
    """The detector of another project's checkpoint, with as many classes as that has."""
    config, told = detector_config(name), f"--from {source}"
    layout = find_layout(state_dict, None, config.FAMILY, told)
    config = replace(config, **checkpoint_settings(state_dict, config, source=told))
    categories = None
    num_classes = _number_of_classes(state_dict, name, config, layout)
    coco = _torchvisions_coco_names()
    if layout.name == "torchvision" and num_classes in (len(coco), len(coco) + 1):  # with its slot for background
        num_classes, categories = len(coco), Categories.from_names(coco)
    detector = build(name, num_classes, config=config)
    import_weights(detector, state_dict, layout.name, source=told)
    return Start(source, detector.eval(), categories)


def _number_of_classes(state_dict: dict[str, Tensor], name: str, config: DetectorConfig, layout: Layout) -> int:
    """How many classes a checkpoint's head has, by its rows."""
    with torch.device("meta"):
        probe = build(name, 1, config=config)
    found = number_of_classes(probe, layout.rename(state_dict, probe.state_dict(), 1))
    if found is None:
        raise UserError(f"checkpoint of {layout.project}: it has no class head that {name} knows")
    return found


def _torchvisions_coco_names() -> list[str]:
    """torchvision's 90 names of COCO's ids 1 to 90; an id that no class has is called N/A and its number."""
    names = get_model_weights("ssd300_vgg16").DEFAULT.meta["categories"]  # pyright: ignore[reportAttributeAccessIssue]
    return [f"N/A {number}" if name == "N/A" else name for number, name in enumerate(names) if number]


# --- what fits


@dataclass(frozen=True)
class Taken:
    """What a detector took from another one.

    Attributes:
        parts: numbers of layers by the network's parts ("backbone", "head"): taken, taken in part, fresh, left.
        classes: label -> label of the other detector, for classes that it knows.
        lines: what is printed.
    """

    parts: Mapping[str, Sequence[int]]
    classes: Mapping[int, int]
    lines: tuple[str, ...]


@torch.no_grad()
def take_layers(detector: Detector, categories: Categories, start: Start) -> Taken:
    """Copy every layer of `start` that fits into a detector, in place, and normalise as it does.

    A layer fits if it has the same name and shape. From a detector of another family the backbone alone is taken. In
    the convolutions that give class logits the rows of classes with the same name are taken (see `same_classes`), and
    those of background; the rows of new classes stay fresh, with biases as far from the background's as those of a
    fresh network.

    Raises:
        UserError: it has another backbone, without which the rest is of no use; or nothing of it fits.
    """
    if _backbone(detector) != start.backbone:
        raise UserError(
            f"--from {start.describe()}: its backbone is {start.backbone}, that of {detector.name} is another; give a "
            "detector on the same backbone, or start from ImageNet weights"
        )
    own, theirs = detector.state_dict(), start.detector.state_dict()
    same_family = detector.config.FAMILY == start.detector.config.FAMILY
    of_both = {name for name in own if name in theirs and (same_family or name.startswith("backbone."))}
    class_entries = {f"{layer}.{kind}" for layer in detector.class_layers() for kind in ("weight", "bias")}
    known = same_classes(categories.names, start.categories.names if start.categories else ())
    taken, in_part = set[str](), set[str]()
    for _, names in _by_layer(own):
        shared = [name for name in names if name in of_both]
        pairs = [(own[name], theirs[name]) for name in shared]
        if class_entries.isdisjoint(shared):
            if all(mine.shape == given.shape for mine, given in pairs):
                taken.update(shared)
        elif all(_rows_fit(detector, *pair, start.detector) for pair in pairs):
            for pair in pairs:
                _take_rows(detector, *pair, start.detector, known)
            if known or detector.BACKGROUND_LOGITS:
                (taken if len(known) == detector.num_classes else in_part).update(shared)
    for name in taken - class_entries:
        own[name].copy_(theirs[name])
    if not taken:
        raise UserError(f"--from {start.describe()}: no layer of it fits {detector.name}, whose settings are others")
    detector.set_normalization(start.detector.normalization.mean, start.detector.normalization.std)
    if not class_entries & (taken | in_part):
        known = {}
    parts = _count_layers(own, theirs, taken, in_part)
    return Taken(parts, known, tuple(_lines(detector, categories, start, parts, known)))


def _backbone(detector: Detector) -> str:
    """The network behind a detector's first hyphen, without the tag of its weights."""
    return detector.name.partition("-")[2].partition(".")[0]


def _rows_fit(detector: Detector, own: Tensor, theirs: Tensor, other: Detector) -> bool:
    """True where both have rows of as many anchors a cell, and rows of the same shape."""
    before = detector.BACKGROUND_LOGITS
    anchors = len(own) // (before + detector.num_classes)
    return len(theirs) == anchors * (before + other.num_classes) and own.shape[1:] == theirs.shape[1:]


def _take_rows(detector: Detector, own: Tensor, theirs: Tensor, other: Detector, known: Mapping[int, int]) -> None:
    """Take the rows of background and of known classes."""
    before = detector.BACKGROUND_LOGITS
    rows = own.unflatten(0, (-1, before + detector.num_classes))
    given = theirs.unflatten(0, (-1, before + other.num_classes))
    if own.ndim == 1:  # biases
        rows[:, before:] += given[:, :before] - rows[:, :before] if before else 0.0
    rows[:, :before] = given[:, :before]
    if known:
        to, source = (torch.tensor(labels) + before for labels in (list(known), list(known.values())))
        rows[:, to] = given[:, source]


def _count_layers(
    own: Iterable[str], theirs: Iterable[str], taken: set[str], in_part: set[str]
) -> dict[str, list[int]]:
    """Layers of each part of both networks: taken, taken in part, fresh, and left."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for layer, names in _by_layer(own):
        in_full, partly = all(name in taken for name in names), any(name in taken | in_part for name in names)
        counts[layer.partition(".")[0]][0 if in_full else 1 if partly else 2] += 1
    for layer, names in _by_layer(theirs):
        if not any(name in taken | in_part for name in names):
            counts[layer.partition(".")[0]][3] += 1
    return dict(counts)


def _by_layer(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    names = (name for name in names if not name.endswith("num_batches_tracked"))
    return [(layer, list(group)) for layer, group in groupby(names, lambda name: name.rpartition(".")[0])]


def _lines(
    detector: Detector,
    categories: Categories,
    start: Start,
    parts: Mapping[str, Sequence[int]],
    known: Mapping[int, int],
) -> list[str]:
    lines = [f"from {start.describe()}:", f"  {'layers of':12}{'taken':>9}{'in part':>9}{'fresh':>9}{'left':>9}"]
    lines += [f"  {part:12}" + "".join(f"{count or '-':>9}" for count in counts) for part, counts in parts.items()]
    if start.detector.config.FAMILY != detector.config.FAMILY:
        lines.append(f"  it is a {start.detector.config.FAMILY}, so its backbone alone is taken")
        return lines
    if start.categories is None:
        lines.append("  classes: its file does not name them, so all start fresh; `onestage import` gives it names")
        return lines
    olds, news = start.categories.names, categories.names
    as_known = [
        new if new == olds[known[label]] else f"{new} (there {olds[known[label]]})"
        for label, new in enumerate(news)
        if label in known
    ]
    fresh = [name for label, name in enumerate(news) if label not in known]
    left = [name for label, name in enumerate(olds) if label not in known.values()]
    for what, names in (("taken", as_known), ("fresh", fresh), ("left", left)):
        if names:
            lines.append(
                f"  classes {what}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if names[8:] else ''}"
            )
    return lines


# --- classes by name


def same_classes(new: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    """For each label of `new` whose class `old` has too, its label there; one to one.

    The same name comes first, then names that differ only in case, in `_`, `-` and blanks, or in an English plural.
    """
    found: dict[int, int] = {}
    for names_of_new, names_of_old in (
        (_as_it_is, _as_it_is),
        (_plain, _plain),
        (_plain, _plurals),
        (_plurals, _plain),
    ):
        there: dict[str, int] = {}
        for label in sorted(set(range(len(old))) - set(found.values())):
            for name in names_of_old(old[label]):
                there.setdefault(name, label)
        for label, name in enumerate(new):
            matched = next((there[one] for one in names_of_new(name) if one in there), None)
            if label not in found and matched is not None and matched not in found.values():
                found[label] = matched
    return dict(sorted(found.items()))


def _as_it_is(name: str) -> tuple[str, ...]:
    return (name,)


def _plain(name: str) -> tuple[str, ...]:
    name = unicodedata.normalize("NFC", name).strip().casefold()
    return (re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", name),)


def _plurals(name: str) -> tuple[str, ...]:
    (name,) = _plain(name)
    return (f"{name}s", f"{name}es", *((f"{name[:-1]}ies",) if name.endswith("y") else ()))
