"""How doctor says what the readers noted."""

import ast
from pathlib import Path

import onestage.data
from onestage.checks.problems import KINDS


def test_every_kind_of_problem_that_a_reader_notes_has_its_words() -> None:
    place = {"report": 1, "_report": 1, "Problem": 3}  # of the kind among the arguments
    noted = set()
    for file in Path(onestage.data.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
                name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
                kinds = call.args[place[name] :][:1] if name in place else []
                noted |= {one.value for kind in kinds for one in ast.walk(kind) if isinstance(one, ast.Constant)}
    assert {"annotation", "box-outside", "predictions", "unreadable-image"} <= noted
    assert noted - set(KINDS) == set()
