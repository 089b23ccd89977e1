"""Files of strangers are refused before an engine sees them (case `evil-onnx`)."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from exported_files import HEADER, external, small_model, write
from hypothesis import given
from hypothesis import strategies as st
from onnx import StringStringEntryProto, TensorProto, helper

from onestage.errors import UserError
from onestage.runtime.exported_file import METADATA_KEY, read_exported
from onestage.runtime.tiles import Tiling


def test_a_file_of_ours_says_its_classes(tmp_path: Path) -> None:
    file = read_exported(write(tmp_path / "m.onnx", small_model()))
    assert file.names == ("cat", "dog")
    assert file.source_ids == (3, 7)
    assert file.header["detector"] == "ssd300-vgg16"


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "hard", "weights.bin"])
def test_evil_onnx_with_weights_in_another_file_is_refused_wherever_it_lies(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.link(tmp_path / "weights.bin", tmp_path / "hard")
    path = write(tmp_path / "m.onnx", small_model(initializers=[external(location)]))
    with pytest.raises(UserError, match=r"m\.onnx: a weight lies in another file"):
        read_exported(path)


def test_evil_onnx_with_weights_in_another_file_is_found_out_in_attributes_and_inner_graphs(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("../secret"))
    inner = helper.make_graph([], "inner", [], [], [external("../secret")])
    branches = helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)
    for node in (constant, branches):
        with pytest.raises(UserError, match="another file"):
            read_exported(write(tmp_path / "m.onnx", small_model([node])))
    sparse = small_model()
    sparse.graph.sparse_initializer.add().values.CopyFrom(external("../secret"))
    with pytest.raises(UserError, match="another file"):
        read_exported(write(tmp_path / "m.onnx", sparse))


def test_evil_onnx_with_custom_operators_is_refused_in_inner_graphs_too(tmp_path: Path) -> None:
    custom = helper.make_node("RunShell", ["x"], ["z"], domain="evil.ops")
    inner = helper.make_graph([custom], "inner", [], [])
    for node in (custom, helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)):
        with pytest.raises(UserError, match=r"RunShell of the domain 'evil\.ops' is not of the ONNX standard"):
            read_exported(write(tmp_path / "m.onnx", small_model([node])))
    imports = small_model()
    imports.opset_import.append(helper.make_opsetid("evil.ops", 1))
    with pytest.raises(UserError, match=r"operators of the domain 'evil\.ops'"):
        read_exported(write(tmp_path / "m.onnx", imports))


def with_graph(graph: bytes) -> bytes:
    """A whole file around the bytes of a graph, with a header that names their SHA-256."""
    digest = hashlib.sha256(graph).hexdigest()
    entry = StringStringEntryProto(key=METADATA_KEY, value=json.dumps({**HEADER, "sha256": digest}))
    return field(7, graph) + field(14, entry.SerializeToString())


def field(number: int, content: bytes, key_bits: int = 0) -> bytes:
    """A field of protobuf with a length below 2^14, written by hand: the key may have bits beyond the 32nd."""
    key, parts = number << 3 | 2 | key_bits, bytearray()
    for rest in (key, len(content)):
        while rest > 0x7F:
            parts.append(rest & 0x7F | 0x80)
            rest >>= 7
        parts.append(rest)
    return bytes(parts) + content


def test_evil_onnx_cannot_hide_a_domain_behind_a_second_one(tmp_path: Path) -> None:
    node = helper.make_node("RunShell", ["x"], ["z"], domain="evil.ops").SerializeToString()
    for second in (field(7, b""), bytes([7 << 3, 0])):  # an empty one; one of another kind, which readers pass over
        (tmp_path / "m.onnx").write_bytes(with_graph(field(1, node + second)))
        with pytest.raises(UserError, match=r"domain 'evil\.ops'"):
            read_exported(tmp_path / "m.onnx")


def test_evil_onnx_cannot_hide_a_field_by_a_number_that_readers_cut(tmp_path: Path) -> None:
    node = helper.make_node("RunShell", ["x"], ["z"], domain="evil.ops").SerializeToString()
    (tmp_path / "m.onnx").write_bytes(with_graph(field(1, node, key_bits=1 << 32)))
    with pytest.raises(UserError, match="damaged"):
        read_exported(tmp_path / "m.onnx")


def test_evil_onnx_with_functions_or_training_graphs_is_refused(tmp_path: Path) -> None:
    function = helper.make_function("f", "F", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    with pytest.raises(UserError, match="holds a function"):
        read_exported(write(tmp_path / "m.onnx", small_model(functions=[function])))
    training = small_model()
    training.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], []))
    with pytest.raises(UserError, match="holds a training"):
        read_exported(write(tmp_path / "m.onnx", training))


def test_evil_onnx_whose_graph_was_changed_is_refused(tmp_path: Path) -> None:
    model = small_model(initializers=[helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])])
    write(tmp_path / "m.onnx", model)
    model.graph.initializer[0].float_data[0] = 2.0
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="was changed after its export"):
        read_exported(tmp_path / "m.onnx")


def test_a_strangers_file_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UserError, match="no such file"):
        read_exported(path)
    path.write_bytes(small_model().SerializeToString())
    with pytest.raises(UserError, match="not exported by onestage"):
        read_exported(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="no ONNX file, or a damaged one"):
        read_exported(path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", 99, "export format 99; this version reads 1"),
        ("categories", {"names": [], "source_ids": []}, "its header is damaged"),
        ("categories", {"names": ["a", "a"], "source_ids": [0, 1]}, "its header is damaged"),
        ("categories", {"names": ["a"], "source_ids": ["x"]}, "its header is damaged"),
        ("categories", 5, "its header is damaged"),
        ("selection", [], "its header is damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, entry: str, value: object, message: str) -> None:
    path = write(tmp_path / "m.onnx", small_model(), {**HEADER, entry: value})
    with pytest.raises(UserError, match=message):
        read_exported(path)


def test_graphs_within_graphs_without_end_are_refused(tmp_path: Path) -> None:
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(15):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["z"], then_branch=inner)], "inner", [], [])
    path = write(tmp_path / "m.onnx", small_model([helper.make_node("If", ["x"], ["z"], then_branch=inner)]))
    with pytest.raises(UserError, match="damaged"):
        read_exported(path)


@given(data=st.data())
def test_damage_gives_one_line_in_under_a_second(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "m.onnx"
    whole = write(path, small_model(initializers=[helper.make_tensor("w", TensorProto.FLOAT, [64], [0.5] * 64)]))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    said, started = "", time.perf_counter()
    try:
        read_exported(path)
    except UserError as error:  # anything else fails the test
        said = str(error)
    assert "\n" not in said
    assert time.perf_counter() - started < 1


def test_tiles_and_what_merges_them_are_read_from_the_header_or_refused(tmp_path: Path) -> None:
    selection = {"score_threshold": 0.5, "iou_threshold": 0.45, "class_agnostic": False}
    tiling = {"side": 300, "overlap": 40, "whole": True}
    file = read_exported(
        write(tmp_path / "m.onnx", small_model(), {**HEADER, "tiling": tiling, "selection": selection})
    )
    assert (file.tiling, file.merging) == (Tiling(300, 40, whole=True), (0.45, False))
    older = read_exported(write(tmp_path / "older.onnx", small_model()))
    assert older.tiling is None
    with pytest.raises(UserError, match="the selection in its header is damaged"):
        _ = older.merging
    for damaged in (300, {"side": 300}, {**tiling, "side": 3}):
        path = write(tmp_path / "damaged.onnx", small_model(), {**HEADER, "tiling": damaged})
        with pytest.raises(UserError):
            _ = read_exported(path).tiling
