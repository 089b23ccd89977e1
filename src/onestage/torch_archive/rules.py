"""What a program of torch.export may hold to be loaded: all that exports of onestage hold, and nothing else.

torch's loader trusts its file. It evaluates sizes as Python by way of SymPy, looks operators up by name in torch,
`math` and `operator`, imports modules that the description of the inputs names, writes names of tensors and graphs into
Python source that it runs, and unpickles whatever is marked as a pickle. So every entry of the three JSON parts is held
against the rules below before it sees them: names are identifiers, operators are on a list, sizes are sums and products
of symbols, tensors are plain bytes, as many as they claim.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from onestage.errors import UserError
from onestage.torch_archive.archive import CONSTANT_LIST, CONSTANTS, PROGRAM, WEIGHT_LIST, WEIGHTS
from onestage.torch_archive.operators import OPERATORS

Rule: TypeAlias = Callable[[Any, str], None]
"""Raises `_UnexpectedError` where a value (the first argument) is another one than the rule is for."""

MAX_EXPRESSION, MAX_TERMS = 4096, 12  # characters of a size, and what one function of it takes
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}  # by torch's number of a tensor's type
INPUT_SPEC, OUTPUT_SPEC = (  # of torch's pytrees: ((images, score_threshold), {}), and four outputs
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, '
    '"children_spec": []}]}, {"type": "builtins.dict", "context": "[]", "children_spec": []}]}]',
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, '
    '"children_spec": []}, {"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, '
    '"children_spec": []}, {"type": null, "context": null, "children_spec": []}]}]',
)
FUNCTIONS = frozenset(["Add", "Mul", "Max", "Min", "FloorDiv", "Equality", "GreaterThan", "LessThan", "Or"])  # of sizes


class _UnexpectedError(Exception):
    """The place of a value that no rule allows."""


def check_program(parts: Mapping[str, bytes], name: str) -> None:
    """Hold the JSON parts of an archive against the rules.

    Raises:
        UserError: something in them that no export of onestage has.
    """
    try:
        program, weights, constants = (_parsed(parts[part], part) for part in (PROGRAM, WEIGHT_LIST, CONSTANT_LIST))
        _PROGRAM(program, "program")
        for listed, folder in ((weights, WEIGHTS), (constants, CONSTANTS)):
            _TENSORS(listed, folder)
            for tensor in listed["config"].values():
                _check_bytes(tensor, parts, folder)
    except _UnexpectedError as place:
        raise UserError(f"{name}: holds what no export of onestage does ({place}); not run") from None
    except RecursionError as error:
        raise UserError(f"{name}: holds graphs within graphs without end; not run") from error


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise _UnexpectedError(f"{where}, which is no JSON") from error


def _check_bytes(tensor: dict[str, Any], parts: Mapping[str, bytes], folder: str) -> None:
    """A tensor lies within the bytes of its file. (torch makes one up for a file without bytes.)"""
    where, meta = folder + tensor["path_name"], tensor["tensor_meta"]
    if where not in parts:
        raise _UnexpectedError(f"{where}, which is missing")
    sizes, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
    fits = len(sizes) == len(strides)
    if fits and 0 not in sizes:
        steps = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        end = meta["storage_offset"]["as_int"] + steps + 1
        fits = end * BYTES_OF_TYPE[meta["dtype"]] <= len(parts[where])
    if not fits:
        raise _UnexpectedError(f"{where}, which has fewer bytes than its tensor")


# ------------------------------------------------------------------------------------------------------------- rules


def _exactly(*values: Any) -> Rule:
    def rule(value: Any, where: str) -> None:
        if not any(type(value) is type(one) and value == one for one in values):
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")

    return rule


def _text(pattern: str) -> Rule:
    compiled = re.compile(pattern)

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, str) or not compiled.fullmatch(value) or keyword.iskeyword(value):
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")

    return rule


def _operator(value: Any, where: str) -> None:
    if not isinstance(value, str) or value not in OPERATORS:
        raise _UnexpectedError(f"the operator {str(value)[:80]!r}")


def _whole(least: int = -(1 << 63), most: int = (1 << 63) - 1) -> Rule:
    def rule(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")

    return rule


def _number(value: Any, where: str) -> None:
    if value not in ("Infinity", "-Infinity") and not (type(value) in (int, float) and math.isfinite(value)):
        raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")


def _optional(inner: Rule) -> Rule:
    return lambda value, where: None if value is None else inner(value, where)


def _each(inner: Rule) -> Rule:
    def rule(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")
        for place, one in enumerate(value):
            inner(one, f"{where}[{place}]")

    return rule


def _table(key: Rule, inner: Rule) -> Rule:
    def rule(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")
        for name, one in value.items():
            key(name, where)
            inner(one, f"{where}.{name}")

    return rule


def _record(**entries: Rule) -> Rule:
    """All of these entries and no others."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, dict) or value.keys() != entries.keys():
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")
        for name, inner in entries.items():
            inner(value[name], f"{where}.{name}")

    return rule


