"""How much of a run is done, and when it is evaluated.

A run of so many `minutes` ends after them: reading the data, evaluations and the report count. What the end takes is
kept free, by the pace of what was evaluated so far, or of training before there was an evaluation.
"""

import math
from dataclasses import dataclass

from onestage.training.recipe import Recipe
from onestage.training.saved_state import Position

EVALUATION_SHARE = 0.05  # evaluations before the end take no larger part of a run of `minutes`
EVALUATED_AS_TRAINED = 0.5  # of the time of an image in training; it has no gradient, but detections to select
REPORT_SECONDS = 10.0  # and those in which Python starts, which no clock of the run has
LEAST_TRAINING = 0.5  # part of the minutes that training has, however long set-up and the end take


@dataclass(frozen=True)
class Pacing:
    """The length of a run, in steps or in minutes.

    Attributes:
        steps_per_epoch: of the training images.
        val_inputs, test_inputs: what an evaluation puts through the network: images, or their tiles.
    """

    recipe: Recipe
    steps_per_epoch: int
    val_inputs: int
    test_inputs: int

    def progress(self, position: Position) -> float:
        """Fraction of the run that is done."""
        if self.recipe.minutes is None:
            return min(1.0, position.step / self._steps)
        spent = position.seconds + position.evaluation_seconds
        return min(1.0, spent / self._seconds_before_the_end(self.recipe.minutes, position))

    @property
    def _steps(self) -> int:
        """The length of a run without minutes."""
        return max(1, self.recipe.steps or math.ceil((self.recipe.epochs or 0) * self.steps_per_epoch))

    def seconds_left(self, position: Position, seconds_a_step: float) -> float:
        """Seconds until the report is written, evaluations included, by the recent pace of a step."""
        an_evaluation, test = (
            inputs * self._seconds_an_input(position) for inputs in (self.val_inputs, self.test_inputs)
        )
        if (minutes := self.recipe.minutes) is not None:
            before = (1 - self.progress(position)) * self._seconds_before_the_end(minutes, position)
            return before + an_evaluation + test + REPORT_SECONDS
        evaluations = max(0, self.recipe.evaluations - position.evaluations)
        steps = max(0, self._steps - position.step)
        return steps * seconds_a_step + evaluations * an_evaluation + test

    def _seconds_before_the_end(self, minutes: float, position: Position) -> float:
        inputs = self.val_inputs + self.test_inputs
        end = REPORT_SECONDS + inputs * self._seconds_an_input(position)
        return max(60 * minutes - position.set_up_seconds - end, 60 * minutes * LEAST_TRAINING)

    def evaluation_due(self, position: Position) -> bool:
        """True if the recipe's next evaluation has its time, and what is left of the minutes allows it."""
        progress = self.progress(position)
        if int(progress * self.recipe.evaluations) <= position.evaluations:
            return False
        if progress >= 1 or self.recipe.minutes is None:
            return True
        takes = self.val_inputs * self._seconds_an_input(position)
        left = (1 - progress) * self._seconds_before_the_end(self.recipe.minutes, position)
        # The last evaluation comes soon, where less is left than this one and as much training behind it.
        return left >= 2 * takes and position.evaluation_seconds + takes <= EVALUATION_SHARE * position.seconds

    def _seconds_an_input(self, position: Position) -> float:
        """Seconds that an evaluation takes for an image or tile."""
        if position.longest_evaluation_seconds:
            return position.longest_evaluation_seconds / max(1, self.val_inputs)
        return EVALUATED_AS_TRAINED * position.seconds / max(1, position.images)
