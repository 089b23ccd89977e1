"""Exported programs made by hand: what a file of ours has, and what a stranger's may have."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from exported_files import HEADER as HEADER_VALUES
from torch import Tensor, nn

from onestage.export.torch_program import program_parts
from onestage.torch_archive.archive import (
    CONSTANT_LIST,
    CONSTANTS,
    HEADER,
    PROGRAM,
    WEIGHT_LIST,
    WEIGHTS,
    pack_archive,
    parts_digest,
)

EXAMPLE_INPUTS = "data/sample_inputs/model.pt"


class Small(nn.Module):
    """One box a picture, with a weight, a constant, a size that is a product, and a loop: all that a file may hold."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0), requires_grad=False)
        self.register_buffer("constant", torch.tensor([0.5]), persistent=False)

    def forward(self, images: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        pixels = images.reshape(images.shape[0], -1).float()  # its width is a product of symbols
        brightness = pixels.mean(dim=1)

        def goes_on(values: Tensor) -> Tensor:
            return (values >= 1e6 * self.constant).any()

        (brightness,) = torch.while_loop(goes_on, lambda values: (values * 0.5,), (brightness,))
        scores = (brightness * self.constant / 255)[:, None]
        boxes_xyxy = brightness[:, None, None] + self.weight[None, None]
        counts = (scores > score_threshold).sum(dim=1)
        return boxes_xyxy, scores, torch.zeros_like(scores, dtype=torch.int64), counts


@cache
def small_parts() -> dict[str, bytes]:
    """Without a header."""
    example = (torch.zeros((2, 9, 11, 3), dtype=torch.uint8), torch.tensor([0.5]))
    sides = {side: torch.export.Dim(name) for side, name in enumerate(("batch", "height", "width"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program_parts(torch.export.export(Small().eval(), example, dynamic_shapes=(sides, None)))


def write(path: Path, parts: dict[str, bytes]) -> Path:
    """With a header that fits, so that only what is wrong in the parts can be refused."""
    header = json.dumps({**HEADER_VALUES, "sha256": parts_digest(parts)}).encode()
    path.write_bytes(pack_archive({**parts, HEADER: header}))
    return path


def changed(part: str, change: Callable[[Any], object]) -> dict[str, bytes]:
    """The small program with something changed in the JSON of a part."""
    values = json.loads(small_parts()[part])
    change(values)
    return {**small_parts(), part: json.dumps(values).encode()}


# ---------------------------------------------------------------------------------------------- evil files


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def in_pickle(mark: Path) -> bytes:
    return pickle.dumps(_Payload(mark))


def as_torch_saves(mark: Path) -> bytes:
    content = io.BytesIO()
    torch.save(_Payload(mark), content)
    return content.getvalue()


def evil_module(mark: Path) -> str:
    """Source of the module `evil_enum`, which makes the file when it is imported."""
    return f"{_call(mark)}\nfrom enum import Enum\nE = Enum('E', 'a')\n"


def _call(mark: Path) -> str:
    return f"__import__('pathlib').Path('{mark}').touch()"


def evil_parts(mark: Path) -> dict[str, dict[str, bytes]]:
    """Programs with a payload that makes the file `mark`, in each place where torch's loader would run it."""
    call = _call(mark)
    in_name = f"""a", getattr(getattr(__import__('pathlib'), 'Path')('{mark}'), 'touch')()) or (self, "b"""
    pickled, saved = in_pickle(mark), as_torch_saves(mark)

    def graph(change: Callable[[Any], object]) -> dict[str, bytes]:
        return changed(PROGRAM, lambda program: change(program["graph_module"]["graph"]))

    def size(graph: Any) -> None:
        for meta in graph["tensor_values"].values():
            meta["sizes"] = [{"as_expr": {"expr_str": call, "hint": None}}]

    def symbol(graph: Any) -> None:
        for name in graph["sym_int_values"]:
            graph["sym_int_values"][name] = {"as_expr": {"expr_str": call, "hint": None}}

    def specification(program: Any) -> None:
        enum = json.dumps({"__enum__": True, "fqn": "evil_enum:E", "name": "a"})
        leaf = {"type": "builtins.dict", "context": enum, "children_spec": []}
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, leaf])

    def pickled_tensor(listed: Any) -> None:
        next(iter(listed["config"].values()))["use_pickle"] = True

    def opaque(listed: Any) -> None:
        for tensor in listed["config"].values():
            tensor |= {"path_name": "opaque_obj_0", "use_pickle": True, "tensor_meta": None}

    return {
        "size of a tensor": graph(size),
        "size in the graph": graph(symbol),
        "name of an input": _renamed("score_threshold", f"score_threshold=[0][{call}]"),
        "name of a weight": _renamed("weight", in_name),
        "name of a graph": _renamed("while_loop_cond_graph_0", in_name),
        "module of an enum": changed(PROGRAM, specification),
        "weight": {**changed(WEIGHT_LIST, pickled_tensor), f"{WEIGHTS}weight_0": saved},
        "constant": {**changed(CONSTANT_LIST, pickled_tensor), f"{CONSTANTS}tensor_0": saved},
        "object": {**changed(CONSTANT_LIST, opaque), f"{CONSTANTS}opaque_obj_0": pickled},
        "weights of an older format": {**small_parts(), f"{WEIGHTS}model.pt": saved},
        "constants of an older format": {**small_parts(), f"{CONSTANTS}model.pt": saved},
        "example inputs": {**small_parts(), EXAMPLE_INPUTS: saved},
    }


def _renamed(old: str, new: str) -> dict[str, bytes]:
    """The small program with a name replaced wherever it stands."""
    quoted, parts = (json.dumps(old), json.dumps(new)), small_parts()
    return {part: parts[part].replace(quoted[0].encode(), quoted[1].encode()) for part in parts}


def of_older_torch(mark: Path, path: Path) -> Path:
    """An archive of torch 2.7, whose reader is still there."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.8")
        archive.writestr("serialized_exported_program.json", small_parts()[PROGRAM])
        for part in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{part}.pt", as_torch_saves(mark))
    return path
