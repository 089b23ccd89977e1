"""Draws the pictures of docs/concepts.md with the package's own anchors, assignment and losses.

python docs/pictures.py             # writes docs/pictures/*.svg
python docs/pictures.py FOLDER
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onestage.anchors import pyramid_anchors, ssd_anchors
from onestage.assignment import assign_atss, assign_task_aligned
from onestage.boxes import cxcywh_to_xyxy, paired_generalized_iou, paired_iou
from onestage.detectors.gfl import GFL_LIGHT
from onestage.detectors.retinanet import RETINANET, STRIDES
from onestage.detectors.ssd import SSD300
from onestage.losses import focal_loss, hardest_negatives
from onestage.matching import match_anchors
from onestage.quality_losses import distribution_focal_loss, expected_bin, quality_focal_loss
from onestage.structures import Matches, Predictions, Targets

BLUE, ORANGE, GREEN = "#2563eb", "#d97706", "#15803d"
INK, GRAY, LIGHT, PALE = "#1f2937", "#6b7280", "#c3c9d2", "#eef1f5"
INPUT = 320  # pixels, of all networks but SSD300
OBJECTS = {  # as fractions of the input
    "tall": (0.14, 0.12, 0.34, 0.78),
    "wide": (0.44, 0.52, 0.94, 0.84),
    "small": (0.7, 0.2, 0.755, 0.255),
}
COLOURS = dict(zip(OBJECTS, (BLUE, ORANGE, GREEN), strict=True))


class Drawing:
    """The elements of an SVG file, in pixels of a white page."""

    def __init__(self, width: int, height: int, about: str) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img" aria-label="{about}" font-family="DejaVu Sans, Verdana, sans-serif">',
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        ]

    def rect(self, box_xyxy: Sequence[float], fill: str = "none", stroke: str = "none", more: str = "") -> None:
        x0, y0, x1, y1 = box_xyxy
        self.lines.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="{fill}" '
            f'stroke="{stroke}" {more}/>'
        )

    def line(self, points: Sequence[tuple[float, float]], stroke: str, width: float = 1.0, more: str = "") -> None:
        listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        pen = f'stroke="{stroke}" stroke-width="{width:g}" {more}'
        self.lines.append(f'<polyline points="{listed}" fill="none" {pen}/>')

    def arrow(self, start: tuple[float, float], end: tuple[float, float], stroke: str = GRAY) -> None:
        turn = math.atan2(end[1] - start[1], end[0] - start[0])
        barbs = [(end[0] - 7 * math.cos(turn + side), end[1] - 7 * math.sin(turn + side)) for side in (0.45, -0.45)]
        self.line([start, end], stroke, 1.5)
        self.line([barbs[0], end, barbs[1]], stroke, 1.5)

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        self.lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>')

    def text(self, x: float, y: float, text: str, size: float = 12, fill: str = INK, anchor: str = "start") -> None:
        self.lines.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}">{text}</text>'
        )

    def svg(self) -> str:
        return "\n".join([*self.lines, "</svg>", ""])


def travels() -> str:
    drawing = Drawing(760, 304, "From a file to losses, detections and metrics")

    def box(x: float, y: float, name: str, about: str, fill: str = PALE) -> None:
        drawing.rect((x, y, x + 118, y + 52), fill, LIGHT, 'rx="6"')
        drawing.text(x + 59, y + 23, name, 13, INK, "middle")
        drawing.text(x + 59, y + 40, about, 10, GRAY, "middle")

    def step(start: tuple[float, float], end: tuple[float, float], name: str) -> None:
        drawing.arrow(start, end)
        drawing.text((start[0] + end[0]) / 2, min(start[1], end[1]) - 8, name, 9.5, GRAY, "middle")

    top = 40
    for x, name, about in (
        (8, "file", "image, annotation"),
        (216, "Sample", "pixels and boxes"),
        (424, "Batch", "images of one size"),
        (632, "Predictions", "logits, deltas"),
    ):
        box(x, top, name, about)
    step((126, top + 26), (216, top + 26), "data")
    step((334, top + 26), (424, top + 26), "augmentation")
    step((542, top + 26), (632, top + 26), "detector")
    drawing.arrow((483, top + 52), (483, 130))
    drawing.text(490, 115, "objects", 9.5, GRAY)
    for y, name, about, what, end in (
        (130, "Losses", "sums and a divisor", "losses", "training: divided, then backward"),
        (206, "Detections", "pixels of the image", "detect", "inference: drawn, JSON, a server's answer"),
    ):
        drawing.line([(691, top + 52), (691, y + 26)], GRAY, 1.5)
        step((691, y + 26), (542, y + 26), what)
        box(424, y, name, about, "#e7eefc")
        drawing.arrow((424, y + 26), (370, y + 26))
        drawing.text(362, y + 30, end, 11, INK, "end")
    drawing.line([(483, 258), (483, 284)], GRAY, 1.5)
    drawing.arrow((483, 284), (370, 284))
    drawing.text(362, 288, "evaluation: with ground truth, metrics and the report", 11, INK, "end")
    return drawing.svg()


class Panel:
    """A part of a drawing that shows a network's input."""

    SIDE = 170.0  # pixels of the drawing

    def __init__(self, drawing: Drawing, corner_xy: tuple[float, float], input_size: int, title: str) -> None:
        self.drawing, (self.x, self.y), self.scale = drawing, corner_xy, self.SIDE / input_size
        drawing.text(self.x, self.y - 10, title, 11.5)
        drawing.rect((self.x, self.y, self.x + self.SIDE, self.y + self.SIDE), "#fafbfc", LIGHT)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.scale, self.y + y * self.scale

    def boxes(self, boxes_xyxy: Tensor, stroke: str, width: float = 1.4, fill: str = "none") -> None:
        for x0, y0, x1, y1 in boxes_xyxy.clamp(0, self.SIDE / self.scale).tolist():  # anchors may reach outside
            self.drawing.rect((*self.at(x0, y0), *self.at(x1, y1)), fill, stroke, f'stroke-width="{width:g}"')

    def grid(self, cells: int, chosen: tuple[int, int]) -> None:
        """The cells of a map, with one of them (column, row) marked."""
        step = self.SIDE / cells
        corner = self.x + chosen[0] * step, self.y + chosen[1] * step
        self.drawing.rect((*corner, corner[0] + step, corner[1] + step), "#fde68a")
        for index in range(1, cells):
            x, y = self.x + index * step, self.y + index * step
            self.drawing.line([(x, self.y), (x, self.y + self.SIDE)], "#e3e7ed", 0.5)
            self.drawing.line([(self.x, y), (self.x + self.SIDE, y)], "#e3e7ed", 0.5)

    def below(self, line: int, text: str, fill: str = GRAY) -> None:
        self.drawing.text(self.x, self.y + self.SIDE + 16 + 14 * line, text, 10.5, fill)


