from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest

from onestage.errors import UserError
from onestage.settings import flat, plain, read, setting, settings_of


@dataclass(frozen=True)
class Layer:
    channels: int = setting(help="Channels")
    stride: int = setting(1, "Stride")


@dataclass(frozen=True)
class Network:
    kind: Literal["plain", "deep"] = setting("plain", "Kind of network")
    rate: float = setting(0.5, "Rate")
    limit: int | None = setting(10, "Limit; none: no limit")
    sizes: tuple[float, ...] = setting((1.0, 2.0), "Sizes, pixels")
    edges: tuple[int, int] = setting((8, 16), "Shortest and longest side")
    layers: tuple[Layer, ...] = setting((), "Layers")
    fast: bool = setting(False, "Be fast")


def test_name_type_default_and_help_of_a_setting_come_from_its_definition() -> None:
    kind, rate, *_ = settings_of(Network)
    assert (kind.name, kind.type, kind.default, kind.help) == (
        "kind",
        Literal["plain", "deep"],
        "plain",
        "Kind of network",
    )
    assert (rate.name, rate.type, rate.default) == ("rate", float, 0.5)


def test_settings_come_back_from_json_as_they_were() -> None:
    network = Network("deep", 2.0, None, (3.0,), (1, 2), (Layer(4), Layer(8, 2)), True)
    assert read(Network, json.loads(json.dumps(plain(network))), "file") == network


def test_what_is_missing_is_the_default_or_that_of_the_base() -> None:
    assert read(Network, {"rate": 1}, "file") == Network(rate=1.0)
    assert read(Network, {"rate": 1}, "file", base=Network("deep")) == Network("deep", 1.0)


def test_the_word_none_stands_for_none_where_a_setting_may_be_none() -> None:
    assert read(Network, {"limit": "none"}, "file").limit is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1.0}, "file: unknown setting 'rat'; expected kind, rate, limit, sizes, edges, layers, fast"),
        ({"rate": "fast"}, "file: rate is 'fast'; expected a number"),
        ({"rate": True}, "file: rate is True; expected a number"),
        ({"rate": math.nan}, "file: rate is nan; expected a finite number"),
        ({"rate": 10**400}, f"file: rate is 1{'0' * 56}...; expected a finite number"),
        ({"limit": 1.5}, "file: limit is 1.5; expected a whole number or none"),
        ({"kind": "wide"}, "file: kind is 'wide'; expected 'plain' or 'deep'"),
        ({"edges": [1, 2, 3]}, "file: edges is [1, 2, 3]; expected a list of 2, each a whole number"),
        ({"sizes": [1, "a"]}, "file: sizes is 'a'; expected a number"),
        ({"sizes": 1}, "file: sizes is 1; expected a list, each a number"),
        ({"layers": [{"stride": 2}]}, "file: layers: channels is missing"),
        ({"fast": 1}, "file: fast is 1; expected true or false"),
        ([1], "file: [1]; expected a table of Network's settings"),
    ],
)
def test_what_does_not_fit_is_named_with_file_key_and_what_is_expected(values: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(Network, values, "file")
    assert str(error.value) == message


def test_nested_tables_get_dotted_names() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}, "e": [3]}}) == {"a": 1, "b.c.d": 2, "b.e": [3]}
