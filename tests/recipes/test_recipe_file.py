"""recipe.toml: written by a run, changed by people, read back."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from onestage.errors import UserError
from onestage.recipes import RECIPES, as_toml, named_recipe
from onestage.training.recipe import Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_its_file_as_it_was(name: str, tmp_path: Path) -> None:
    recipe = named_recipe(name)
    (tmp_path / "recipe.toml").write_text(as_toml(recipe))
    assert named_recipe(str(tmp_path / "recipe.toml")) == recipe


def test_a_file_with_odd_values_comes_back_too(tmp_path: Path) -> None:
    recipe = Recipe(
        detector="retinanet-tf_efficientnet_lite0",
        minutes=1.5,
        frozen=('a"b', "ü\\n"),
        learning_rate_factors=(("head.", 0.1),),
        gradient_clip=5.0,
    )
    recipe = replace(recipe, postprocessing=recipe.postprocessing.changed(nms="soft", iou_threshold=0.6))
    recipe = replace(recipe, postprocessing=replace(recipe.postprocessing, max_detections=None))
    (tmp_path / "r.toml").write_text(as_toml(recipe))
    assert named_recipe(str(tmp_path / "r.toml")) == recipe


def test_each_setting_stands_beside_its_help() -> None:
    lines = as_toml(named_recipe("ssd300-voc0712")).splitlines()
    assert "batch_size = 32  # Images a step, over all ranks" in lines
    assert "# gradient_clip = none  # Largest norm of the whole gradient" in lines
    assert "max = 4.0  # Largest side of the canvas, in sides of the image" in lines


def test_a_short_file_takes_the_rest_from_its_detector(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(
        'detector = "m2det320-vgg16"\nsteps = 5\n[network]\nsfam = true\n[augmentation.flip]\nprobability = 0\n'
    )
    recipe = named_recipe(str(path))
    assert recipe.steps == 5
    assert recipe.network == replace(Recipe(detector="m2det320-vgg16").network, sfam=True)
    assert recipe.postprocessing.nms == "soft-linear"  # M2Det's
    assert recipe.augmentation.as_dict()["flip"]["probability"] == 0


def test_edges_in_a_file_mean_that_images_keep_their_proportions(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('detector = "retinanet-test_resnet"\nsteps = 5\n[network]\nedges = [200, 320]\n')
    assert str(named_recipe(str(path)).network.input_resize).startswith("shorter side 200, longer at most 320")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch = 3", "r.toml: unknown setting 'batch'; expected detector, epochs, steps"),
        ("batch_size = 2.5", "r.toml: batch_size is 2.5; expected a whole number"),
        ("batch_size = 0", "batch_size is 0; expected a number above 0"),
        ("epochs = 3\nsteps = 4", "epochs and steps are both set"),
        ('optimizer = "adam"', "r.toml: optimizer is 'adam'; expected 'sgd' or 'adamw'"),
        ('detector = "ssd301-vgg16"', "detector 'ssd301-vgg16': unknown; the nearest are ssd300-vgg16"),
        ("[network]\nsfam = true", "r.toml, [network]: sfam: SSD has no such setting; it has anchor_sizes"),
        ("[network]\nanchor_sizes = [1, 2]", "anchor sizes 1, 2: expected 7 positive numbers"),
        ("network = 3", "r.toml: network is 3; expected a table [network]"),
        ("[augmentation.expand]\nmaximum = 3", "maximum"),
        ("[augmentation.rotate]\ndegrees = 3", "rotate"),
        ("[postprocessing]\niou_threshold = 45", "iou_threshold is 45.0; expected 0 to 1"),
        ("batch_size = ", "r.toml: not a TOML file"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError) as error:
        named_recipe(str(tmp_path / "r.toml"))
    assert message in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.toml: the recipe can't be read \(No such file"):
        named_recipe(str(tmp_path / "gone.toml"))


def test_what_is_written_is_toml() -> None:
    assert tomllib.loads(as_toml(Recipe(steps=1)))["network"]["image_size"] == 300


def test_byte_order_marks_are_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('detector = "ssd300-vgg16"\nepochs = 3\n', encoding="utf-8-sig")
    assert named_recipe(str(tmp_path / "r.toml")).epochs == 3


def test_a_file_without_a_detector_is_of_the_one_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("learning_rate = 0.5\nsteps = 3\n")
    recipe = named_recipe(str(tmp_path / "r.toml"), "gfl-test_resnet")
    assert (recipe.detector, type(recipe.network).__name__, recipe.learning_rate) == (
        "gfl-test_resnet",
        "GFLConfig",
        0.5,
    )
    with pytest.raises(UserError, match=r"r\.toml: it names no detector; write detector = \"NAME\" into it, or give"):
        named_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("name", ["run", "run/recipe.json"])
def test_of_a_run_the_toml_file_is_asked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").touch()
    with pytest.raises(UserError, match=f"{name}: expected a TOML file, as a run has it: {tmp_path}/run/recipe.toml$"):
        named_recipe(str(tmp_path / name))
