"""What options of several commands look like, and a recipe's settings as options of `onestage train`."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from tyro.conf import Positional, arg

from onestage.training.recipe import Recipe

T = TypeVar("T")
Maybe = Annotated[T | None, arg(help_behavior_hint="")]  # may be left out; its text says what is then done
Model = Annotated[Positional[Path], arg(metavar="MODEL")]
Sources = Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE ...", help_behavior_hint="(required)")]
Device = Annotated[
    str | None, arg(help="cpu, cuda, cuda:1, ... Default: a GPU where there is one.", help_behavior_hint="")
]

# --- settings of a recipe

_COMMANDS_OWN = ("detector", "epochs", "steps", "minutes", "seed")
_NO_OPTION = "augmentation"
_TYPES = {**get_type_hints(Recipe), "batch_size": int | Literal["auto"]}


def _comments() -> dict[str, str]:
    """What stands beside each field of a recipe; nothing where Python has no sources, as in a frozen program."""
    try:
        return dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Recipe), re.MULTILINE))
    except OSError:
        return {}


def _options() -> list[tuple[str, Any, None]]:
    """Name, type and default of each setting; its help is the comment of the recipe's field."""
    comments, options = _comments(), []
    for name in (one.name for one in fields(Recipe) if one.name not in (*_COMMANDS_OWN, _NO_OPTION)):
        text = f"{comments[name]}. Default: the recipe's." if name in comments else "Default: the recipe's."
        options.append((name, Annotated[_TYPES[name] | None, arg(help=text, help_behavior_hint="")], None))
    return options


if TYPE_CHECKING:

    class RecipeSettings: ...

else:
    RecipeSettings = make_dataclass("RecipeSettings", _options())
