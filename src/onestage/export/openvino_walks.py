"""Walks through OpenVINO's graphs: which operations lie before, between and behind the convolutions."""

from collections.abc import Callable, Iterable
from typing import Any

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def names_up_to_convolutions(start: Iterable[Any], neighbours: Callable[[Any], list[Any]]) -> set[str]:
    """Names of the operations on all ways from `start` to the convolutions that are met first, without these."""
    met: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in met and node.get_type_name() not in CONVOLUTIONS:
            met.add(node.get_friendly_name())
            waiting += neighbours(node)
    return met


def sources(node: Any) -> list[Any]:
    """The operations whose values it takes."""
    return [value.get_node() for value in node.input_values()]


def readers(node: Any) -> list[Any]:
    """The operations that take its values."""
    return [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]


def names(nodes: Iterable[Any]) -> set[str]:
    """Their names, which are unique in a graph."""
    return {node.get_friendly_name() for node in nodes}


def between_convolutions(graph: Any) -> set[str]:
    """Names of the convolutions, of the biases added to them, and of the operations between two convolutions.

    Operations that compute with shapes are left out: they keep their type.
    """
    after_one: set[str] = set()
    inside: set[str] = set()
    nodes = graph.get_ordered_ops()  # in the order of execution
    for node in nodes:
        passes_on = node.get_type_name() != "ShapeOf" and not names(sources(node)).isdisjoint(after_one)
        if node.get_type_name() in CONVOLUTIONS or passes_on:
            after_one.add(node.get_friendly_name())
    for node in reversed(nodes):
        own = sources(node)
        biased = node.get_type_name() == "Add" and any(source.get_type_name() in CONVOLUTIONS for source in own)
        if biased or node.get_type_name() in CONVOLUTIONS or node.get_friendly_name() in inside:
            inside |= names([node, *own])
    return inside & after_one
