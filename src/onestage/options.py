"""What options of several commands look like, and options made from settings: type and help text are the setting's."""

import functools
import operator
import tomllib
from dataclasses import field, fields, is_dataclass, make_dataclass
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from tyro.conf import FlagConversionOff, Positional, arg

from onestage import data_options
from onestage.errors import UserError
from onestage.selection import Selection
from onestage.settings import Setting, settings_of

T = TypeVar("T")
Maybe = Annotated[T | None, arg(help_behavior_hint="")]  # may be left out; its text says what is then done
Model = Annotated[Positional[str], arg(metavar="MODEL")]  # no Path, which takes a slash from hf://USER/NAME
Sources = Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE ...", help_behavior_hint="(required)")]
Data = Annotated[
    Positional[str],
    arg(
        metavar="DATA",
        help="Folder of labelled images, or its annotation file; several VOC years as VOC2007+VOC2012.",
        help_behavior_hint="(required)",
    ),
]
Device = Annotated[
    str | None, arg(help="cpu, cuda, cuda:1, ... Default: a GPU where there is one.", help_behavior_hint="")
]
ResultFormats = Annotated[
    tuple[Literal["csv", "coco", "voc", "yolo", "coco-folder", "label-studio"], ...],
    arg(
        help="Results also as CSV, in COCO's result format (coco), or as folders to correct in a labelling tool and to "
        "train on: voc, yolo, coco-folder (as CVAT and FiftyOne import it), label-studio.",
        help_behavior_hint="",
    ),
]

# --- how data is read, and post-processing

AUTO = "auto, the thresholds that were found for the model's classes, or 0.5 where none were"


def _postprocessing_options(score_threshold: str, max_detections: str, of_model: bool = False) -> type[Any]:
    """Options of `Selection.changed`, with the words for what two of them are where they are left out."""
    help_of = {one.name: one.help for one in settings_of(Selection)}
    papers = "as the detector's paper"
    soft = "soft: soft-gaussian. Default: hard for SSD and RetinaNet, soft-linear for M2Det"
    rows = [
        ("score_threshold", float if of_model else float | Literal["auto"], f"Default: {score_threshold}"),
        ("nms", Literal["hard", "soft", "soft-linear", "soft-gaussian"], soft),
        ("iou_threshold", float, f"Default: {papers}"),
        ("max_detections", int, f"Default: {max_detections}"),
    ]
    aliases = {"iou_threshold": ("--nms-iou",)}
    options: list[Any] = []
    for name, kind, otherwise in rows:
        how = arg(help=f"{help_of[name]}. {otherwise}.", aliases=aliases.get(name, ()), help_behavior_hint="")
        options.append((name, Annotated[kind | None, how], None))
    tiles = "Tiles that images are cut into, each of which goes through the network: auto (the model's own), none, or "
    how = arg(help=f"{tiles}their side in pixels. Default: auto.", metavar="auto|none|PIXELS", help_behavior_hint="")
    options.append(("tile", Annotated[int | Literal["auto", "none"] | None, how], None))
    how = arg(help="Pixels that neighbouring tiles share. Default: as the model's own.", help_behavior_hint="")
    options.append(("tile_overlap", Annotated[int | None, how], None))
    how = arg(help=f"{help_of['class_agnostic']}.")
    options.append(("class_agnostic", Annotated[bool, how], False))
    return make_dataclass("Postprocessing", options, frozen=True)


if TYPE_CHECKING:
    DataOptions = data_options.DataOptions

    class Postprocessing: ...

    class PostprocessingOfModel(Postprocessing): ...

else:
    _fields = [
        (one.name, Annotated[one.type, arg(help=f"{one.help}.", help_behavior_hint="")], one.default)
        for one in settings_of(data_options.DataOptions)
    ]
    DataOptions = make_dataclass("Data", _fields, bases=(data_options.DataOptions,), frozen=True)
    Postprocessing = _postprocessing_options(score_threshold=AUTO, max_detections="200, or what an exported file has")
    PostprocessingOfModel = _postprocessing_options("as the model's own", "as the model's own", of_model=True)

# --- settings of a recipe

FOUND_OUT = {"batch_size": int | Literal["auto"], "tile": int | Literal["auto", "none"]}  # by trial, from the data
AUGMENTATION_HELP = (
    "How training images are varied: as the detector's paper does; mildly; as textures, which have no up (up-down "
    "flips and quarter turns too); or not at all. The settings below change it further"
)
_OF_THE_COMMAND = ("detector", "epochs", "steps", "minutes", "seed")


