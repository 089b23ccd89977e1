"""A recipe: every setting of a training run, as one frozen value.

The functions in `onestage.recipes` return these; `recipe.json` in a run folder holds the one that was used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from onestage.augmentation import Augmentation
from onestage.errors import UserError

NETWORK_FIELDS = (
    *("anchor_sizes", "aspect_ratios", "image_size", "edges", "neck", "backbone_norm", "sfam"),
    *("checkpoint_activations", "negatives_per_positive", "box_loss"),
)


@dataclass(frozen=True)
class Recipe:
    """What is trained, how, and for how long. Exactly one of `epochs`, `steps` and `minutes` is set.

    Learning-rate schedules are functions of the run's progress (0 to 1), so a recipe keeps its shape when its length
    is changed. See `onestage.training.schedule`.
    """

    detector: str = "ssd300-vgg16"

    # --- the length of the run
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None  # of training; set-up and evaluations are not counted
    batch_size: int = 32  # images a step, over all processes
    accumulate: int = 1  # a step's images go through the network in so many parts: less memory, the same losses
    repeat: int = 1  # an epoch shows every image this many times

    # --- the network; None: the detector's own. Each is for the detectors that have it (`DetectorConfig.adjusted`)
    anchor_sizes: tuple[float, ...] | None = None  # pixels of the network's input
    aspect_ratios: tuple[float, ...] | None = None  # RetinaNet: width / height
    image_size: int | None = None  # RetinaNet: every image stretched to a square of so many pixels
    edges: tuple[int, int] | None = None  # RetinaNet: what the shorter side becomes, and the longer one's limit
    neck: Literal["none", "top_down"] | None = None  # SSD: a way back from deep maps to fine ones
    backbone_norm: Literal["batch", "frozen"] | None = None  # RetinaNet: frozen ones stay as their weights have them
    sfam: bool | None = None  # M2Det: attention over channels (Zhao 2019, 3.2)
    checkpoint_activations: bool | None = None  # M2Det: less memory, more time
    quick_start: bool = False  # batch norms in fresh layers and a calm head (`DetectorConfig.with_quick_start`)
    train_stem: bool = True  # False: the backbone's first layers (`FeatureMaps.stem`) keep their weights
    frozen: tuple[str, ...] = ()  # parameters whose name starts so are not trained

    # --- the loss; None: the detector's own
    negatives_per_positive: float | None = None  # SSD, M2Det: anchors without an object that count (Liu 2016, 2.2)
    box_loss: Literal["smooth_l1", "l1", "giou"] | None = None  # RetinaNet
    box_loss_weight: float = 1.0  # beside the loss of the classes, which has 1

    # --- the optimizer
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1e-3  # the highest; the schedule's parts are of it
    backbone_learning_rate_factor: float = 1.0  # of the learning rate, for the backbone
    head_learning_rate_factor: float = 1.0  # SSD, M2Det: of the learning rate, for the last convolutions
    learning_rate_factors: tuple[tuple[str, float], ...] = ()  # more of them: (beginning of a parameter's name, factor)
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # not of biases and norms
    gradient_clip: float | None = None  # largest norm of the whole gradient
    ema_decay: float | None = None  # of the averaged weights that are evaluated and kept

    # --- the schedule
    schedule: Literal["steps", "cosine", "one_cycle"] = "steps"  # how the learning rate changes over the run
    milestones: tuple[float, ...] = ()  # "steps": fractions of the run after which the rate is another one
    milestone_factors: tuple[float, ...] | None = None  # of the rate, after each; None: a tenth each time
    warmup_steps: int = 0  # in which the learning rate rises to what the schedule says

    # --- data
    augmentation: Augmentation = field(default_factory=Augmentation)
    workers: int | None = None  # None: chosen from the machine
    worker_start_method: Literal["fork", "spawn", "forkserver"] | None = None  # None: Python's default

    # --- the rest
    evaluations: int = 8  # evenly over the run; the last is at its end. Fewer where they would slow `minutes` much
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # bf16 where the processor or the GPU is fast at it
    compile: bool = False  # torch.compile: minutes at the start, faster steps on GPUs
    deterministic: bool = False  # on GPUs, the same bits in each run; slower. CPUs are so always
    max_skipped_steps: int = 5  # in a row, because a loss or gradient was not finite; then the run ends
    seed: int = 0

    def __post_init__(self) -> None:
        lengths = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise UserError(f"recipe: {' and '.join(lengths)} are both set; a run has one length, so give one of them")
        positive = ("epochs", "steps", "minutes", "batch_size", "accumulate", "repeat", "learning_rate", "evaluations")
        for name in (*positive, "max_skipped_steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"recipe: {name} is {value}; expected a number above 0")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise UserError(f"recipe: milestones are {self.milestones}; expected rising fractions between 0 and 1")
        if self.milestone_factors is not None and len(self.milestone_factors) != len(self.milestones):
            raise UserError(
                f"recipe: {len(self.milestones)} milestones, but {len(self.milestone_factors)} milestone factors; "
                "give one a milestone"
            )

    def with_length(
        self, *, epochs: float | None = None, steps: int | None = None, minutes: float | None = None
    ) -> Recipe:
        """The same recipe over another length; unchanged where none is given."""
        if epochs is None and steps is None and minutes is None:
            return self
        return replace(self, epochs=epochs, steps=steps, minutes=minutes)

    def with_settings(self, settings: dict[str, Any]) -> Recipe:
        """The same recipe with the fields of `settings` that are not None."""
        return replace(self, **{name: value for name, value in settings.items() if value is not None})

    def network_settings(self) -> dict[str, Any]:
        """The fields that change the network or its loss, as `DetectorConfig.adjusted` takes them."""
        return {name: getattr(self, name) for name in NETWORK_FIELDS}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Recipe:
        """Read `as_dict` back, from JSON too (lists become tuples).

        Raises:
            UserError: a field that this version does not know.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise UserError(f"recipe: unknown field {unknown[0]!r}; it was written by another version of onestage")
        values = {name: _tuples(value) for name, value in settings.items()}
        values["augmentation"] = Augmentation(**{k: _tuples(v) for k, v in settings["augmentation"].items()})
        return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