def panels(drawing: Drawing, titles: Sequence[tuple[str, int]]) -> list[Panel]:
    """One beside the other; each with its title and the side of its input, pixels."""
    return [Panel(drawing, (16 + 186 * place, 36), size, title) for place, (title, size) in enumerate(titles)]


def anchors() -> str:
    drawing = Drawing(760, 240, "Anchors of one cell of two maps of SSD300 and one of RetinaNet, and a position of GFL")
    titles = [("SSD300, 38 x 38 cells", 300), ("SSD300, 10 x 10 cells", 300)]
    fine, coarse, retinanet, gfl = panels(drawing, [*titles, ("RetinaNet, 10 x 10", INPUT), ("GFL, 10 x 10", INPUT)])
    counts = SSD300.cells_at(SSD300.image_size)
    per_cell = [2 + 2 * len(ratios) for ratios in SSD300.aspect_ratios]
    of_ssd = cxcywh_to_xyxy(_ssd300_anchors())
    for panel, level, (column, row) in ((fine, 0, (18, 22)), (coarse, 2, (5, 4))):
        first = sum(n * n * a for n, a in zip(counts[:level], per_cell, strict=False))
        first += (row * counts[level] + column) * per_cell[level]
        panel.grid(counts[level], (column, row))
        panel.boxes(of_ssd[first : first + per_cell[level]], BLUE)
        panel.below(0, f"{per_cell[level]} anchors a cell")
    first = 9 * (40 * 40 + 20 * 20 + 4 * 10 + 5)
    retinanet.grid(10, (5, 4))
    retinanet.boxes(cxcywh_to_xyxy(_retinanet_anchors())[first : first + 9], ORANGE)
    retinanet.below(0, "9 anchors a cell")
    gfl.grid(10, (5, 4))
    x, y, box = 5.5 * 32, 4.5 * 32, (64.0, 60.0, 262.0, 230.0)
    gfl.boxes(torch.tensor([box]), GREEN)
    for end in ((box[0], y), (box[2], y), (x, box[1]), (x, box[3])):
        drawing.arrow(gfl.at(x, y), gfl.at(*end), GREEN)
    gfl.below(0, "no shape: four distances")
    return drawing.svg()