def recipe_options() -> type[Any]:
    """Options of `Recipe.with_settings`. Imports torch: detectors say their own settings."""
    from onestage.data.augmentation import TRANSFORMS, Augmentation
    from onestage.data.augmentation.presets import Preset
    from onestage.detectors import DETECTORS, ON_TIMM
    from onestage.training.recipe import own_settings

    named: dict[str, tuple[Any, str]] = {
        one.name: (FOUND_OUT.get(one.name, one.type), one.help)
        for one in own_settings()
        if one.name not in _OF_THE_COMMAND
    }
    families = {type(config): config.FAMILY for config in (*DETECTORS.values(), *ON_TIMM.values())}
    of_network: dict[str, list[tuple[str, Setting]]] = {}
    for cls, family in families.items():
        for one in settings_of(cls):
            of_network.setdefault(one.name, []).append((family, one))
    for name, several in of_network.items():
        named[name] = _of_families(several, len(families))
    named["augmentation"] = (Preset, AUGMENTATION_HELP)
    of_all = (one for one in settings_of(Augmentation) if one.name != "transforms")
    named |= {f"augmentation__{one.name}": (one.type, one.help) for one in of_all}
    for transform, cls in TRANSFORMS.items():
        named |= {f"augmentation__{transform}_{one.name}": (one.type, one.help) for one in settings_of(cls)}
    named |= {f"postprocessing__{one.name}": (one.type, one.help) for one in settings_of(Selection)}
    return make_dataclass("RecipeSettings", [_option(name, *what) for name, what in named.items()], frozen=True)


def given_settings(options: Any) -> dict[str, Any]:
    """What was given of `recipe_options`, by the names of `Recipe.with_settings`.

    Raises:
        UserError: lists of lists that are no TOML.
    """
    given = {one: getattr(options, one.name) for one in fields(options) if getattr(options, one.name) is not None}
    return {
        one.name.replace("__", "."): _parsed(one.name, value) if one.metadata["nested"] else value
        for one, value in given.items()
    }


def _of_families(several: list[tuple[str, Setting]], families: int) -> tuple[Any, str]:
    """One option for a setting that some families have: all their words, or nested lists where their types differ."""
    kinds = {_without_none(one.type): None for _, one in several}
    texts = dict.fromkeys(one.help for _, one in several)
    who = "" if len(several) == families else f" ({', '.join(family for family, _ in several)})"
    kind: Any = next(iter(kinds))
    if len(kinds) > 1 and all(get_origin(one) is Literal for one in kinds):
        kind = Literal[tuple(dict.fromkeys(word for one in kinds for word in get_args(one)))]
    elif len(kinds) > 1:
        kind = tuple[tuple[float, ...], ...]
    return kind, "; or ".join(texts) + who


def _without_none(kind: Any) -> Any:
    """`int` of `int | None`: an option that is left out is None in any case."""
    others = [one for one in get_args(kind) if one is not NoneType]
    return functools.reduce(operator.or_, others) if NoneType in get_args(kind) else kind


def _option(name: str, kind: Any, text: str) -> tuple[str, Any, Any]:
    table, separator, rest = name.partition("__")
    spelled = f"{table}.{rest.replace('_', '-')}" if separator else name.replace("_", "-")
    nested = _is_nested(kind)
    how = arg(name=spelled, help=f"{text}.", help_behavior_hint="", metavar="VALUE ..." if nested else None)
    option = Annotated[(tuple[str, ...] if nested else kind) | None, how]
    return name, FlagConversionOff[option], field(default=None, metadata={"nested": nested})


def _is_nested(kind: Any) -> bool:
    """True for lists of lists and of tables, which words alone cannot say: they are given as TOML."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    return is_dataclass(inner) or (get_origin(inner) is tuple and get_args(inner)[-1] is Ellipsis)


def _parsed(name: str, words: tuple[str, ...]) -> Any:
    """The value of a nested setting: numbers (`5 2 1`), or lists as TOML has them (`[[2], [2, 3]]`)."""
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        pass
    try:
        return tomllib.loads(f"value = {' '.join(words)}")["value"]
    except tomllib.TOMLDecodeError as error:
        option = f"--{name.replace('_', '-')}"
        raise UserError(f"{option} {' '.join(words)}: give numbers, or lists as [[2], [2, 3]] ({error})") from error
