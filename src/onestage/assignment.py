"""Assignment: the positions that learn an object, chosen for each object by statistics or by predictions.

Where `matching` has one IoU for all objects, ATSS (Zhang et al. 2020, arXiv 1912.02424) finds one for each object, and
task-aligned assignment (TOOD: Feng et al. 2021, arXiv 2108.07755) takes the positions that predict the object best.

As in `matching`, the objects of all images are rows of one table: a GPU gets as many operations for a large batch as
for a small one, and the host need not wait for it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from onestage.structures import Matches, Targets

MOST_PAIRS = 1 << 24  # of an object and a position at a time; each takes some 40 bytes
LEAST_DISTANCE = 0.01  # pixels that a position has to lie inside an object's sides (both releases)


class Assigned(NamedTuple):
    """Matches, and the quality that the score of each positive position learns (0 elsewhere)."""

    matches: Matches
    quality: Float[Tensor, "B A"]


@torch.no_grad()
def assign_atss(
    anchors_cxcywh: Float32[Tensor, "A 4"], level_sizes: Sequence[int], targets: Sequence[Targets], *, top_k: int = 9
) -> Matches:
    """Adaptive training sample selection, for the objects of each image of a batch; all in pixels of the input.

    Of each level, the `top_k` anchors whose centres are nearest to an object's centre are its candidates. Positive are
    those that have at least the mean plus the standard deviation of the candidates' IoU, and their centre inside the
    object; an anchor of several objects goes to the one of the highest IoU (the first of those). All others are
    negative, but ignored where their centre lies inside an ignored object.

    A departure: of the candidates inside, an object's best is always positive. It hardly ever makes a difference.

    Args:
        level_sizes: anchors of each level, in order.

    Source: Zhang 2020, algorithm 1. The standard deviation is that of a sample (n - 1), as in the release.
    """
    if _too_many(targets, len(anchors_cxcywh)):
        half = len(targets) // 2
        parts = (assign_atss(anchors_cxcywh, level_sizes, part, top_k=top_k) for part in _cut(targets, half))
        return Matches(*map(torch.cat, zip(*parts, strict=True)))
    table = _Table.of(targets, anchors_cxcywh)
    boxes_xyxy = table.objects.boxes_xyxy[:-1]
    candidates = _nearest(boxes_xyxy, anchors_cxcywh, level_sizes, top_k)  # (N, C)
    near_cxcywh = anchors_cxcywh[candidates]
    iou = paired_iou(cxcywh_to_xyxy(near_cxcywh), boxes_xyxy[:, None])
    inside = _inside(near_cxcywh[..., :2], boxes_xyxy[:, None])
    wanted = inside & ~table.objects.ignored[:-1, None]
    if iou.shape[1]:
        mean = iou.mean(dim=1, keepdim=True)
        deviation = ((iou - mean).square().sum(dim=1, keepdim=True) / max(iou.shape[1] - 1, 1)).sqrt()
        wanted &= iou >= torch.minimum(mean + deviation, iou.masked_fill(~inside, 0).amax(dim=1, keepdim=True))
    owner = table.owners(candidates, iou, wanted)
    return table.matches(owner, table.inside_ignored(anchors_cxcywh[:, :2]))


@torch.no_grad()
def assign_task_aligned(
    points_xy: Float32[Tensor, "A 2"],
    scores: Float[Tensor, "B A K"],
    boxes_xyxy: Float[Tensor, "B A 4"],
    targets: Sequence[Targets],
    *,
    alpha: float = 1.0,
    beta: float = 6.0,
    top_k: int = 13,
) -> Assigned:
    """Task-aligned assignment, for the objects of each image of a batch; all in pixels of the input.

    The alignment of a position with an object is s^alpha * u^beta: s its score for the object's class, u the IoU of
    its box with the object. Positive are an object's `top_k` positions of the highest alignment among those inside it;
    one of several objects goes to that of the highest IoU (the first of those). The quality is the alignment, scaled so
    that the largest of an object is the largest IoU of its positives. All others are negative, but ignored inside an
    ignored object.

    Source: Feng 2021, 3.2. As in PP-YOLOE (arXiv 2203.16250), positions outside an object are left out before the best
    are taken, not after.
    """
    if _too_many(targets, len(points_xy)):
        options, half = {"alpha": alpha, "beta": beta, "top_k": top_k}, len(targets) // 2
        parts = zip(_cut(scores, half), _cut(boxes_xyxy, half), _cut(targets, half), strict=True)
        matches, quality = zip(*(assign_task_aligned(points_xy, *part, **options) for part in parts), strict=True)
        return Assigned(Matches(*map(torch.cat, zip(*matches, strict=True))), torch.cat(quality))
    table = _Table.of(targets, points_xy)
    objects, (batch, num_positions) = table.objects, scores.shape[:2]
    iou = paired_iou(boxes_xyxy[table.image], objects.boxes_xyxy[:-1, None])  # (N, A)
    inside = _inside(points_xy, objects.boxes_xyxy[:-1, None]) & ~objects.ignored[:-1, None]
    alignment = scores[table.image, :, objects.labels[:-1]].pow(alpha) * iou.pow(beta)
    best, candidates = alignment.masked_fill(~inside, 0).topk(min(top_k, num_positions), dim=1)  # (N, C)
    iou = iou.gather(1, candidates)
    owner = table.owners(candidates, iou, best > 0)

    place = table.image[:, None] * num_positions + candidates
    own = owner.flatten()[place] == table.number[:, None]
    best, iou = best.masked_fill(~own, 0), iou.masked_fill(~own, 0)
    if best.shape[1]:
        largest = best.amax(dim=1, keepdim=True).clamp(min=torch.finfo(best.dtype).tiny)
        best = best / largest * iou.amax(dim=1, keepdim=True)
    quality = best.new_zeros(batch * num_positions).scatter_reduce(0, place.flatten(), best.flatten(), "amax")
    return Assigned(table.matches(owner, table.inside_ignored(points_xy)), quality.view(batch, num_positions))


class _Table(NamedTuple):
    """The objects of all images as rows."""

    objects: Targets  # (N + 1): in the end a row for positions that have no object
    image: Int64[Tensor, " N"]
    number: Int64[Tensor, " N"]  # of the row
    num_images: int
    num_positions: int

    @classmethod
    def of(cls, targets: Sequence[Targets], positions: Float[Tensor, "A _"]) -> "_Table":
        objects, image = Targets.rows_of(targets, positions.device)
        return cls(objects, image, torch.arange(len(image), device=image.device), len(targets), len(positions))

    def owners(
        self, candidates: Int64[Tensor, "N C"], iou: Float[Tensor, "N C"], wanted: Bool[Tensor, "N C"]
    ) -> Int64[Tensor, "B A"]:
        """For each position of each image, the first object of those with the highest IoU that want it; else N."""
        nobody, total = len(self.number), self.num_images * self.num_positions
        place = (self.image[:, None] * self.num_positions + candidates).flatten()
        offers = iou.masked_fill(~wanted, -1).flatten()
        best = iou.new_full((total,), -1).scatter_reduce(0, place, offers, "amax")
        number = self.number[:, None].expand_as(candidates).flatten()
        winners = torch.where(wanted.flatten() & (offers == best[place]), number, nobody)
        owner = number.new_full((total,), nobody).scatter_reduce(0, place, winners, "amin")
        return owner.view(self.num_images, self.num_positions)

    def inside_ignored(self, points_xy: Float[Tensor, "A 2"]) -> Bool[Tensor, "B A"]:
        """Positions that lie inside an ignored object."""
        inside = _inside(points_xy, self.objects.boxes_xyxy[:-1, None]) & self.objects.ignored[:-1, None]
        counts = points_xy.new_zeros(self.num_images, self.num_positions)
        return counts.index_add(0, self.image, inside.to(counts.dtype)) > 0

    def matches(self, owner: Int64[Tensor, "B A"], inside_ignored: Bool[Tensor, "B A"]) -> Matches:
        positive = owner < len(self.number)
        ignored = inside_ignored & ~positive
        boxes_xyxy, labels = self.objects.boxes_xyxy[owner], self.objects.labels[owner]
        return Matches(labels, boxes_xyxy, positive, ~(positive | ignored), ignored)


def _too_many(targets: Sequence[Targets], num_positions: int) -> bool:
    return len(targets) > 1 and sum(len(target.labels) for target in targets) * num_positions > MOST_PAIRS


def _cut(rows, half: int):
    return rows[:half], rows[half:]


def _inside(points_xy: Float[Tensor, "*A 2"], boxes_xyxy: Float[Tensor, "*N 4"]) -> Bool[Tensor, "*R"]:
    """Points that lie inside boxes, broadcast."""
    (x, y), (x0, y0, x1, y1) = points_xy.unbind(-1), boxes_xyxy.unbind(-1)
    nearest = torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))
    return nearest > LEAST_DISTANCE


def _nearest(
    boxes_xyxy: Float[Tensor, "N 4"], anchors_cxcywh: Float[Tensor, "A 4"], level_sizes: Sequence[int], top_k: int
) -> Int64[Tensor, "N C"]:
    """Of each level, the anchors whose centres are nearest to each object's centre."""
    centres = xyxy_to_cxcywh(boxes_xyxy)[:, :2, None]
    x, y = (centres - anchors_cxcywh[:, :2].t()).unbind(1)  # (N, A)
    found, start = [], 0
    for level in (x * x + y * y).split(list(level_sizes), dim=1):
        found.append(start + level.topk(min(top_k, level.shape[1]), dim=1, largest=False).indices)
        start += level.shape[1]
    return torch.cat(found, dim=1)
