"""The card of a pushed model: README.md with what a stranger has to know before using it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

import onestage
from onestage.evaluation.report_tables import decimal
from onestage.jobs.report_parts import Figure, ReportParts
from onestage.models.hub import HubName
from onestage.models.model_file import LoadedModel
from onestage.selection import USUAL_THRESHOLD
from onestage.texts import one_line

MOST_CLASSES = 100  # that are named
SAME = 0.005  # between two score thresholds that are one
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#!&~$])")
CLASS_COLUMNS = ("class", "objects", "score threshold", "recall", "precision", "AP50")


@dataclass(frozen=True)
class CardFacts:
    """What is known about a model that is pushed.

    Attributes:
        metrics: the content of `metrics.json`; None where nobody has measured it.
        report: of the same evaluation, if there is one.
        licence: of the weights, as the hub spells it; None where none was given.
        data: name of the data that it was trained on; None: unknown.
        images: figures of the report by their file names.
    """

    name: HubName
    model: LoadedModel
    metrics: Mapping[str, Any] | None
    report: ReportParts | None
    licence: str | None
    data: str | None
    images: Mapping[str, Figure]


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, with the front matter that hubs read."""
    parts = (_what_it_is(facts), _use(facts), _data(facts), _how_good(facts), _images(facts), _limits(facts))
    return "\n\n".join((_front_matter(facts), *(part for part in parts if part), _licence(facts))) + "\n"


def _front_matter(facts: CardFacts) -> str:
    config = facts.model.detector.config
    about: dict[str, Any] = {"library_name": "onestage"}
    about |= {} if facts.licence is None else {"license": facts.licence}
    about |= {"pipeline_tag": "object-detection", "tags": ["onestage", "object-detection", config.FAMILY.lower()]}
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---"


def _what_it_is(facts: CardFacts) -> str:
    detector, names = facts.model.detector, facts.model.categories.names
    paper = (inspect.getdoc(inspect.getmodule(detector.config)) or "").partition("\n")[0].rstrip(".")  # its first line
    classes = ", ".join(map(escaped, names[:MOST_CLASSES]))
    more = f" and {len(names) - MOST_CLASSES:,} more" if len(names) > MOST_CLASSES else ""
    parameters = sum(one.numel() for one in detector.parameters())
    return (
        f"# {facts.name.repository.partition('/')[2]}\n\n"
        f"A one-stage object detector, `{detector.name}`, for {len(names):,} class{'es' if len(names) > 1 else ''}: "
        f"{classes}{more}.\n\n"
        f"{escaped(paper)}; {parameters / 1e6:.1f} million parameters, input {detector.resize}. Made with onestage "
        f"{onestage.__version__}. `model.safetensors` holds the weights, the classes and all settings; loading it runs "
        "no code."
    )


def _use(facts: CardFacts) -> str:
    return (
        f'## Use\n\n```python\nimport onestage\n\npredictor = onestage.load("{facts.name}")\n'
        'found = predictor("image.jpg")  # .boxes_xyxy, .scores, .labels, .names\n```\n\n'
        f"or `onestage predict {facts.name} image.jpg`. With a commit of this repository, `{facts.name}@COMMIT`, the "
        "weights stay the same whatever is pushed here later."
    )


def _data(facts: CardFacts) -> str:
    settings = {} if facts.report is None else facts.report.settings
    lines = [f"Trained on the data set {escaped(facts.data)}." if facts.data else "What it was trained on is not told."]
    if chosen := settings.get("weights chosen on"):
        lines.append(f"The weights were chosen on {escaped(chosen)}.")
    if facts.metrics is not None:
        where = (
            f" of {escaped(settings['data'])}, {escaped(settings.get('split', 'all'))}" if "data" in settings else ""
        )
        lines.append(f"All figures are of {facts.metrics['images']:,} images{where}.")
    return "## Data\n\n" + " ".join(lines)


