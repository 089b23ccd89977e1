import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nasty_names import NASTY_NAMES, NO_UTF_8
from safetensors.torch import save_file

from onestage.detectors import build, detector_config
from onestage.errors import UserError
from onestage.models.model_file import is_model_file, load_model, read_tensors, save_model, write_tensors
from onestage.structures import Categories

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(True)}


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS, {"step": 7})
    tensors, header = read_tensors(tmp_path / "x.safetensors")
    assert header["step"] == 7
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_channels_last_tensor_is_written_by_its_values(tmp_path: Path) -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    write_tensors(tmp_path / "x.safetensors", {"w": weight}, {})
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")[0]["w"], weight)


@pytest.mark.parametrize("offset", [8, 60, -1])
def test_torn_a_flipped_bit_is_noticed(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"step": 7})
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_tensors(path)


def test_torn_a_cut_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_tensors(path)


def test_a_model_file_may_be_read_by_whom_other_files_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors(tmp_path / "x.safetensors", TENSORS, {})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"step": 7})

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onestage.models.model_file.save_file", full)
    with pytest.raises(UserError, match=r"x\.safetensors: can't be written \(No space left on device\); [\d,]+ bytes"):
        write_tensors(path, TENSORS, {"step": 8})
    assert read_tensors(path)[1]["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_model_file_describes_itself(tmp_path: Path) -> None:
    sizes = (20.0, 40.0, 80.0, 120.0, 160.0, 200.0, 240.0)
    config = detector_config("ssd300-test_efficientnet").adjusted({"anchor_sizes": sizes})
    detector = build("ssd300-test_efficientnet", 2, config=config)
    detector.set_normalization((1, 2, 3), (4, 5, 6))
    categories = Categories(("cat", "dog"), (17, 18))
    save_model(tmp_path / "m.safetensors", detector, categories, map_area=0.5)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.categories == categories
    assert loaded.header["map_area"] == 0.5
    assert not loaded.detector.training
    images = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8)
    with torch.no_grad():
        before, after = detector.eval()(images), loaded.detector(images)
    assert torch.equal(before.class_logits, after.class_logits)
    assert torch.equal(detector.anchors_cxcywh((300, 300)), loaded.detector.anchors_cxcywh((300, 300)))


