"""What a program may hold: all that ours hold, and nothing else (case `evil-torch-program`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree
from torch_programs import changed, small_parts

from onestage.errors import UserError
from onestage.torch_archive.archive import CONSTANT_LIST, PROGRAM, WEIGHT_LIST
from onestage.torch_archive.rules import INPUT_SPEC, OUTPUT_SPEC, check_program


def test_a_program_of_ours_passes() -> None:
    check_program(small_parts(), "m.pt2")


def _graph(change: Callable[[Any], object]) -> dict[str, bytes]:
    return changed(PROGRAM, lambda program: change(program["graph_module"]["graph"]))


def _first_size(text: str) -> dict[str, bytes]:
    def change(graph: Any) -> None:
        next(iter(graph["tensor_values"].values()))["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return _graph(change)


@pytest.mark.parametrize(
    "size",
    [
        "Pow(Integer(9), Pow(Integer(9), Pow(Integer(9), Integer(9))))",
        "Integer(9)**Integer(9)",
        "Symbol('x')",
        "Symbol('s0', integer=exec)",
        "Symbol('s0').func",
        "Lambda(Symbol('s0'), Integer(1))",
        "Add(*[Integer(1)])",
        "Integer(True)",
        "[Integer(1)]",
        "(lambda: Integer(1))()",
        "Add(" * 300 + "Integer(1)" + ")" * 300,
        f"Max({', '.join(['Integer(1)'] * 100)})",
        "Add(Integer(1), Integer(1)",
        "",
    ],
)
def test_evil_torch_program_whose_size_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(UserError, match=r"expr_str: .*; not run"):
        check_program(_first_size(size), "m.pt2")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.add.out",
        "torch.ops.load_library",
        "_operator.methodcaller",
        "math.factorial",
        "#extension:operator",
    ],
)
def test_evil_torch_program_with_an_operator_that_ours_lack_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=rf"the operator '{target}'.*; not run"):
        check_program(_graph(lambda graph: graph["nodes"][0].update(target=target)), "m.pt2")


@pytest.mark.parametrize(
    "change",
    [
        lambda program: program.update(guards_code=["print()"]),
        lambda program: program.update(verifiers=["EDGE"]),
        lambda program: program.update(more=1),
        lambda program: program["range_constraints"].update(u99999999999={"min_val": 0, "max_val": 9}),
        lambda program: program["graph_module"].update(metadata={"custom": "{}"}),
        lambda program: program["graph_module"]["graph"].update(custom_obj_values={"x": {}}),
        lambda program: program["graph_module"]["graph"]["nodes"][0].update(metadata={"from_node": "[]"}),
        lambda program: program["graph_module"]["graph"]["nodes"][0]["inputs"].append(
            {"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1}
        ),
        lambda program: program["graph_module"]["graph"]["nodes"][0]["inputs"].append(
            {"name": "x=print()", "arg": {"as_int": 1}, "kind": 2}
        ),
        lambda program: program["graph_module"]["graph"]["nodes"][0]["inputs"].append(
            {"name": "", "arg": {"as_device": {"type": "cuda", "index": None}}, "kind": 1}
        ),
        lambda program: program["graph_module"]["module_call_graph"].append({"fqn": "a", "signature": None}),
        lambda program: program["graph_module"]["signature"]["output_specs"].append({"token": {"arg": {"name": "t"}}}),
    ],
    ids=range(12),
)
def test_evil_torch_program_with_anything_that_ours_lack_is_refused(change: Callable[[Any], object]) -> None:
    with pytest.raises(UserError, match=r"holds what no export of onestage does.*; not run"):
        check_program(changed(PROGRAM, change), "m.pt2")


@pytest.mark.parametrize("part", [WEIGHT_LIST, CONSTANT_LIST])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path_name": "weight_7"}, r"weight_7, which is missing"),
        ({"path_name": "../../secret"}, "path_name"),
        ({"sizes": [{"as_int": 1 << 40}]}, "has fewer bytes than its tensor"),
        ({"strides": [{"as_int": 1 << 40}], "sizes": [{"as_int": 2}]}, "has fewer bytes than its tensor"),
        ({"storage_offset": {"as_int": 9}}, "has fewer bytes than its tensor"),
        ({"strides": []}, "has fewer bytes than its tensor"),
        ({"dtype": 9}, "dtype"),
        ({"device": {"type": "cuda", "index": 0}}, "device"),
        ({"layout": 1}, "layout"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_tensor_outside_of_its_bytes_is_refused(part: str, change: dict[str, Any], message: str) -> None:
    def spoil(listed: Any) -> None:
        tensor = next(iter(listed["config"].values()))
        (tensor if "path_name" in change else tensor["tensor_meta"]).update(change)

    with pytest.raises(UserError, match=message):
        check_program(changed(part, spoil), "m.pt2")


def test_the_specifications_are_those_of_torch() -> None:
    assert pytree.treespec_dumps(pytree.tree_structure(((0, 0), {}))) == INPUT_SPEC
    assert pytree.treespec_dumps(pytree.tree_structure((0, 0, 0, 0))) == OUTPUT_SPEC


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just([]) | st.just({}) | st.just("nan")


@given(data=st.data())
def test_any_other_value_anywhere_is_allowed_or_gives_one_line(data: st.DataObject) -> None:
    def change(value: Any) -> None:
        while True:
            keys = list(range(len(value))) if isinstance(value, list) else list(value)
            key = data.draw(st.sampled_from(keys))
            inner = value[key]
            if not isinstance(inner, list | dict) or not inner or data.draw(st.integers(0, 9)) == 0:
                value[key] = data.draw(VALUES)
                return
            value = inner

    said = ""
    try:
        check_program(changed(data.draw(st.sampled_from([PROGRAM, WEIGHT_LIST, CONSTANT_LIST])), change), "m.pt2")
    except UserError as error:  # anything else fails the test
        said = str(error)
    assert "\n" not in said