def _ssd300_anchors() -> Tensor:
    counts = SSD300.cells_at(SSD300.image_size)
    shapes = SSD300.strides, SSD300.anchor_sizes, SSD300.aspect_ratios
    return ssd_anchors(SSD300.image_size, [(n, n) for n in counts], *shapes, SSD300.clip_anchors)


def _retinanet_anchors() -> Tensor:
    counts = [math.ceil(INPUT / stride) for stride in STRIDES]
    shapes = RETINANET.anchor_sizes, RETINANET.anchor_scales, RETINANET.aspect_ratios
    return pyramid_anchors((INPUT, INPUT), [(n, n) for n in counts], *shapes)


def assignment() -> str:
    drawing = Drawing(760, 290, "The anchors that learn three objects, by four rules")
    titles = [("SSD: IoU 0.5, or the best", 300), ("RetinaNet: IoU 0.5", INPUT)]
    ssd, retinanet, atss, aligned = panels(drawing, [*titles, ("ATSS", INPUT), ("task-aligned", INPUT)])

    anchors_cxcywh = _ssd300_anchors()
    matches = match_anchors(anchors_cxcywh, [targets(300)], positive_iou=0.5, negative_iou=0.5, keep_best=True)
    _positives(ssd, matches, cxcywh_to_xyxy(anchors_cxcywh), None)

    anchors_cxcywh = _retinanet_anchors()
    ious = {"positive_iou": RETINANET.positive_iou, "negative_iou": RETINANET.negative_iou}
    matches = match_anchors(anchors_cxcywh, [targets(INPUT)], **ious, best_ties="one", keep_best=RETINANET.keep_best)
    _positives(retinanet, matches, cxcywh_to_xyxy(anchors_cxcywh), None)
    retinanet.below(3, f"ignored (IoU 0.4 to 0.5): {int(matches.ignored.sum())}")

    counts = [math.ceil(INPUT / stride) for stride in GFL_LIGHT.strides]
    squares = GFL_LIGHT.laid_anchors((INPUT, INPUT), tuple((n, n) for n in counts))
    sizes = [n * n for n in counts]
    strides = torch.cat([torch.full((n,), stride) for n, stride in zip(sizes, GFL_LIGHT.strides, strict=True)])
    matches = assign_atss(squares, sizes, [targets(INPUT)], top_k=GFL_LIGHT.atss_top_k)
    _positives(atss, matches, cxcywh_to_xyxy(squares), strides)

    scores, boxes_xyxy = _half_learned(squares[:, :2], strides)
    matches, _ = assign_task_aligned(squares[:, :2], scores[None], boxes_xyxy[None], [targets(INPUT)])
    _positives(aligned, matches, cxcywh_to_xyxy(squares), strides)
    return drawing.svg()


def targets(input_size: int) -> Targets:
    """The three objects of the pictures, in an input of this size."""
    boxes_xyxy = input_size * torch.tensor(list(OBJECTS.values()))
    return Targets(boxes_xyxy, torch.arange(len(OBJECTS)), torch.zeros(len(OBJECTS), dtype=torch.bool))


def _positives(panel: Panel, matches: Matches, anchors_xyxy: Tensor, strides: Tensor | None) -> None:
    """Draw the objects and their positive anchors: as boxes, or as dots that grow with the stride of the level."""
    size = round(panel.SIDE / panel.scale)
    for label, (name, box) in enumerate(zip(OBJECTS, targets(size).boxes_xyxy, strict=True)):
        own = matches.positive[0] & (matches.labels[0] == label)
        panel.boxes(box[None], COLOURS[name], 0, fill=COLOURS[name] + "30")
        if strides is None:
            panel.boxes(anchors_xyxy[own], COLOURS[name], 0.7)
        else:
            for (x0, y0, x1, y1), stride in zip(anchors_xyxy[own].tolist(), strides[own].tolist(), strict=True):
                panel.drawing.dot(*panel.at((x0 + x1) / 2, (y0 + y1) / 2), 0.9 + stride**0.5 / 3, COLOURS[name])
        panel.below(label, f"{name}: {int(own.sum())}", COLOURS[name])