def test_what_is_not_a_model_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        load_model(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match=r": no run folder \(no model\.safetensors\); give the folder of a run"):
        load_model(tmp_path)  # data in the place of a model, for instance
    save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="onestage import"):
        load_model(tmp_path / "foreign.safetensors")
    write_tensors(tmp_path / "checkpoint.safetensors", TENSORS, {})
    with pytest.raises(UserError, match="not a onestage model file"):
        load_model(tmp_path / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a small model's file."""
    path = tmp_path_factory.mktemp("small") / "m.safetensors"
    save_model(path, build("ssd300-test_efficientnet", 2), Categories.from_names(["cat", "dog"]))
    return read_tensors(path)


Small = tuple[dict[str, torch.Tensor], dict[str, Any]]


@pytest.mark.parametrize(
    "odd",
    [
        *(None, [], "x", {}, {"names": None, "source_ids": None}, {"names": [], "source_ids": []}),
        *({"names": ["a", "a"], "source_ids": [0, 1]}, {"names": ["a", "b"], "source_ids": [0, 0]}),
        *({"names": [[], {}], "source_ids": [0, 1]}, {"names": ["a", "b"], "source_ids": [0, True]}),
        *({"names": ["a", "b"], "source_ids": [0]}, {"names": "ab", "source_ids": [0, 1]}),
    ],
)
def test_model_header_categories_that_are_none_are_refused_in_one_line(small: Small, tmp_path: Path, odd: Any) -> None:
    tensors, header = small
    write_tensors(tmp_path / "odd.safetensors", tensors, {**header, "categories": odd})
    with pytest.raises(UserError, match=r"^[^\n]*odd\.safetensors: [^\n]*categories[^\n]*$"):
        load_model(tmp_path / "odd.safetensors")


def test_model_header_categories_of_another_number_than_the_networks_are_refused(small: Small, tmp_path: Path) -> None:
    tensors, header = small
    write_tensors(tmp_path / "odd.safetensors", tensors, {**header, "categories": {"names": ["a"], "source_ids": [0]}})
    with pytest.raises(UserError, match=r"odd\.safetensors: 1 class names for a network of 2"):
        load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("place", "odd"),
    [
        *(((), None), ((), []), (("name",), 5), (("name",), []), (("num_classes",), "x"), (("num_classes",), -1)),
        *((("normalization",), None), (("normalization", "mean"), [None] * 3), (("normalization", "std"), "abc")),
        *((("normalization", "mean", 0), math.nan), (("settings",), "x"), (("settings", "strides", 0), None)),
        *((("settings", "image_size"), 10**30), (("settings", "anchor_sizes", 0), math.nan)),
        *((("settings", "aspect_ratios", 0, 0), -1.0), (("settings", "extras", 0, "stride"), 0)),
        *((("settings", "extras", 2, "stride"), -1), (("settings", "extras", 0, "channels"), -1)),
        *((("settings", "subnet_depth"), 3), (("settings", "variances", 0), math.inf)),
        *((("selection", "candidates_per_class"), 0), (("selection", "sigma"), 0.0), (("selection", "nms"), [])),
    ],
)
def test_model_header_settings_that_make_no_network_are_refused_in_one_line(
    small: Small, tmp_path: Path, place: tuple[str | int, ...], odd: Any
) -> None:
    tensors, header = small
    header = copy.deepcopy(header)
    at: Any = header
    *way, last = ("config", *place)
    for key in way:
        at = at[key]
    at[last] = odd
    write_tensors(tmp_path / "odd.safetensors", tensors, header)
    with pytest.raises(UserError, match=r"^[^\n]*odd\.safetensors: [^\n]+$"):
        load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_model_weights_not_finite_are_refused_at_load(small: Small, tmp_path: Path, value: float) -> None:
    tensors, header = small
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    weight = tensors[name].clone()
    weight[0, 0, 0, 0] = value
    write_tensors(tmp_path / "odd.safetensors", {**tensors, name: weight}, header)
    with pytest.raises(UserError, match=rf"odd\.safetensors: {name} holds NaN or infinite values"):
        load_model(tmp_path / "odd.safetensors")


def test_a_header_that_asks_for_a_huge_network_is_refused_before_memory_is_taken_for_it(tmp_path: Path) -> None:
    detector = build("ssd300-test_efficientnet", 2)
    save_model(tmp_path / "m.safetensors", detector, Categories.from_names(["cat", "dog"]))
    tensors, header = read_tensors(tmp_path / "m.safetensors")
    header["config"]["settings"]["extras"][0]["channels"] = 2_000_000  # a 3x3 convolution to it would be 18 GB
    write_tensors(tmp_path / "huge.safetensors", tensors, header)
    with pytest.raises(UserError, match="the weights do not fit the network it names"):
        load_model(tmp_path / "huge.safetensors")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m", "m.SAFETENSORS"])
def test_a_model_file_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / name, TENSORS, {})
    assert is_model_file(tmp_path / name)
    save_file(TENSORS, tmp_path / name)
    assert not is_model_file(tmp_path / name)


@pytest.mark.parametrize("part", ["checkpoint", "checkpoint/training.safetensors", "checkpoint/previous.safetensors"])
def test_the_state_of_a_training_names_its_run_folder(part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"keeps the state of a training, not a model; give the run folder, {tmp_path}"):
        load_model(tmp_path / part)


def test_nasty_names_a_file_whose_name_is_no_utf_8_comes_back(tmp_path: Path) -> None:
    path = tmp_path / f"{NO_UTF_8}.safetensors"
    write_tensors(path, TENSORS, {"step": 7})
    tensors, header = read_tensors(path)
    assert header["step"] == 7
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_nasty_names_no_class_holds_half_a_character() -> None:
    with pytest.raises(UserError, match=r"'a\\ud83d' holds half a character, which can't be written; rename it"):
        Categories.from_names(["cat", "a\ud83d"])
    assert Categories.from_names(NASTY_NAMES).names == NASTY_NAMES
