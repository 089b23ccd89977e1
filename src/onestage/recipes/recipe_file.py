"""A recipe as a TOML file, to be read, changed and shared: `onestage train DATA --recipe recipe.toml`.

Each setting stands on a line with its help text behind it; a setting that is missing is the detector's own.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onestage.data.augmentation import TRANSFORMS, Augmentation
from onestage.errors import UserError
from onestage.selection import Selection
from onestage.settings import Setting, settings_of
from onestage.training.recipe import Recipe, own_settings

MAX_BYTES = 1_000_000


def read_recipe(path: Path, detector: str | None = None) -> Recipe:
    """The recipe of a TOML file, of this detector where it names none.

    Raises:
        UserError: no such file, no TOML, an unknown setting, or a value that does not fit; with file and key.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: over {MAX_BYTES:,} bytes; a recipe is a short TOML file")
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: the recipe can't be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a TOML file ({error})") from error
    recipe = Recipe.from_dict(({} if detector is None else {"detector": detector}) | values, str(path))
    if "detector" not in values and detector is None:
        raise UserError(f'{path}: it names no detector; write detector = "NAME" into it, or give --detector NAME')
    return recipe


def as_toml(recipe: Recipe) -> str:
    """The text of a file that `read_recipe` reads back."""
    values = recipe.as_dict()
    lines = ["# A recipe of onestage; use it again by: onestage train DATA --recipe recipe.toml", ""]
    lines += _lines(own_settings(), values)
    lines += ["", "[network]", *_lines(settings_of(type(recipe.network)), values["network"])]
    of_all = [one for one in settings_of(Augmentation) if one.name in values["augmentation"]]
    lines += ["", "[augmentation]", *_lines(of_all, values["augmentation"])]
    for name, part in values["augmentation"].items():
        if isinstance(part, Mapping):
            lines += ["", f"[augmentation.{name}]", *_lines(settings_of(TRANSFORMS[name]), part)]
    lines += ["", "[postprocessing]", *_lines(settings_of(Selection), values["postprocessing"])]
    return "\n".join(lines) + "\n"


def _lines(settings: Sequence[Setting], values: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in settings:
        value, unset = values[one.name], values[one.name] is None and one.default is None
        text = "none" if unset else _toml("none" if value is None else value)
        lines.append(f"{'# ' if unset else ''}{one.name} = {text}  # {one.help}")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
