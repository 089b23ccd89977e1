"""A recipe: every setting of a training run, as one frozen value.

Functions in `onestage.recipes` return recipes; `recipe.json` and `recipe.toml` in a run folder hold the one that was
used, in tables: the run's own settings, `[network]`, `[augmentation]`, `[postprocessing]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from onestage.data.augmentation import TRANSFORMS, Augmentation
from onestage.data.augmentation.presets import SSD_PAPER, augmentation_named
from onestage.detectors import DetectorConfig, detector_config
from onestage.errors import UserError
from onestage.runtime.tiles import Tiling
from onestage.selection import Selection
from onestage.settings import Setting, check_ranges, fitted, plain, read, setting, settings_of

TABLES = ("network", "augmentation", "postprocessing")  # each is a value of a class of its own
LENGTHS = ("epochs", "steps", "minutes")
MOST = 1e12  # of what may be any number above 0; more steps overflow
ABOVE_0 = ("batch_size", "accumulate", "learning_rate", "gradient_clip", "evaluations", "max_skipped_steps")
RANGES = {
    "seed": (0, 2**63 - 1),  # of PyTorch's and NumPy's generators
    "workers": (0, 1000),
    "repeat": (1, 10_000),  # an epoch's order is held in memory
    "momentum": (0, 1),
    "ema_decay": (0, 1),
    "milestone_factors": (0, math.inf),
    "warmup_start": (0, 1),
    "shrink_images": (32, 1e6),
    "tile_visible": (0, 1),
    "tile_empty": (0, 1),
    "cache_tiles": (0, 1e6),
    **dict.fromkeys(("weight_decay", "warmup_steps"), (0, math.inf)),
    **dict.fromkeys((f"{part}_learning_rate_factor" for part in ("backbone", "head", "bias")), (0, math.inf)),
}


@dataclass(frozen=True)
class Recipe:
    """What is trained, how, and for how long. Exactly one of `epochs`, `steps` and `minutes` is set.

    Learning-rate schedules are functions of the run's progress (0 to 1), so a recipe keeps its shape when its length
    is changed. Without a `network` or a `postprocessing`, it has those that go with the detector's name.
    """

    detector: str = setting("ssd300-vgg16", "Detector to train")
    network: DetectorConfig = setting(None, "Settings of the detector")
    augmentation: Augmentation = setting(SSD_PAPER, "Settings of the augmentation")
    postprocessing: Selection = setting(None, "Which detections are kept")

    # the length of the run
    epochs: float | None = setting(None, "Passes over the training images")
    steps: int | None = setting(None, "Optimizer steps")
    minutes: float | None = setting(None, "Minutes of the whole run, with set-up, evaluations and the report")
    batch_size: int = setting(32, "Images a step, over all ranks")
    accumulate: int = setting(1, "Parts in which a step's images go through the network: less memory, the same losses")
    repeat: int = setting(1, "Times that an epoch shows each image")

    # large images
    shrink_images: int | None = setting(
        None, "Shorter side to which larger images are shrunk once before they train, pixels; none: they are not"
    )
    tile: int | None = setting(
        None,
        "Side of the tiles that images are cut into, pixels of the image; none: no tiles; auto: what suits the data. "
        "Without it the recipe made for the data weighs tiles against a larger input",
    )
    tile_overlap: int = setting(0, "Pixels of the image that neighbouring tiles share at least")
    tile_whole: bool = setting(False, "The whole image as one more tile, for objects that tiles cut")
    tile_visible: float = setting(
        0.5, "Part of an object's area that a tile shows; with less, the object is ignored in that tile's training"
    )
    tile_empty: float = setting(0.2, "Share of an epoch's tiles that show no object")
    cache_tiles: float = setting(
        16.0, "Room for shrunk images, and for decoded ones whose tiles train, GB of the run folder's disk; 0: none"
    )

    # what is trained
    train_stem: bool = setting(True, "Train the backbone's first layers too; False: they keep their weights")
    frozen: tuple[str, ...] = setting((), "Name prefixes of parameters that are not trained")
    train_difficult: bool = setting(
        False,
        "Train on the objects that VOC calls difficult too; False: they are ignored, as they always are in evaluation",
    )

    # the optimizer
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "Optimizer")
    learning_rate: float = setting(1e-3, "Highest learning rate; the schedule's parts are of it")
    backbone_learning_rate_factor: float = setting(1.0, "Factor on the learning rate of the backbone")
    head_learning_rate_factor: float = setting(1.0, "Factor on the learning rate of the last convolutions (SSD, M2Det)")
    bias_learning_rate_factor: float = setting(
        1.0, "Factor on the learning rate of convolutions' biases (2 in Caffe's programs, so SSD's, and in Detectron)"
    )
    learning_rate_factors: tuple[tuple[str, float], ...] = setting(
        (), "More factors on the learning rate, each with the prefix of its parameters' names"
    )
    momentum: float = setting(0.9, "Momentum of sgd")
    weight_decay: float = setting(5e-4, "Weight decay; without decay_all, biases and norms have none")
    decay_all: bool = setting(False, "Weight decay of biases and norms too (M2Det's release, mmdetection)")
    gradient_clip: float | None = setting(None, "Largest norm of the whole gradient")
    ema_decay: float | None = setting(None, "Decay of the averaged weights that are evaluated and kept")

    # the schedule
    schedule: Literal["steps", "cosine", "one_cycle"] = setting("steps", "How the learning rate changes over the run")
    milestones: tuple[float, ...] = setting((), "Fractions of the run after which the rate of schedule steps changes")
    milestone_factors: tuple[float, ...] | None = setting(
        None, "Factor on the learning rate after each milestone; none: a tenth each time"
    )
    warmup: float = setting(
        0.0, "Fraction of the run in which the learning rate rises to what the schedule says, as milestones are"
    )
    warmup_steps: int = setting(0, "The same in steps, whatever the length of the run; give one of the two")
    warmup_start: float = setting(0.01, "Factor on the learning rate at the first step of either")

    # reading data
    workers: int | None = setting(None, "Processes that read images; none: chosen from the machine")
    worker_start_method: Literal["fork", "spawn", "forkserver"] | None = setting(
        None, "How these processes are started; none: Python's default"
    )

    # the rest
    evaluations: int = setting(
        8, "Evaluations, evenly over the run, the last at its end; fewer where they would take much of the minutes"
    )
    keep: Literal["best", "last"] = setting(
        "best", "Weights to keep: the best of all evaluations, or the last ones as papers do, which train on all images"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "Number format of the network; auto: bf16 where the hardware is fast at it"
    )
    compile: bool = setting(False, "torch.compile the network: minutes at the start, faster steps on GPUs")
    deterministic: bool = setting(False, "The same bits in each run on GPUs too; slower. CPUs always are so")
    max_skipped_steps: int = setting(
        5, "Steps in a row that are skipped because a loss or gradient is not finite, which end the run"
    )
    seed: int = setting(0, "Seed of fresh weights, the order of the images and their augmentation")

    def __post_init__(self) -> None:
        if self.network is None:
            object.__setattr__(self, "network", detector_config(self.detector))
        if self.postprocessing is None:
            object.__setattr__(self, "postprocessing", self.network.PAPERS_SELECTION)
        lengths = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise UserError(f"recipe: {' and '.join(lengths)} are both set; a run has one length, so give one of them")
        for name in (*LENGTHS, *ABOVE_0):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MOST:
                expected = "a number above 0" if not value > 0 else f"at most {MOST:g}"
                raise UserError(f"recipe: {name} is {value}; expected {expected}")
        check_ranges(self, RANGES)
        if self.tile is not None:
            Tiling(self.tile, self.tile_overlap)  # raises a UserError for tiles that can't be
            if self.shrink_images is not None:
                raise UserError(
                    f"recipe: tile is {self.tile} and shrink_images {self.shrink_images}; tiles are cut from whole "
                    "images, so give one of them, and none as the other"
                )
        if not 0 <= self.warmup < 1:
            raise UserError(
                f"recipe: warmup is {self.warmup:g}; expected a fraction of the run, from 0 and below 1; give a number "
                "of steps as warmup_steps"
            )
        if self.warmup and self.warmup_steps:
            raise UserError(
                f"recipe: warmup is {self.warmup:g} of the run and warmup_steps is {self.warmup_steps}; give one, and "
                "0 as the other"
            )
        if not all(0 <= factor < math.inf for _, factor in self.learning_rate_factors):
            raise UserError(f"recipe: learning_rate_factors are {self.learning_rate_factors}; expected 0 or more each")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise UserError(f"recipe: milestones are {self.milestones}; expected rising fractions between 0 and 1")
        if self.milestone_factors is not None and len(self.milestone_factors) != len(self.milestones):
            raise UserError(
                f"recipe: {len(self.milestones)} milestones, but {len(self.milestone_factors)} milestone factors; "
                "give one a milestone"
            )

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut into tiles; None: they are not."""
        return None if self.tile is None else Tiling(self.tile, self.tile_overlap, self.tile_whole)

    def with_tiling(self, tiling: Tiling | None) -> Recipe:
        """The same recipe with images cut so."""
        if tiling is None:
            return replace(self, tile=None)
        return replace(self, tile=tiling.side, tile_overlap=tiling.overlap, tile_whole=tiling.whole)

    def with_length(
        self, *, epochs: float | None = None, steps: int | None = None, minutes: float | None = None
    ) -> Recipe:
        """The same recipe over another length; unchanged where none is given, if it has one (else a UserError)."""
        if epochs is None and steps is None and minutes is None:
            self.check_length()
            return self
        return replace(self, epochs=epochs, steps=steps, minutes=minutes)

    def check_length(self) -> None:
        """Raises a UserError for a recipe without a length."""
        if all(getattr(self, name) is None for name in LENGTHS):
            raise UserError("recipe: it has no length; give --epochs, --steps or --minutes")

    def with_settings(self, settings: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """The same recipe with some settings changed.

        Args:
            settings: values by name; None keeps one. Besides the recipe's own names, those of the network
                (`anchor_sizes`), and with their table's name those of the rest (`postprocessing.iou_threshold`,
                `augmentation.expand-max`). `augmentation` alone is a `Preset`, which the others of its table change.
            where: where the values come from, for messages.

        Raises:
            UserError: an unknown name, or a value that does not fit.
        """
        own = {one.name: one for one in own_settings()}
        changed: dict[str, Any] = {}
        tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
        for name, value in ((name, value) for name, value in settings.items() if value is not None):
            table, _, key = name.partition(".")
            if name in own:
                changed[name] = fitted(own[name].type, value, f"{where}: {name}")
            elif name == "augmentation":
                continue
            elif table == "augmentation" and key:
                path = _path_in_augmentation(key)
                inner = tables[table].setdefault(path[0], {}) if len(path) == 2 else tables[table]
                inner[path[-1]] = value
            elif table == "postprocessing" and key:
                tables[table][key] = value
            else:
                tables["network"][name] = value
        detector = changed.get("detector", self.detector)
        base = self if detector == self.detector else Recipe(detector=detector)
        network, preset = base.network.adjusted(tables["network"], where), settings.get("augmentation")
        augmentation = self.augmentation if preset is None else augmentation_named(preset, network.FAMILY)
        return replace(
            self,
            **changed,
            network=network,
            augmentation=augmentation.changed(tables["augmentation"], where),
            postprocessing=read(Selection, tables["postprocessing"], where, base=base.postprocessing),
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        own = {one.name: plain(getattr(self, one.name)) for one in own_settings()}
        return own | {
            "network": plain(self.network),
            "augmentation": self.augmentation.as_dict(),
            "postprocessing": plain(self.postprocessing),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Read a recipe of JSON or TOML: settings by name, in its tables. What is missing is the detector's own.

        Raises:
            UserError: an unknown setting, or a value of another kind; named with `where` and its key.
        """
        own = {one.name: one for one in own_settings()}
        tables = {name: values.get(name, {}) for name in TABLES}
        for name, value in values.items():
            if name not in own and name not in TABLES:
                raise UserError(f"{where}: unknown setting {name!r}; expected {', '.join([*own, *TABLES])}")
            if name in TABLES and not isinstance(value, Mapping):
                raise UserError(f"{where}: {name} is {value!r}; expected a table [{name}]")
        given = {
            name: fitted(own[name].type, value, f"{where}: {name}")
            for name, value in values.items()
            if name not in TABLES
        }
        base = cls(detector=given.get("detector", "ssd300-vgg16"))
        network = {name: "none" if value is None else value for name, value in tables["network"].items()}  # JSON's null
        augmentation = base.augmentation
        if "augmentation" in values:
            augmentation = Augmentation.from_dict(tables["augmentation"], f"{where}, [augmentation]")
        return replace(
            base,
            **given,
            network=base.network.adjusted(network, f"{where}, [network]"),
            augmentation=augmentation,
            postprocessing=read(
                Selection, tables["postprocessing"], f"{where}, [postprocessing]", base=base.postprocessing
            ),
        )


def own_settings() -> list[Setting]:
    """A recipe's settings but those of its tables."""
    return [one for one in settings_of(Recipe) if one.name not in TABLES]


def _path_in_augmentation(key: str) -> tuple[str, ...]:
    """`expand-max`, `expand_max` or `expand.max` as ("expand", "max"); a setting of no transform alone."""
    key = key.replace("-", "_").replace(".", "_")
    transforms = [name for name in TRANSFORMS if key.startswith(f"{name}_")]
    if not transforms:
        return (key,)
    transform = max(transforms, key=len)
    return transform, key.removeprefix(f"{transform}_")