def _how_good(facts: CardFacts) -> str:
    thresholds = facts.model.thresholds
    found = (
        f"Scores count above the threshold of their class: {escaped(str(thresholds))}."
        if thresholds is not None
        else f"No score thresholds were found for it: scores count above {USUAL_THRESHOLD:g}."
    )
    if facts.metrics is None:
        return f"## How good it is\n\nNobody has measured it. {found}"
    voc, coco = facts.metrics["voc"], facts.metrics["coco"]
    figures = {"AP50 (VOC, area)": voc["map_area"], "AP50 (VOC, 11-point)": voc["map_11point"]}
    figures |= {"AP (COCO)": coco["AP"], "AP75 (COCO)": coco["AP75"]}
    rows, as_measured = _class_rows(facts, facts.metrics)
    sentences = () if facts.report is None or not as_measured else facts.report.sentences
    left_out = len(facts.model.categories.names) - len(rows)
    note = "Recall and precision are those at the threshold, at an IoU of 0.5; a dash: not measured at it."
    return "\n\n".join(
        (
            "## How good it is",
            *([" ".join(map(escaped, sentences))] if sentences else []),
            _table(list(figures), [[decimal(value) for value in figures.values()]]),
            f"{found} {note}" + (f" {left_out:,} more classes are in `metrics.json`." if left_out else ""),
            _table(CLASS_COLUMNS, rows),
        )
    )


def _class_rows(facts: CardFacts, metrics: Mapping[str, Any]) -> tuple[list[list[str]], bool]:
    """A row for each class, and whether all were measured at the thresholds that the model has now."""
    usual, rows, as_measured = facts.model.selection, [], True
    names = facts.model.categories.names
    scores = usual.class_thresholds or [usual.score_threshold] * len(names)
    at = metrics.get("at_thresholds", {}).get("per_class", {})
    for name, score in list(zip(names, scores, strict=True))[:MOST_CLASSES]:
        measured, ap50 = at.get(name, {}), metrics["voc"]["per_class"].get(name, {}).get("ap_area")
        there = abs(measured.get("score_threshold", -1.0) - score) < SAME
        as_measured &= there
        values = [decimal(measured[key]) if there else "-" for key in ("recall", "precision")]
        objects = metrics["voc"]["per_class"].get(name, {}).get("ground_truths", 0)
        rows.append([escaped(name), f"{objects:,}", f"{score:.2f}", *values, decimal(ap50)])
    return rows, as_measured


def _images(facts: CardFacts) -> str:
    if not facts.images or facts.metrics is None:
        return ""
    shown = "\n".join(f"![{escaped(figure.text)}]({file})" for file, figure in facts.images.items())
    colours = "Light blue: found. Yellow: not found. Orange: false alarm. Grey: not judged (difficult, crowd)."
    if not _class_rows(facts, facts.metrics)[1]:
        colours += " They were drawn at other score thresholds than it has now."
    return f"## Images\n\nSome of the images of its evaluation, with its mistakes and without. {colours}\n\n{shown}"


def _limits(facts: CardFacts) -> str:
    calibrated = facts.model.calibration is not None
    probability = (
        "A score is no probability; `probability` beside it is one, on images like those it was found on."
        if calibrated
        else "A score is no probability, and those of other models mean something else."
    )
    return (
        "## Limits\n\n"
        "- It knows no classes but these. What else looks like them is taken for them.\n"
        "- The figures hold for images like those that it was measured on: the same kind of camera, place, light and "
        f"size of objects. Measure it on yours first: `onestage evaluate {facts.name} YOUR-DATA`.\n"
        f"- {probability}\n"
        "- It misses objects and sees some that are not there, as the figures say; where that could harm someone, a "
        "person has to decide."
    )


def _licence(facts: CardFacts) -> str:
    if facts.licence is None:
        return (
            "## Licence\n\nNone is given for these weights. Until their owner gives one, nobody else has the right to "
            "use them."
        )
    return f"## Licence\n\nThe weights: {escaped(facts.licence)}. onestage itself is under Apache-2.0."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text of strangers in Markdown: one line, no markup."""
    return _MARKUP.sub(r"\\\1", one_line(text))