def _half_learned(points_xy: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Made-up scores and boxes of a network in mid-training.

    It knows an object by its upper left part: the further from there, the lower the score and the worse the box; and
    it is best where the stride is an eighth of the object's longer side.
    """
    objects = targets(INPUT).boxes_xyxy
    corner, sides = objects[:, :2], objects[:, 2:] - objects[:, :2]
    away = ((points_xy[:, None] - corner - 0.3 * sides) / sides).norm(dim=2)  # (A, N)
    away = away + 0.3 * (8 * strides[:, None] / sides.amax(dim=1)).log2().abs()
    nearest = away.argmin(dim=1)
    shift = 0.35 * away.amin(dim=1, keepdim=True) * sides[nearest]
    return (-2 * away).exp(), objects[nearest] + torch.cat([shift, 0.5 * shift], dim=1)


class Axes:
    """A part of a drawing with a curve in it: x and y from 0 to the largest."""

    def __init__(self, drawing: Drawing, box_xyxy: Sequence[float], most_xy: tuple[float, float], title: str) -> None:
        self.drawing, (self.x0, self.y0, self.x1, self.y1), self.most_xy = drawing, box_xyxy, most_xy
        drawing.text(self.x0, self.y0 - 12, title, 12)
        drawing.line([(self.x0, self.y0), (self.x0, self.y1), (self.x1, self.y1)], GRAY)

    def at(self, x: float, y: float) -> tuple[float, float]:
        most_x, most_y = self.most_xy
        return self.x0 + (self.x1 - self.x0) * x / most_x, self.y1 - (self.y1 - self.y0) * y / most_y

    def curve(self, points: Sequence[tuple[float, float]], stroke: str) -> None:
        self.drawing.line([self.at(x, y) for x, y in points if y <= self.most_xy[1]], stroke, 2)

    def bar(self, x: float, width: float, height: float, fill: str) -> None:
        self.drawing.rect((*self.at(x, height), *self.at(x + width, 0)), fill)

    def marks(self, values: Sequence[float], name: str) -> None:
        for value in values:
            self.drawing.text(self.at(value, 0)[0], self.y1 + 14, f"{value:g}", 10, GRAY, "middle")
        self.drawing.text((self.x0 + self.x1) / 2, self.y1 + 29, name, 10.5, GRAY, "middle")


def hard_negatives() -> str:
    """Sixty anchors, three of them positive, in the order of their losses."""
    drawing = Drawing(760, 230, "Losses of sixty anchors; the nine hardest negatives count")
    rng = np.random.default_rng(7)
    logits = torch.from_numpy(np.append(rng.normal(3.0, 1.6, (60, 1)), rng.normal(0, 1, (60, 3)), 1)).float()
    positive = torch.zeros(60, dtype=torch.bool)
    positive[[9, 10, 34]] = True
    nothing = torch.zeros(1, 60, dtype=torch.bool)
    matches = Matches(positive.long()[None], torch.zeros(1, 60, 4), positive[None], ~positive[None], nothing)
    losses = F.cross_entropy(logits, torch.where(positive, 2, 0), reduction="none")
    chosen = hardest_negatives(losses[None], matches)[0]
    axes = Axes(drawing, (40, 40, 740, 180), (60, 1.05 * losses.max().item()), "cross entropy of each anchor")
    for index in range(60):
        fill = BLUE if positive[index] else ORANGE if chosen[index] else LIGHT
        axes.bar(index + 0.15, 0.7, losses[index].item(), fill)
    counts = (int(positive.sum()), BLUE, "positive"), (int(chosen.sum()), ORANGE, "hardest negatives")
    left = len(positive) - sum(count for count, _, _ in counts)
    for place, (count, fill, name) in enumerate((*counts, (left, LIGHT, "negatives that teach nothing in this step"))):
        x = 40 + 130 * place + 30 * (place > 1)
        drawing.rect((x, 200, x + 11, 211), fill)
        drawing.text(x + 17, 210, f"{count} {name}", 11)
    return drawing.svg()


def focal() -> str:
    drawing = Drawing(760, 270, "Focal loss and quality focal loss by the score")
    scores = torch.linspace(0.01, 0.99, 99)
    logits = (scores / (1 - scores)).log()
    left = Axes(drawing, (40, 40, 355, 215), (1, 4), "an object: loss by its score")
    for gamma, stroke, name, at in ((0.0, GRAY, "cross entropy (gamma 0)", 2.2), (2.0, BLUE, "focal (gamma 2)", 0.2)):
        left.curve([(p, _focal(logit, gamma)) for p, logit in zip(scores.tolist(), logits, strict=True)], stroke)
        drawing.text(*left.at(0.03 if gamma else 0.25, at), name, 11, stroke)
    left.marks((0, 0.5, 1), "score of the right class")
    right = Axes(drawing, (415, 40, 730, 215), (1, 1.2), "quality focal loss: the score learns the quality")
    for quality, stroke in ((0.0, GRAY), (0.6, ORANGE), (0.9, BLUE)):
        right.curve([(p, _quality_focal(x, quality)) for p, x in zip(scores.tolist(), logits, strict=True)], stroke)
        drawing.dot(*right.at(quality, 0), 3.5, stroke)
        drawing.text(right.at(quality, 0)[0], 229, f"{quality:g}", 11, stroke, "middle")
    right.marks((), "score; dots: qualities of 0 (background), 0.6 and 0.9")
    return drawing.svg()


def _focal(logit: Tensor, gamma: float) -> float:
    """The focal loss of one positive anchor and one class, not weighted by alpha."""
    yes, no, box = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 4)
    matches = Matches(no.long(), box, yes, no, no)
    found = Predictions(logit.reshape(1, 1, 1), torch.zeros(1, 1, 4))
    return focal_loss(found, matches, box[0], (1.0, 1.0), alpha=1.0, gamma=gamma).sums["classification"].item()


def _quality_focal(logit: Tensor, quality: float) -> float:
    label, ignored = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    return quality_focal_loss(logit.reshape(1, 1, 1), label, torch.full((1, 1), quality), ignored).item()


def distribution() -> str:
    """A side's distribution before and after the distribution focal loss pulled at it."""
    drawing = Drawing(760, 240, "A side as a distribution, before and after learning")
    logits = torch.tensor([0.0, 0.4, 0.9, 0.7, 0.2, 1.1, 0.6, 0.1, -0.3]).expand(1, 4, 9).clone().requires_grad_()
    distances = torch.full((1, 4), 3.3)
    for left, title in ((40, "at first"), (425, "after 150 steps")):
        axes = Axes(drawing, (left, 44, left + 305, 180), (9, 0.75), "")
        shares, mean = logits[0, 0].softmax(0).tolist(), expected_bin(logits).mean().item()
        loss = distribution_focal_loss(logits, distances).item()
        drawing.text(left, 28, f"{title}: mean {mean:.1f} strides, loss {loss:.2f}", 12)
        for index, share in enumerate(shares):
            axes.bar(index + 0.1, 0.8, share, BLUE if index in (3, 4) else LIGHT)
        for value, stroke in ((3.3, INK), (mean, ORANGE)):
            axes.curve([(value + 0.5, 0.0), (value + 0.5, 0.7)], stroke)
        axes.marks([], "distance of the side, in strides")
        for index in range(9):
            drawing.text(axes.at(index + 0.5, 0)[0], 194, str(index), 10, GRAY, "middle")
        for _ in range(150):
            (gradient,) = torch.autograd.grad(distribution_focal_loss(logits, distances).sum(), logits)
            logits = (logits - 4 * gradient).detach().requires_grad_()
    drawing.text(40, 230, "black: where the side is, 3.3", 11)
    drawing.text(225, 230, "orange: the mean, which is the box", 11, ORANGE)
    drawing.text(460, 230, "blue: the two bins that the loss raises", 11, BLUE)
    return drawing.svg()


def giou() -> str:
    drawing = Drawing(760, 205, "IoU and GIoU of four pairs of boxes")
    one = torch.tensor([20.0, 30.0, 80.0, 90.0])
    others = ((35, 40, 95, 100), (65, 30, 125, 90), (95, 30, 155, 90), (110, 90, 160, 140))
    for place, sides in enumerate(others):
        other, left = torch.tensor(sides).float(), 10 + 188 * place
        around = torch.cat([torch.minimum(one, other)[:2], torch.maximum(one, other)[2:]])
        for box, stroke, more in ((around, LIGHT, 'stroke-dasharray="4 3"'), (one, BLUE, ""), (other, ORANGE, "")):
            x0, y0, x1, y1 = box.tolist()
            drawing.rect((left + x0, y0, left + x1, y1), "none", stroke, f'stroke-width="2" {more}')
        iou, generalized = paired_iou(one, other).item(), paired_generalized_iou(one, other).item()
        drawing.text(left + 20, 168, f"IoU {iou:.2f}, GIoU {generalized:.2f}", 11)
        drawing.text(left + 20, 186, f"loss {1 - generalized:.2f}", 11, GRAY)
    return drawing.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "travels": travels,
    "anchors": anchors,
    "assignment": assignment,
    "hard_negatives": hard_negatives,
    "focal": focal,
    "distribution": distribution,
    "giou": giou,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