def _one_of(**choices: Rule) -> Rule:
    """One of these entries alone."""

    def rule(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= choices.keys():
            raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")
        for name, one in value.items():
            choices[name](one, f"{where}.{name}")

    return rule


def _expression(value: Any, where: str) -> None:
    """A size as SymPy writes it, as `Add(Mul(Integer(32), Symbol('u0', integer=True)), Integer(-1))`."""
    try:
        if isinstance(value, str) and len(value) <= MAX_EXPRESSION and _is_size(ast.parse(value, mode="eval").body):
            return
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        pass
    raise _UnexpectedError(f"{where}: {str(value)[:80]!r}")


def _is_size(node: ast.expr) -> bool:
    match node:
        case ast.Call(ast.Name("Symbol"), [ast.Constant(str(name))], assumptions):
            known = all(isinstance(a.value, ast.Constant) and type(a.value.value) is bool for a in assumptions)
            return known and SYMBOL.fullmatch(name) is not None
        case ast.Call(ast.Name("Integer"), [number], []):
            number = number.operand if isinstance(number, ast.UnaryOp) else number
            return isinstance(number, ast.Constant) and type(number.value) is int and number.value < 1 << 63
        case ast.Call(ast.Name(function), arguments, []):
            return function in FUNCTIONS and 0 < len(arguments) <= MAX_TERMS and all(map(_is_size, arguments))
    return False


def _graph(value: Any, where: str) -> None:
    _GRAPH(value, where)


# ------------------------------------------------------------------------------------------------- of a program of ours

SYMBOL = re.compile(r"[su]\d{1,6}")
_IDENTIFIER = _text(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_TENSOR_NAME = _text(r"[A-Za-z0-9][A-Za-z0-9_]*(\.[A-Za-z0-9][A-Za-z0-9_]*)*")
_TRUTH = _exactly(True, False)
_CPU = _record(type=_exactly("cpu"), index=_exactly(None))
_TENSOR = _record(name=_IDENTIFIER)
_OPTIONAL_TENSOR = _one_of(as_tensor=_TENSOR, as_none=_TRUTH)
_HINT = _optional(_one_of(as_int=_whole(), as_bool=_TRUTH, as_float=_number))
_SYM_EXPR = _record(expr_str=_expression, hint=_HINT)
_SYM_INT = _one_of(as_expr=_SYM_EXPR, as_int=_whole())
_SYM_INT_ARGUMENT = _one_of(as_name=_IDENTIFIER, as_int=_whole())
_SYM_BOOL_ARGUMENT = _one_of(as_name=_IDENTIFIER, as_bool=_TRUTH)
_TYPE = _whole(0, 35)


def _tensor_meta(size: Rule, type_: Rule) -> Rule:
    return _record(
        dtype=type_,
        sizes=_each(size),
        requires_grad=_exactly(False),
        device=_CPU,
        strides=_each(size),
        storage_offset=size,
        layout=_exactly(7),  # strided
    )


_ARGUMENT = _one_of(
    as_none=_TRUTH,
    as_tensor=_TENSOR,
    as_tensors=_each(_TENSOR),
    as_int=_whole(),
    as_ints=_each(_whole()),
    as_float=_number,
    as_floats=_each(_number),
    as_string=_text("[ -~]{0,4000}"),  # printable; torch writes it down as Python's repr does
    as_sym_int=_SYM_INT_ARGUMENT,
    as_sym_ints=_each(_SYM_INT_ARGUMENT),
    as_scalar_type=_TYPE,
    as_memory_format=_whole(0, 4),
    as_layout=_exactly(7),
    as_device=_CPU,
    as_bool=_TRUTH,
    as_bools=_each(_TRUTH),
    as_sym_bool=_SYM_BOOL_ARGUMENT,
    as_optional_tensor=_OPTIONAL_TENSOR,
    as_optional_tensors=_each(_OPTIONAL_TENSOR),
    as_graph=_record(name=_text(r"while_loop_(cond|body)_graph_\d{1,3}"), graph=_graph),
)
_NODE = _record(
    target=_operator,
    inputs=_each(_record(name=_text("[A-Za-z_0-9]{0,40}"), arg=_ARGUMENT, kind=_whole(1, 2))),
    outputs=_each(_ARGUMENT),
    metadata=_exactly({}),
    is_hop_single_tensor_return=_exactly(None, True, False),
    name=_optional(_IDENTIFIER),
)
_GRAPH = _record(
    inputs=_each(_one_of(as_tensor=_TENSOR, as_sym_int=_SYM_INT_ARGUMENT)),
    outputs=_each(_one_of(as_tensor=_TENSOR)),
    nodes=_each(_NODE),
    tensor_values=_table(_IDENTIFIER, _tensor_meta(_SYM_INT, _TYPE)),
    sym_int_values=_table(_IDENTIFIER, _SYM_INT),
    sym_bool_values=_table(_IDENTIFIER, _one_of(as_expr=_SYM_EXPR, as_bool=_TRUTH)),
    is_single_tensor_return=_TRUTH,
    custom_obj_values=_exactly({}),
    sym_float_values=_exactly({}),
)
_SIGNATURE = _record(
    input_specs=_each(
        _one_of(
            user_input=_record(arg=_one_of(as_tensor=_TENSOR)),
            parameter=_record(arg=_TENSOR, parameter_name=_TENSOR_NAME),
            buffer=_record(arg=_TENSOR, buffer_name=_TENSOR_NAME, persistent=_TRUTH),
            tensor_constant=_record(arg=_TENSOR, tensor_constant_name=_TENSOR_NAME),
        )
    ),
    output_specs=_each(_one_of(user_output=_record(arg=_one_of(as_tensor=_TENSOR)))),
)
_CALL = _record(
    fqn=_exactly(""),
    signature=_record(
        inputs=_exactly([]),
        outputs=_exactly([]),
        in_spec=_exactly(INPUT_SPEC),
        out_spec=_exactly(OUTPUT_SPEC),
        forward_arg_names=_exactly(["images", "score_threshold"]),
    ),
)
_PROGRAM = _record(
    graph_module=_record(
        graph=_GRAPH,
        signature=_SIGNATURE,
        module_call_graph=_each(_CALL),
        metadata=_exactly({}),
        treespec_namedtuple_fields=_exactly({}),
    ),
    opset_version=_table(_text("[a-z]{1,20}"), _whole(0, 1000)),
    range_constraints=_table(_text(SYMBOL.pattern), _record(min_val=_optional(_whole()), max_val=_optional(_whole()))),
    schema_version=_record(major=_whole(1, 1000), minor=_whole(0, 1000)),
    verifiers=_exactly(["TRAINING"]),
    torch_version=_text(r"[0-9A-Za-z.+-]{1,60}"),
    guards_code=_exactly([]),
)
_TENSORS = _record(
    config=_table(
        _TENSOR_NAME,
        _record(
            path_name=_text(r"(weight|tensor)_\d{1,6}"),
            is_param=_TRUTH,
            use_pickle=_exactly(False),
            tensor_meta=_tensor_meta(_one_of(as_int=_whole(0)), _exactly(*BYTES_OF_TYPE)),
        ),
    )
)
