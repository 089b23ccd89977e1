"""Score thresholds of a model's classes, as an evaluation found them: they travel in its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from onestage.errors import UserError
from onestage.runtime.calibration import ScoreCalibration
from onestage.settings import check_ranges, read


@dataclass(frozen=True)
class Aim:
    """What a threshold is to reach: the best F1, or as much of the other as a wanted precision or recall allows."""

    precision: float | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0.0 <= value <= 1.0:
                raise UserError(f"--wanted-{name} {value:g}: expected a share from 0 to 1, as 0.95")
        if self.precision is not None and self.recall is not None:
            raise UserError("a precision and a recall are wanted; give one of them: the other follows")

    def __str__(self) -> str:
        wanted = {name: value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name} of {value:g}" for name, value in wanted.items()) or "best F1"


BEST_F1 = Aim()


@dataclass(frozen=True)
class ClassThreshold:
    """The score above which a class's detections are worth keeping, and what that gave where it was found.

    Attributes:
        score: detections above it are kept.
        lowest, highest: where it may as well lie: 95 % of bootstrap samples of the images have theirs between.
        objects: of the class, in the images that it was found on; without any, it is that of all classes together.
        precision, recall, f1: of the detections above it, there; None where there is none.
        reached: False where no threshold has the wanted precision or recall: then it comes as near as one can.
    """

    score: float
    lowest: float
    highest: float
    objects: int
    precision: float | None
    recall: float | None
    f1: float | None
    reached: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, dict.fromkeys(("score", "lowest", "highest", "precision", "recall", "f1"), (0.0, 1.0)))


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each class, by label."""

    classes: tuple[ClassThreshold, ...]
    aim: Aim
    images: int  # that they were found on
    split: str  # of these images
    calibration: ScoreCalibration | None = None  # what scores mean there; None: too few hits to tell

    @property
    def scores(self) -> tuple[float, ...]:
        """The thresholds themselves."""
        return tuple(one.score for one in self.classes)

    def __str__(self) -> str:
        low, high = min(self.scores), max(self.scores)
        scores = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
        return f"{scores} by class ({self.aim} on {self.split}, {self.images:,} images)"

    @classmethod
    def from_header(cls, value: Any, num_classes: int, where: str) -> Thresholds | None:
        """Thresholds in a header; None where it has none, a UserError where they are damaged."""
        if value is None:
            return None
        thresholds = read(cls, value, f"{where}: thresholds")
        calibrated = num_classes if thresholds.calibration is None else len(thresholds.calibration.slopes)
        if calibrated != num_classes or len(thresholds.classes) != num_classes:
            raise UserError(
                f"{where}: {len(thresholds.classes)} thresholds for {num_classes} classes; use another copy"
            )
        return thresholds
