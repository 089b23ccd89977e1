"""Settings: frozen dataclasses whose fields each have a type, a default and a help text in one place.

    @dataclass(frozen=True)
    class Expand:
        probability: float = setting(0.5, "Chance of the expansion")

Files are read into them by `read`, which names the key of what does not fit; options of the command line are made from
the same fields by `settings_of`.
"""

import math
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from onestage.errors import UserError

T = TypeVar("T")


class Setting(NamedTuple):
    """One field of a settings class."""

    name: str
    type: Any
    default: Any  # `dataclasses.MISSING` where a value must be given
    help: str


def setting(default: Any = MISSING, help: str = "") -> Any:
    """A field of a settings class with its default and its help text (a noun phrase without a full stop)."""
    return field(default=default, metadata={"help": help})


def settings_of(cls: type[Any]) -> list[Setting]:
    """The fields of a settings class, in order."""
    hints = get_type_hints(cls)
    return [Setting(one.name, hints[one.name], one.default, one.metadata.get("help", "")) for one in fields(cls)]


def plain(value: Any) -> Any:
    """A settings value as JSON and TOML have it: dictionaries, lists, numbers, strings; `read` takes it back."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names (`augmentation.expand.max`)."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return named


def read(cls: type[T], values: Any, where: str, base: T | None = None) -> T:
    """The settings that a file holds.

    Args:
        cls: a settings class.
        values: by field name, as JSON or TOML give them. A field that may be None takes "none" too, since TOML has no
            word for it.
        where: the file, and the table in it, for messages.
        base: what fields that are not there take; None: their defaults.

    Raises:
        UserError: an unknown field, a missing one, or a value of another kind; with `where`, the key and what fits.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {_shown(values)}; expected a table of {cls.__name__}'s settings")
    known = {one.name: one for one in settings_of(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown setting {name!r}; expected {', '.join(known)}")
    given = {name: fitted(known[name].type, value, f"{where}: {name}") for name, value in values.items()}
    for name, one in known.items():
        if name not in given and base is not None:
            given[name] = getattr(base, name)
        elif name not in given and one.default is MISSING:
            raise UserError(f"{where}: {name} is missing")
    try:
        return cls(**given)
    except UserError as error:  # of the class's own checks
        raise UserError(f"{where}: {error}") from error


def fitted(kind: Any, value: Any, where: str) -> Any:
    """A value of JSON or TOML as a field of this type takes it.

    Raises:
        UserError: it is of another kind.
    """
    if get_origin(kind) in (Union, types.UnionType):
        return _fitted_to_one(get_args(kind), value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return read(kind, value, where)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return _fitted_tuple(kind, value, where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where)
    if kind is type(None) and (value is None or value == "none"):
        return None
    if get_origin(kind) is Literal:
        fits = value in get_args(kind) and not isinstance(value, bool)
    else:
        fits = kind is Any or type(value) is (get_origin(kind) or kind)
    if not fits:
        raise UserError(f"{where} is {_shown(value)}; expected {in_words(kind)}")
    return value


def _finite(value: float, where: str) -> float:
    with suppress(OverflowError):  # of a whole number of hundreds of digits
        if math.isfinite(value):
            return float(value)
    raise UserError(f"{where} is {_shown(value)}; expected a finite number")


def _fitted_tuple(kind: Any, value: Sequence[Any], where: str) -> tuple[Any, ...]:
    kinds = get_args(kind)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise UserError(f"{where} is {_shown(value)}; expected {in_words(kind)}")
    return tuple(fitted(one, item, where) for one, item in zip(kinds, value, strict=True))


def _fitted_to_one(kinds: Sequence[Any], value: Any, where: str) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind is not type(None)):  # None first: "none" may be text as well
        with suppress(UserError):
            return fitted(kind, value, where)
    raise UserError(f"{where} is {_shown(value)}; expected {' or '.join(map(in_words, kinds))}")


def check_ranges(values: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise a UserError for a field, or an item of one, that is out of its range (ends included) or not finite.

    None is in every range.
    """
    for name, (least, most) in ranges.items():
        value = getattr(values, name)
        items = value if isinstance(value, tuple) else (value,)
        if not all(one is None or (least <= one <= most and one < math.inf) for one in items):
            expected = f"{least} to {most}" if most < math.inf else f"{least} or more"
            raise UserError(f"{name} is {value}; expected {expected}")


def in_words(kind: Any) -> str:
    """What a value of this type is, for people."""
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, arguments))
    if get_origin(kind) is tuple:
        inner = in_words(arguments[0])
        return f"a list, each {inner}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}, each {inner}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return words.get(kind) or f"a table of {kind.__name__}'s settings"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
